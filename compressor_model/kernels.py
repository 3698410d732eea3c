"""Compiled loops of the codebook coder. Importing this module imports numba; `encoder.py` does so on first use.

Plain arrays in and out, no Python objects, the GIL released. Compiled code is cached on disk by numba, so only
the first process of an installation pays the second that compiling takes. `tests/` hold the plain twins.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
ONE = np.uint64(1)

compiled = numba.njit(cache=True, nogil=True, boundscheck=False)


@compiled
def build_cells(parents: Array, last: Array, order: Array, first: Array, base: Array, cells: Array, empty: int) -> int:
    """Lay the edges (parent, byte) -> child into one array: cells[base[parent] + byte] = parent << 16 | child.

    Row displacement, first fit: a child is found with one look-up, and all edges lie in about 4 bytes each, so
    that the walk stays in the L2 cache (a dense table would take 67 MB).

    Args:
        parents: int32 [n], parent of each codeword (-1: the root, not stored here).
        last: uint8 [n].
        order: int64 [m], codewords that have a parent, grouped by parent.
        first: int64 [p + 1], bounds of the groups in `order`, largest groups first. Groups of one size are
            sought from where the last of that size was put: nearly as dense as first fit, and linear.
        base: int32 [n], out, filled with 0, which stays for leaves: at least 256 cells are used.
        cells: uint32 [c], out, filled with `empty`.
        empty: a parent << 16 that no node has children under.

    Returns:
        Number of cells used, or -1 if `cells` was too short.
    """
    start, used, at, size = np.int64(0), np.int64(256), np.int64(0), 0
    for g in range(len(first) - 1):
        group = order[first[g] : first[g + 1]]
        lowest = np.int64(last[group[0]])
        while cells[start] != empty:
            start += 1
        if len(group) != size:
            size, at = len(group), np.int64(0)
        at = max(at, start - lowest)
        while True:
            if at + 256 >= len(cells):
                return -1
            fits = True
            for child in group:
                if cells[at + last[child]] != empty:
                    fits = False
                    break
            if fits:
                break
            at += 1
        parent = parents[group[0]]
        base[parent] = at
        for child in group:
            cells[at + last[child]] = (np.uint32(parent) << 16) | np.uint32(child)
        used = max(used, at + 256)
    return int(used)


@compiled
def encode(
    data: Array, offsets: Array, starts3: Array, starts2: Array, shift: int, roots: Array, base: Array, cells: Array,
    ids: Array, spans: Array, counts: Array,
) -> int:  # fmt: skip
    """Segment and code documents laid end to end in one pass.

    Args:
        data: uint8 [n].
        offsets: int64 [d + 1], bounds of the documents.
        starts3: uint8 [2^(64 - shift)], by hash of the last 3 bytes: 1 segment starts, 0 not, 2 ask starts2.
        starts2: uint8 [65536], the same by the last 2 bytes, newest in the high byte (0 or 1).
        shift: of the hash.
        roots: uint16 [256], codeword of each single byte.
        base: see `build_cells`.
        cells: see `build_cells`.
        ids: uint32 [n], out: codewords.
        spans: uint16 [n], out: bytes of each.
        counts: int64 [d], out: symbols of each document.

    Returns:
        Symbols written in all.
    """
    out = 0
    for d in range(len(counts)):
        before, begin, end = out, offsets[d], offsets[d + 1]
        if begin == end:
            counts[d] = 0
            continue
        b1, b2, b3 = np.uint64(data[begin]), np.uint64(0), np.uint64(0)
        node, length = np.uint32(roots[data[begin]]), 1
        for i in range(begin + 1, end):
            h = ((b1 + ONE) * np.uint64(257) + b2 + ONE) * np.uint64(257) + b3 + ONE
            begins = starts3[(h * HASH_MULTIPLIER) >> np.uint64(shift)]
            if begins == 2:
                begins = starts2[(b1 << np.uint64(8)) | b2]
            byte = data[i]
            if begins == 0:
                cell = cells[base[node] + byte]
                if cell >> 16 == node:
                    node = cell & np.uint32(0xFFFF)
                    length += 1
                    b3, b2, b1 = b2, b1, np.uint64(byte)
                    continue
            ids[out] = node
            spans[out] = length
            out += 1
            node, length = np.uint32(roots[byte]), 1
            b3, b2, b1 = b2, b1, np.uint64(byte)
        ids[out] = node
        spans[out] = length
        out += 1
        counts[d] = out - before
    return out


@compiled
def concatenate(ids: Array, strings: Array, starts: Array, lengths: Array, out: Array) -> int:
    """Write the strings of `ids` one after another.

    The first 8 bytes are always copied, in one go, whatever the length: what is too much is overwritten by the next
    string. Both `strings` and `out` have 8 bytes to spare at the end.

    Args:
        ids: uint32 [n], each below len(starts).
        strings: uint8, all strings end to end.
        starts: int32 [v], first byte of each.
        lengths: uint16 [v].
        out: uint8, out.

    Returns:
        Bytes written, not counting those to spare.
    """
    at = np.int64(0)
    for i in range(len(ids)):
        begin = np.int64(starts[ids[i]])
        length = np.int64(lengths[ids[i]])
        for k in range(8):
            out[at + k] = strings[begin + k]
        for k in range(8, length):
            out[at + k] = strings[begin + k]
        at += length
    return int(at)


@compiled
def softmax_frequencies(logits: Array, scale: int, exponentials: Array, out: Array) -> None:
    """Integer frequencies of softmax(logits * scale / 2^32 / 256), see `model.quantised_frequencies`.

    Args:
        logits: int32 [n, 256].
        scale: steps of the table per unit of a logit, as a fraction of 2^32.
        exponentials: float64 [m], integers, the last one 0: weight of a logit i steps below the largest.
        out: uint32 [n, 256], out: rows >= 1 that sum to 2^16.
    """
    weights = np.empty(256, np.float64)
    deepest = np.int64(len(exponentials) - 1)
    for row in range(len(logits)):
        values = logits[row]
        largest = np.int64(values[0])
        for b in range(1, 256):
            largest = max(largest, np.int64(values[b]))
        total = 0.0
        for b in range(256):
            steps = ((largest - np.int64(values[b])) * scale + (np.int64(1) << 31)) >> 32
            weights[b] = exponentials[min(steps, deepest)]
            total += weights[b]
        left, best = np.int64(65536), 0
        for b in range(256):
            # exact: integers below 2^45 over one below 2^37, see model._EXP_ONE
            q = np.int64(weights[b] * 65280.0 / total) + 1
            out[row, b] = q
            left -= q
        for b in range(1, 256):
            if out[row, b] > out[row, best]:
                best = b
        out[row, best] += left
