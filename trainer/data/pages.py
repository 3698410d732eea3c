"""Column chunks to numpy arrays, for the kinds of pages that this project's shards have.

In: the stored bytes of one column chunk. Out: numbers, byte strings or lists. About twice as fast as Arrow's reader,
which sets up a decompressor for each page and takes lists level by level; and since a chunk is handed in alone, nothing
outside of it can be read. What other writers may do (other encodings, codecs, pages of version 2, nullable elements) is
`UnusualPageError`; then Arrow's reader does it, see `parquet.py`.
"""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from trainer.data.page_kernels import binary_bounds, join_planes, list_bounds, page_headers, unusual
from trainer.data.rows import Column

_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_VALUES = 2  # column of `page_headers`
_PLAIN, _LEVELS, _PLANES, _INDICES = 0, 3, 9, 8  # RLE, BYTE_STREAM_SPLIT, RLE_DICTIONARY
_DEFINITION_BITS, _REPETITION_BITS = 2, 1  # of nullable lists of elements that are not
_ELEMENT, _EMPTY = 2, 1  # definition levels; 0 is a null list
_SAME_LIST = 1  # repetition level


class _Decompressor(threading.local):
    """One of a thread's own, kept: Arrow's makes its tables anew for each page, 8 microseconds of them."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_DECOMPRESSOR = _Decompressor()


class UnusualPageError(ValueError):
    """A page of another kind than this project writes."""


class _Page(NamedTuple):
    kind: int
    encoding: int
    levels: tuple[int, int]
    values: int
    data: npt.NDArray[np.uint8]


def numbers(chunk: memoryview, kind: type[np.generic]) -> npt.NDArray[Any]:
    """Numbers that are never null, plainly encoded, as [rows] of this type of 4 or 8 bytes.

    Raises:
        UnusualPageError: they are stored otherwise.
    """
    parts = [page.data.view(kind) for page in _data_pages(chunk, _PLAIN)]
    return _joined(parts)


def byte_strings(chunk: memoryview) -> Column:
    """Byte strings that are never null, plainly encoded; values uint8.

    Raises:
        UnusualPageError: they are stored otherwise.
    """
    parts = [(page.data, binary_bounds(page.data, page.values)) for page in _data_pages(chunk, _PLAIN)]
    ends = np.cumsum([0, *(len(data) for data, _ in parts)])
    bounds = _joined([part + end for (_, part), end in zip(parts, ends, strict=False)], axis=1)
    return Column(_joined([data for data, _ in parts]), bounds[0], bounds[1])


def dictionary_strings(chunk: memoryview) -> list[str]:
    """Texts that are never null, dictionary-encoded.

    Raises:
        UnusualPageError: they are stored otherwise.
    """
    pages = _pages(chunk)
    first = next(pages, None)
    if first is None or first.kind != _DICTIONARY_PAGE or first.encoding != _PLAIN:
        raise UnusualPageError("no dictionary")
    words = _texts(first)
    found: list[str] = []
    for page in pages:
        _expect(page, _INDICES)
        width = int(page.data[0])
        if width > 32:
            raise UnusualPageError(f"indices of {width} bits")
        _, indices = unusual(page.data, 1, len(page.data), width, page.values, -1)
        found += [words[index] for index in indices.tolist()]
    return found


def lists(chunk: memoryview, kind: type[np.generic]) -> Column | None:
    """Nullable lists of numbers stored as byte planes; values of this type, int32 or uint16.

    Returns:
        None if every list is null.

    Raises:
        UnusualPageError: they are stored otherwise, or some are null.
    """
    levels = sum(header[_VALUES] for header in _headers(chunk))
    out = np.empty(levels, kind)
    firsts, lacking, nulls = [], [], 0
    base = elements = largest = 0
    for page in _data_pages(chunk, _PLANES):
        if page.levels != (_LEVELS, _LEVELS):
            raise UnusualPageError("levels that are not run-length coded")
        rows, _, at = _levels(page, 0, _REPETITION_BITS, _SAME_LIST)
        without, values, at = _levels(page, at, _DEFINITION_BITS, _ELEMENT)
        nulls += len(values) - int(np.count_nonzero(values == _EMPTY)) if len(values) else 0
        count = page.values - len(without)
        largest = max(largest, join_planes(page.data[at:], out[elements : elements + count]))
        firsts.append(rows + base if base else rows)
        lacking.append(without + base if base else without)
        base, elements = base + page.values, elements + count
    if kind is np.uint16 and largest > np.iinfo(np.uint16).max:
        raise UnusualPageError(f"{largest} in a list of uint16")
    rows = _joined(firsts)
    if nulls:
        if nulls == levels:
            return None
        raise UnusualPageError(f"{nulls} null lists of {len(rows)}")
    bounds = list_bounds(rows, _joined(lacking), levels)
    return Column(out[:elements], bounds[:-1], bounds[1:], largest)


def _levels(page: _Page, at: int, width: int, usual: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Places and values of the levels that are not the usual one, and the place after them all."""
    stop = at + 4 + int.from_bytes(page.data[at : at + 4], "little")
    places, values = unusual(page.data, at + 4, stop, width, page.values, usual)
    return places, values, stop


def _texts(page: _Page) -> list[str]:
    begins, ends = binary_bounds(page.data, page.values).tolist()
    data = page.data.tobytes()
    return [data[begin:end].decode() for begin, end in zip(begins, ends, strict=True)]


def _data_pages(chunk: memoryview, encoding: int) -> Iterator[_Page]:
    for page in _pages(chunk):
        _expect(page, encoding)
        yield page


def _expect(page: _Page, encoding: int) -> None:
    if page.kind != _DATA_PAGE or page.encoding != encoding:
        raise UnusualPageError(f"page of type {page.kind} and encoding {page.encoding}")


def _pages(chunk: memoryview) -> Iterator[_Page]:
    """The pages of a chunk, decompressed one after another."""
    zstd = _DECOMPRESSOR.zstd
    for kind, size, count, encoding, definition, repetition, start, stop in _headers(chunk):
        if kind not in (_DATA_PAGE, _DICTIONARY_PAGE):
            raise UnusualPageError(f"page of type {kind}")
        stored = chunk[start:stop]
        try:
            found = zstandard.frame_content_size(stored)  # so many are made room for, so they are compared before
            if found != size:
                raise UnusualPageError(f"{found} bytes where {size} were expected")
            data = zstd.decompress(stored)
        except zstandard.ZstdError as error:
            raise UnusualPageError(str(error)) from None
        yield _Page(kind, encoding, (definition, repetition), count, np.frombuffer(data, np.uint8))


def _headers(chunk: memoryview) -> list[list[int]]:
    """What `page_headers` finds."""
    try:
        found: list[list[int]] = page_headers(np.frombuffer(chunk, np.uint8)).tolist()
    except IndexError as error:
        raise UnusualPageError(str(error)) from None
    return found


def _joined(parts: list[npt.NDArray[Any]], axis: int = 0) -> npt.NDArray[Any]:
    """One array of those of the pages, without a copy of a single one."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)
