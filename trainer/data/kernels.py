"""The compiled loop that turns what the packer noted into a batch's arrays: views, docs, positions, labels, weights.

Labels and weights are those of the one loss of the design: with y[t, h] the (h+1)-th next symbol of the same
rendering, m[t, h] = 1 iff it exists, no opener or bos is among the next 1..h+1 symbols, and head h may predict it
(the first P heads everything, the R raw heads only bytes and specials, from raw positions); weights are m / sum_h m.

Plain arrays in and out, the GIL released, compiled code cached on disk by numba. About 1 ns an id with two heads.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from schemas.vocabulary import COMP_OFFSET

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Uint8s = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]


@numba.njit(cache=True, nogil=True)
def spread(
    ids: Int32s, ahead: Int32s, runs: Int64s, docs: Int64s, bars: Int64s, main_heads: int, leave_out_comp: bool
) -> tuple[Int32s, Int32s, Uint8s, Int32s, Float32s, int]:
    """The arrays of a batch; places are counted through all its sequences.

    Args:
        ids: int32 [b, T].
        ahead: int32 [b, H]; what follows each sequence in its last rendering.
        runs: int64 [n, 3], (place, view, number of heads that such positions have) where each run of one view begins.
        docs: int64 [m, 2], (place, number) where each doc begins.
        bars: int64 [k, 3], (place, first, end): no label at `place` or beyond for the positions from `first` on
            before it; `end` is that of their sequence, which may lie before `place`.
        main_heads: P, heads over the full vocabulary.
        leave_out_comp: whether raw heads at raw positions may meet comp symbols, which they must leave out.

    Returns:
        doc, position int32 [b, T], view uint8 [b, T], labels int32 and weights float32 [b, T, H], and the number of
        positions that have a label.
    """
    rows, length = ids.shape
    heads = ahead.shape[1]
    size = rows * length
    view, reach = np.empty(size, np.uint8), np.empty(size, np.uint8)
    for run in range(len(runs)):
        stop = runs[run + 1, 0] if run + 1 < len(runs) else size
        view[runs[run, 0] : stop] = runs[run, 1]
        reach[runs[run, 0] : stop] = runs[run, 2]
    for bar in range(len(bars)):
        place, first, end = bars[bar]
        for before in range(max(first, place - heads), min(place, end)):
            reach[before] = min(np.int64(reach[before]), place - 1 - before)
    doc, position = np.empty(size, np.int32), np.empty(size, np.int32)
    for index in range(len(docs)):
        start = docs[index, 0]
        stop = docs[index + 1, 0] if index + 1 < len(docs) else size
        doc[start:stop] = docs[index, 1]
        for place in range(start, stop):
            position[place] = place - start
    shares = np.zeros((heads + 1, heads), np.float32)  # row n gives each of the first n heads 1 / n
    for first in range(1, heads + 1):
        shares[first, :first] = np.float32(1) / np.float32(first)
    labels, weights = np.empty((rows, length, heads), np.int32), np.empty((rows, length, heads), np.float32)
    symbols = np.empty(length + heads, np.int32)
    for row in range(rows):
        symbols[:length] = ids[row]
        symbols[length:] = ahead[row]
        for t in range(length):
            count = reach[row * length + t]
            for head in range(heads):
                labels[row, t, head] = symbols[t + 1 + head] if head < count else 0
                weights[row, t, head] = shares[count, head]
        if leave_out_comp:
            views = view[row * length : (row + 1) * length]
            for t in range(length):
                if views[t] == 0:
                    _leave_out_comp(labels[row, t], weights[row, t], main_heads)
    targets = 0
    for place in range(size):
        targets += reach[place] > 0
    shape = (rows, length)
    return (
        doc.reshape(shape),
        position.reshape(shape),
        view.reshape(shape),
        labels,
        weights,
        targets,
    )


@numba.njit(cache=True, nogil=True)
def _leave_out_comp(labels: Int32s, weights: Float32s, main_heads: int) -> None:
    """Take labels that are comp symbols from the raw heads of one position; the heads left share the weight."""
    left_out, kept = 0, 0
    for head in range(len(labels)):
        if weights[head] > 0:
            if head >= main_heads and labels[head] >= COMP_OFFSET:
                labels[head], weights[head] = 0, 0
                left_out += 1
            else:
                kept += 1
    if left_out and kept:
        for head in range(len(labels)):
            if weights[head] > 0:
                weights[head] = np.float32(1) / np.float32(kept)


@numba.njit(cache=True, nogil=True)
def total(spans: npt.NDArray[np.unsignedinteger[Any]]) -> int:
    """The sum of spans; numpy would convert them block by block first."""
    found = 0
    for span in spans:
        found += int(span)
    return found
