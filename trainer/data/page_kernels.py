"""Compiled loops that read Parquet pages: headers, run-length levels, byte planes. See `pages.py` for what calls them.

Plain arrays in and out, the GIL released, compiled code cached on disk by numba. Loops over what a file says are
bounds-checked (an IndexError, not a crash); those over symbols check once, before they begin.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]

PAGE_FIELDS = 8
"""Columns of `page_headers`: page type, size decoded, values, their encoding, those of the definition and repetition
levels, begin and end of the stored bytes."""

_INTEGERS, _LONGEST_NESTING = (4, 5, 6), 8  # compact Thrift's i16, i32, i64

_checked = numba.njit(cache=True, nogil=True, boundscheck=True)


@_checked
def _varint(data: Bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and the place after it."""
    value: Any = np.int64(0)
    shift: Any = np.int64(0)
    while shift < 63:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise IndexError("a number has too many bytes")


@_checked
def page_headers(chunk: Bytes) -> Int64s:
    """Where the pages of a column chunk lie, int64 [pages, PAGE_FIELDS]; -1 for what a header does not say.

    Headers are structures of the compact Thrift protocol; only integers are of interest.

    Raises:
        IndexError: they are not, or have lists.
    """
    found = np.full((4, PAGE_FIELDS), -1, np.int64)
    pages = 0
    at: Any = np.int64(0)
    fields = np.zeros(_LONGEST_NESTING, np.int64)  # number of the last field at each depth
    while at < len(chunk):
        if pages == len(found):
            more = np.full((2 * pages, PAGE_FIELDS), -1, np.int64)
            more[:pages] = found
            found = more
        depth = 0
        stored: Any = np.int64(-1)
        fields[0] = 0
        while True:
            byte = np.int64(chunk[at])
            at += 1
            if byte == 0:  # end of a structure
                if depth == 0:
                    break
                depth -= 1
                continue
            kind, delta = byte & 15, byte >> 4
            if delta:
                fields[depth] += delta
            else:
                number, at = _varint(chunk, at)
                fields[depth] = number >> 1
            if kind in _INTEGERS:
                number, at = _varint(chunk, at)
                value = (number >> 1) ^ -(number & 1)
                if depth == 0:
                    if fields[0] == 1:
                        found[pages, 0] = value
                    elif fields[0] == 2:
                        found[pages, 1] = value
                    elif fields[0] == 3:
                        stored = value
                elif depth == 1 and fields[0] in (5, 7) and 1 <= fields[1] <= 4:  # of a data or a dictionary page
                    found[pages, 1 + fields[1]] = value
            elif kind == 12:  # a structure
                depth += 1
                fields[depth] = 0
            elif kind == 8:  # bytes
                number, at = _varint(chunk, at)
                at += number
            elif kind > 2:  # 1 and 2 are true and false, which take no bytes
                raise IndexError("a field of a kind that page headers do not have")
        if stored < 0 or at + stored > len(chunk):
            raise IndexError("a page ends outside of its column chunk")
        if found[pages, 1] < 0 or found[pages, 2] < 0:
            raise IndexError("a page without a size or a number of values")
        found[pages, 6], found[pages, 7] = at, at + stored
        at += stored
        pages += 1
    return found[:pages]


@_checked
def unusual(data: Bytes, at: int, stop: int, width: int, count: int, usual: int) -> tuple[Int64s, Int64s]:
    """Places and values, int64 each, where a run-length coded sequence is not `usual`; -1 asks for all.

    Cost: O(runs) where values are usual.

    Args:
        data: the coded sequence is [at, stop).
        at: see there.
        stop: see there.
        width: bits of a value, 0 to 32.
        count: values of the sequence.
        usual: the value to leave out.

    Raises:
        IndexError: the sequence is shorter.
    """
    size = (width + 7) // 8
    places, values = np.empty(64, np.int64), np.empty(64, np.int64)
    found = 0
    done: Any = np.int64(0)
    while done < count:
        head, at = _varint(data, at)
        if head & 1:  # groups of eight values, packed
            number: Any = min(8 * (head >> 1), count - done)
            if at + (head >> 1) * width > stop:
                raise IndexError("levels end early")
            places, values = _with_room(places, values, found + number)
            for index in range(number):
                bit = index * width
                value: Any = np.int64(0)
                for k in range((bit & 7) + width + 7 >> 3):
                    value |= np.int64(data[at + (bit >> 3) + k]) << (8 * k)
                value = (value >> (bit & 7)) & ((1 << width) - 1)
                if value != usual:
                    places[found], values[found] = done + index, value
                    found += 1
            at += (head >> 1) * width
        else:
            number = min(head >> 1, count - done)
            value = np.int64(0)
            for k in range(size):
                value |= np.int64(data[at + k]) << (8 * k)
            at += size
            if value != usual:
                places, values = _with_room(places, values, found + number)
                for index in range(number):
                    places[found + index], values[found + index] = done + index, value
                found += number
        if number == 0 or at > stop:
            raise IndexError("levels end early")
        done += number
    return places[:found], values[:found]


@_checked
def _with_room(places: Int64s, values: Int64s, size: int) -> tuple[Int64s, Int64s]:
    """The same, with room for so many."""
    if size <= len(places):
        return places, values
    longer = np.empty((2, max(size, 2 * len(places))), np.int64)
    longer[0, : len(places)], longer[1, : len(values)] = places, values
    return longer[0], longer[1]


@_checked
def list_bounds(firsts: Int64s, lacking: Int64s, levels: int) -> Int64s:
    """Offsets of lists in their elements, int64 [rows + 1].

    Args:
        firsts: int64 [rows], the place among the levels where each list begins.
        lacking: places, in order, of levels without an element: empty lists.
        levels: number of them.
    """
    bounds = np.empty(len(firsts) + 1, np.int64)
    before = 0
    for row in range(len(firsts)):
        while before < len(lacking) and lacking[before] < firsts[row]:
            before += 1
        bounds[row] = firsts[row] - before
    bounds[len(firsts)] = levels - len(lacking)
    return bounds


@_checked
def binary_bounds(page: Bytes, rows: int) -> Int64s:
    """Begin and end of each byte string of a plainly encoded page, int64 [2, rows].

    Raises:
        IndexError: it does not hold them exactly.
    """
    bounds = np.empty((2, rows), np.int64)
    at = np.int64(0)
    for row in range(rows):
        length = np.int64(0)
        for k in range(4):
            length |= np.int64(page[at + k]) << (8 * k)
        bounds[0, row], bounds[1, row] = at + 4, at + 4 + length
        at += 4 + length
    if at != len(page):
        raise IndexError("byte strings end elsewhere than their page")
    return bounds


@numba.njit(cache=True, nogil=True)
def join_planes(planes: Bytes, out: npt.NDArray[Any]) -> int:
    """Put numbers together from four byte planes; the largest, 0 of none.

    Args:
        planes: uint8 [4 n]: the lowest byte of each number, then the second of each, and so on.
        out: int32 or uint16 [n]; numbers that it cannot hold are cut, but the largest is told uncut.
    """
    count = len(out)
    if len(planes) != 4 * count:
        raise IndexError("byte planes of another length")
    low, second, third, high = planes[:count], planes[count:], planes[2 * count :], planes[3 * count :]
    largest: Any = np.uint32(0)
    for index in range(count):
        value = (
            np.uint32(low[index])
            | np.uint32(second[index]) << np.uint32(8)
            | np.uint32(third[index]) << np.uint32(16)
            | np.uint32(high[index]) << np.uint32(24)
        )
        largest = max(largest, value)
        out[index] = value
    return int(largest)
