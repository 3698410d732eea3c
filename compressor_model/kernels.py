"""Compiled loops of segmentation and codebook coder. Importing this module imports numba; users do so on first use.

Plain arrays in and out, no Python objects, the GIL released. Compiled code is cached on disk by numba, so only
the first process of an installation pays the seconds that compiling takes. `tests/` hold the plain twins.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HASH_BASE = np.uint64(257)
HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
ZERO = np.uint64(0)
ONE = np.uint64(1)
UNSEEN = np.uint8(255)
NEWLINE = 10
LOW_16 = np.uint64(0xFFFF)
LOW_32 = np.uint64(0xFFFFFFFF)

compiled = numba.njit(cache=True, nogil=True, boundscheck=False)


@compiled
def context_slot(data: Array, begin: int, at: int, order: int, shift: int) -> np.uint64:
    """Hash of the `order` bytes before `at`, without its lower `shift` bits; see `small.context_hashes`.

    Bytes before `begin` count as 0.
    """
    h = ZERO
    for k in range(1, order + 1):
        byte = np.uint64(data[at - k]) if at - k >= begin else ZERO
        h = h * HASH_BASE + byte + ONE
    return (h * HASH_MULTIPLIER) >> np.uint64(shift)


@compiled
def table_entropies(data: Array, offsets: Array, tables: Array, fallback: int, shift: int, out: Array) -> None:
    """Entropy before each byte, by the longest context that was seen.

    The hash of the longest context is a sum of one product a byte, which are independent of each other and of the
    last position's; only contexts that were not seen are hashed anew.

    Args:
        data: uint8 [n].
        offsets: int64 [d + 1], bounds of the documents.
        tables: uint8 [K, 2^(64 - shift)], K = 2, 3 or 4; see `segment.EntropyTable`.
        fallback: entropy where no context was seen.
        shift: of the hash.
        out: uint8 [n], out.
    """
    orders = len(tables)
    longest = tables[orders - 1]
    m1, m2, m3, m4 = HASH_MULTIPLIER, ZERO, ZERO, ZERO
    for _ in range(orders - 1):
        m1, m2, m3, m4 = m1 * HASH_BASE, m1, m2, m3
    constant = m1 + m2 + m3 + m4
    for d in range(len(offsets) - 1):
        begin = offsets[d]
        b1, b2, b3, b4 = ZERO, ZERO, ZERO, ZERO
        for i in range(begin, offsets[d + 1]):
            value = longest[(b1 * m1 + b2 * m2 + b3 * m3 + b4 * m4 + constant) >> np.uint64(shift)]
            order = orders - 1
            while value == UNSEEN and order > 0:
                value = tables[order - 1, context_slot(data, begin, i, order, shift)]
                order -= 1
            out[i] = fallback if value == UNSEEN else value
            b1, b2, b3, b4 = np.uint64(data[i]), b1, b2, b3


@compiled
def sum_by_context(data: Array, offsets: Array, values: Array, shift: int, sums: Array, counts: Array) -> None:
    """Add up a value per byte by each of its contexts.

    Args:
        data: uint8 [n].
        offsets: int64 [d + 1], bounds of the documents.
        values: uint16 [n].
        shift: of the hash.
        sums: int64 [K, 2^(64 - shift)], in and out; row k - 1 by the last k bytes.
        counts: int64, like `sums`.
    """
    for d in range(len(offsets) - 1):
        begin = offsets[d]
        for i in range(begin, offsets[d + 1]):
            for k in range(len(sums)):
                slot = context_slot(data, begin, i, k + 1, shift)
                sums[k, slot] += values[i]
                counts[k, slot] += 1


@compiled
def build_cells(parents: Array, last: Array, order: Array, first: Array, base: Array, cells: Array, empty: int) -> int:
    """Lay the edges (parent, byte) -> child into one array: cells[base[parent] + byte] = parent << 16 | child.

    Row displacement, first fit: a child is found with one look-up, and the rows lie in each other's gaps, about one
    cell an edge, so that the walk stays in the L2 cache (a dense table would take 67 MB).

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
def spell(depth: Array, last: Array, starts: Array, strings: Array) -> None:
    """Write the strings of a codebook: in preorder each has all but its end in common with its predecessor.

    Args:
        depth: uint16 [v], see `codebook.Codebook`.
        last: uint8 [v].
        starts: int32 [v], where each string goes.
        strings: uint8, out.
    """
    path = np.empty(1 << 16, np.uint8)
    for code in range(len(depth)):
        length = np.int64(depth[code])
        path[length - 1] = last[code]
        begin = np.int64(starts[code])
        for k in range(length):
            strings[begin + k] = path[k]


