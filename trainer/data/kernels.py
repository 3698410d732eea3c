"""Compiled loops of the packer: `place` writes a rendering's ids, `spread` makes the other arrays of a batch.

Labels and weights are those of the one loss of the design: with y[t, h] the (h+1)-th next symbol of the same
rendering, m[t, h] = 1 iff it exists, no opener or bos is among the next 1..h+1 symbols, and head h may predict it
(the first P heads everything, the R raw heads only bytes and specials, from raw positions); weights are m / sum_h m.

Plain arrays in and out, the GIL released, compiled code cached on disk by numba. `spread` takes about 2 ns an id with
two heads, `place` half a nanosecond and some microseconds a call, most of them for handing over its arrays.
"""

import numba
import numpy as np
import numpy.typing as npt

from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_CLOSE, COMP_OFFSET, COMP_OPEN, EOS, RAW_CLOSE, RAW_OPEN
from trainer.data.batch import NO_VIEW

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Uint8s = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

AT, RUNS, DOCS, BARS, REOPENED, SYMBOLS, TALLIES = 0, 1, 2, 3, 4, 5, 8
"""Places in the tally of a batch that is being filled: the next place, runs, docs and bars noted, openers repeated,
symbols by view (three of them); their number."""

MOST_NOTES = 9
"""Runs that a single `place` may add; fewer docs and bars."""

_CONTENT = -1

_TWO_HEADS = 2
"""The usual number has a loop of its own that takes a third of the time."""


@numba.njit(cache=True, nogil=True)
def place(
    raw: Uint8s,
    comp: Int32s,
    spans: npt.NDArray[np.uint16],
    views: tuple[int, int],
    sentinels: bool,
    raw_bytes: int,
    start: int,
    window: tuple[int, int, int],
    doc: int,
    heads: tuple[int, int],
    bars_at_openers: bool,
    ids: Int32s,
    ahead: Int32s,
    runs: Int64s,
    docs: Int64s,
    bars: Int64s,
    tally: Int64s,
    covered: Float64s,
) -> int:
    """Write ids of a rendering from `start` on, as many as fit, and note what `spread` needs.

    Args:
        raw: uint8 [n], bytes shown.
        comp: int32 [m], comp ids shown.
        spans: uint16 [m], or empty if they are not known or all of `comp` is written.
        views: in order, 0 raw, 1 comp; the second -1 if there is none.
        sentinels: whether views are wrapped in theirs.
        raw_bytes: that all of `comp` covers.
        start: first id of the rendering to write.
        window: (row, first place, end) of the sequence that is being filled.
        doc: its next doc number.
        heads: (H, P), which raw and other positions may have.
        bars_at_openers: whether openers are no labels.
        ids: int32 [b T], written from tally[AT] on.
        ahead: int32 [b, H], out: what follows the sequence in this rendering.
        runs: int64 [..., 3], notes for `spread`, with room for MOST_NOTES more.
        docs: int64 [..., 2], likewise.
        bars: int64 [..., 3], likewise.
        tally: int64 [TALLIES], brought up to date.
        covered: float64 [2], raw bytes shown by raw and by comp symbols so far; brought up to date.

    Returns:
        Number of ids of the rendering written, a repeated opener not counted.
    """
    sections = _sections(len(raw), len(comp), views, sentinels)
    length = sections[-1, 1]
    row, begin, end = window
    first = tally[AT]
    docs[tally[DOCS], 0], docs[tally[DOCS], 1] = first, doc
    tally[DOCS] += 1
    at = first
    if start and first == begin and sentinels:
        view = _cut_view(sections, start)
        if view >= 0:  # input only: no head has a label there
            ids[at] = RAW_OPEN if view == 0 else COMP_OPEN
            _note_run(runs, tally, at, view, 0)
            tally[REOPENED] += 1
            at += 1
    stop = min(length, start + end - at)
    shift = at - start  # from places in the rendering to places in the batch
    for section in range(len(sections)):
        low, high = max(sections[section, 0], start), min(sections[section, 1], stop)
        if low >= high:
            continue
        view, special = sections[section, 2], sections[section, 3]
        _write(raw, comp, sections[section], low, high, ids[low + shift : high + shift])
        _note_run(runs, tally, low + shift, view, heads[0] if view == 0 else heads[1])
        tally[SYMBOLS + view] += high - low
        if special == _CONTENT:
            begin = sections[section, 0]
            covered[view] += _covered(view, low - begin, high - begin, len(comp), spans, raw_bytes)
    tally[AT] = stop + shift
    most = heads[0]
    last = min(length, stop + most)
    for section in range(len(sections)):
        low, high = max(sections[section, 0], stop), min(sections[section, 1], last)
        if low < high:
            _write(raw, comp, sections[section], low, high, ahead[row, low - stop : high - stop])
    if last < stop + most:
        _note_bar(bars, tally, last + shift, at, end)
    if bars_at_openers:
        for section in range(len(sections)):
            opener = sections[section, 0]
            if _is_opener(sections[section, 3]) and start < opener < last:
                _note_bar(bars, tally, opener + shift, at, end)
    return int(stop - start)