@compiled
def line_end(data: Array, at: int, end: int) -> int:
    """Where the line at `at` gives way to the next: the first byte that is not blank after the next newline."""
    while at < end and data[at] != NEWLINE:
        at += 1
    while at < end and (data[at] == 32 or data[at] == 9 or data[at] == 10 or data[at] == 13):
        at += 1
    return at


@compiled
def walk(
    data: Array, offsets: Array, marks: Array, roots: Array, cells: Array, segment: bool, packed: bool, share: int,
    codes: Array, spans: Array, counts: Array,
) -> int:  # fmt: skip
    """Cut documents laid end to end into windows and code each.

    Args:
        data: uint8 [n].
        offsets: int64 [d + 1], bounds of the documents.
        marks: uint8 [n], not 0 where a segment starts.
        roots: uint64 [256], see `encoder.CodebookCoder`.
        cells: uint64 [c], likewise: one load tells whether there is a child, its codeword and where its own are.
        segment: windows end at marks.
        packed: windows end where lines do; where the walk dies they go back to the last mark passed.
        share: where the walk dies a window may drop the rest of its segment, up to its length over `share`; 0: never.
        codes: uint32 [n], out.
        spans: uint16 [n], out: bytes of each window.
        counts: int64 [d], out: windows of each document.

    Returns:
        Windows in all.
    """
    out = 0
    for d in range(len(counts)):
        before, at, end = out, offsets[d], offsets[d + 1]
        limit = at if packed else end
        while at < end:
            if at == limit:
                limit = line_end(data, at, end)
            start, passed = at, at
            cell = passed_cell = roots[data[at]]
            at += 1
            while at < limit:
                if marks[at]:
                    if segment:
                        break
                    passed, passed_cell = at, cell
                child = cells[(cell & LOW_32) + np.uint64(data[at])]
                if child >> np.uint64(48) == (cell >> np.uint64(32)) & LOW_16:
                    cell = child
                    at += 1
                    continue
                # No child: the walk dies here. Bytes are walked at most twice, since what lies between the mark gone
                # back to and this place has no further mark.
                if share and not marks[at]:
                    stop = at + 1
                    furthest = min(limit, at + (at - start) // share)
                    while stop < furthest and not marks[stop]:
                        stop += 1
                    if stop <= furthest and (stop == limit or marks[stop]):
                        at = stop
                        break
                if packed and passed > start:
                    at, cell = passed, passed_cell
                break
            codes[out] = (cell >> np.uint64(32)) & LOW_16
            spans[out] = at - start
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
def differing(
    ids: Array, first_id: int, counts: Array, spans: Array, share: int, strings: Array, starts: Array, lengths: Array,
    data: Array, offsets: Array, wrong: Array,
) -> None:  # fmt: skip
    """Which documents their views' strings, one after another, are not; nothing is written but the answers.

    Args:
        ids: uint32 [n], views end to end.
        first_id: that of string 0; other ids than those of strings are wrong.
        counts: int64 [d], ids of each document, summing to n.
        spans: uint16 [n], bytes that each id stands for, its string and what was dropped; empty: its string's.
        share: of a string's length that may be dropped: length // share; 0: none.
        strings: uint8, all strings end to end.
        starts: int32 [v], first byte of each.
        lengths: uint16 [v].
        data: uint8, documents end to end.
        offsets: int64 [d + 1], their bounds.
        wrong: bool [d], out.
    """
    first = np.int64(0)
    for d in range(len(counts)):
        at, end, last = offsets[d], offsets[d + 1], first + counts[d]
        bad = False
        for i in range(first, last):
            number = np.int64(ids[i]) - first_id
            if number < 0 or number >= len(starts):
                bad = True
                break
            length = np.int64(lengths[number])
            size = np.int64(spans[i]) if len(spans) else length
            if at + size > end or size < length or size - length > (length // share if share else 0):
                bad = True
                break
            begin = np.int64(starts[number])
            for k in range(length):
                bad |= data[at + k] != strings[begin + k]
            at += size
        wrong[d] = bad or at != end
        first = last


@compiled
def softmax_frequencies(logits: Array, scale: int, exponentials: Array, out: Array) -> None:
    """Integer frequencies of softmax(logits * scale / 2^32 / 256), see `model.softmax_frequencies`.

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