@numba.njit(cache=True, nogil=True)
def _sections(raw: int, comp: int, views: tuple[int, int], sentinels: bool) -> Int64s:
    """What a rendering is made of, in order, int64 [n, 4]: (begin, end, view, special or _CONTENT)."""
    found = np.empty((8, 4), np.int64)
    count = _add_section(found, 0, 1, NO_VIEW, BOS)
    for view in views:
        if view >= 0:
            if sentinels:
                count = _add_section(found, count, 1, view, RAW_OPEN if view == 0 else COMP_OPEN)
            count = _add_section(found, count, raw if view == 0 else comp, view, _CONTENT)
            if sentinels:
                count = _add_section(found, count, 1, view, RAW_CLOSE if view == 0 else COMP_CLOSE)
    count = _add_section(found, count, 1, NO_VIEW, EOS)
    return found[:count]


@numba.njit(cache=True, nogil=True)
def _add_section(sections: Int64s, count: int, length: int, view: int, special: int) -> int:
    """Put a section behind the others; their number then."""
    begin = sections[count - 1, 1] if count else 0
    sections[count, 0], sections[count, 1], sections[count, 2], sections[count, 3] = (
        begin,
        begin + length,
        view,
        special,
    )
    return count + 1


@numba.njit(cache=True, nogil=True)
def _is_opener(special: int) -> bool:
    return special in (RAW_OPEN, COMP_OPEN)


@numba.njit(cache=True, nogil=True)
def _cut_view(sections: Int64s, start: int) -> int:
    """The view that a cut before `start` goes through, whose opener is due again; -1 if none is."""
    for section in range(len(sections)):
        if start < sections[section, 1]:
            view = sections[section, 2]
            return -1 if view == NO_VIEW or _is_opener(sections[section, 3]) else view
    return -1


@numba.njit(cache=True, nogil=True)
def _covered(view: int, low: int, high: int, count: int, spans: npt.NDArray[np.uint16], raw_bytes: int) -> float:
    """Raw bytes that symbols [low, high) of a view stand for; `count` is the number of comp symbols."""
    if view == 0:
        return float(high - low)
    if high - low == count:
        return float(raw_bytes)
    if len(spans) == 0:
        return (high - low) * raw_bytes / count
    total = np.int64(0)
    for index in range(low, high):
        total += spans[index]
    return float(total)


@numba.njit(cache=True, nogil=True)
def _write(raw: Uint8s, comp: Int32s, section: Int64s, low: int, high: int, out: Int32s) -> None:
    """Write ids [low, high) of a rendering, all of one section."""
    begin = section[0]
    if section[3] != _CONTENT:
        out[0] = section[3]
    elif section[2] == 0:
        symbols = raw[low - begin : high - begin]
        for index in range(len(symbols)):
            out[index] = np.int32(symbols[index]) + np.int32(BYTE_OFFSET)
    else:
        out[:] = comp[low - begin : high - begin]


@numba.njit(cache=True, nogil=True)
def _note_run(runs: Int64s, tally: Int64s, at: int, view: int, heads: int) -> None:
    run = tally[RUNS]
    runs[run, 0], runs[run, 1], runs[run, 2] = at, view, heads
    tally[RUNS] += 1


@numba.njit(cache=True, nogil=True)
def _note_bar(bars: Int64s, tally: Int64s, at: int, first: int, end: int) -> None:
    bar = tally[BARS]
    bars[bar, 0], bars[bar, 1], bars[bar, 2] = at, first, end
    tally[BARS] += 1


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
        reaches = reach[row * length : (row + 1) * length]
        if heads == _TWO_HEADS:
            _two_heads(symbols, reaches, labels[row], weights[row])
        else:
            for t in range(length):
                count = reaches[t]
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
def _two_heads(symbols: Int32s, reach: Uint8s, labels: Int32s, weights: Float32s) -> None:
    for t in range(len(reach)):
        count = reach[t]
        labels[t, 0] = symbols[t + 1] if count > 0 else 0
        labels[t, 1] = symbols[t + 2] if count > 1 else 0
        weights[t, 0] = np.float32(0.5) if count > 1 else np.float32(count)
        weights[t, 1] = np.float32(0.5) if count > 1 else np.float32(0)
