"""A batch: the arrays that a model takes, and what they hold.

Labels and weights are those of the one loss of the design: with y[t, h] the (h+1)-th next symbol of the same
rendering, m[t, h] = 1 iff it exists, no opener or bos is among the next 1..h+1 symbols, and head h may predict it
(the first P heads everything, the R raw heads only bytes and specials, from raw positions); weights are m / sum_h m.
About 2 ns an id and head.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.vocabulary import COMP_OFFSET

Int32s = npt.NDArray[np.int32]
Uint8s = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]

NO_VIEW = 2
"""The view number of bos, eos and padding; raw is 0, comp 1."""


_IDS_AT_ONCE = 1 << 14
"""Positions labelled at a time, so that what one head has read is in the cache for the next."""


class Arrays(NamedTuple):
    """Sequences of T ids and H heads, C-contiguous.

    Attributes:
        ids: int32 [b, T].
        doc: int32 [b, T]; 0, 1, ... within a sequence; attention stays within a number.
        position: int32 [b, T]; counts from 0 in each doc.
        view: uint8 [b, T]; 0 raw, 1 comp, 2 neither.
        labels: int32 [b, T, H]; 0 where weights are 0.
        weights: float32 [b, T, H]; sum to 1 or 0 over the heads.
    """

    ids: Int32s
    doc: Int32s
    position: Int32s
    view: Uint8s
    labels: Int32s
    weights: Float32s


@dataclass
class Counts:
    """What is in some sequences; `add` sums up over ranks and steps.

    Attributes:
        raw_symbols: ids of raw views, their sentinels included, re-opened openers not.
        comp_symbols: likewise of comp views.
        unviewed_symbols: bos and eos.
        reopened: openers repeated at the start of a sequence.
        padding: ids of padding; all five sum to b x T.
        raw_view_bytes: raw bytes that the raw views show.
        comp_view_bytes: raw bytes that the comp symbols cover: their spans, or the mean of their row without spans.
        targets: positions with at least one label.
        raw_documents: documents begun as raw alone.
        comp_documents: as comp alone.
        pairs: as pairs.
        parts: aligned parts of pairs begun.
    """

    raw_symbols: int = 0
    comp_symbols: int = 0
    unviewed_symbols: int = 0
    reopened: int = 0
    padding: int = 0
    raw_view_bytes: int = 0
    comp_view_bytes: float = 0.0
    targets: int = 0
    raw_documents: int = 0
    comp_documents: int = 0
    pairs: int = 0
    parts: int = 0

    @property
    def raw_equivalent_bytes(self) -> float:
        """Raw bytes covered by both views together: a pair counts twice."""
        return self.raw_view_bytes + self.comp_view_bytes

    def add(self, other: "Counts") -> None:
        """Add another's figures."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass(frozen=True)
class Batch:
    """The sequences of one rank's lanes at one optimiser step, in the order of the lanes.

    Attributes:
        step: t, counted from 0.
        arrays: of B / W sequences.
        counts: of these sequences.
        spans_known: whether comp_view_bytes is exact.
        epochs: (min, mean, max) over this rank's lanes and datasets, after this batch.
    """

    step: int
    arrays: Arrays
    counts: Counts
    spans_known: bool
    epochs: tuple[float, float, float]

    def micro_batches(self, size: int) -> Iterator[Arrays]:
        """The arrays, `size` sequences at a time; views, no copies."""
        for start in range(0, len(self.arrays.ids), size):
            rows = slice(start, start + size)
            ids, doc, position, view, labels, weights = self.arrays
            yield Arrays(ids[rows], doc[rows], position[rows], view[rows], labels[rows], weights[rows])


def labels_and_weights(
    ids: Int32s, ahead: Int32s, reach: Uint8s, *, main_heads: int, exclude_comp: Uint8s | None
) -> tuple[Int32s, Float32s]:
    """Labels and weights of all heads.

    Args:
        ids: int32 [b, T].
        ahead: int32 [b, H]; what follows each sequence in its last rendering.
        reach: uint8 [b, T]; the number of heads that have a label at each position: y exists, comes before the next
            opener, and the head is of a kind that this position has.
        main_heads: P, heads over the full vocabulary.
        exclude_comp: uint8 [b, T], the views, where raw heads at raw positions may meet comp symbols and must leave
            those out; None where that cannot be.

    Returns:
        labels int32 [b, T, H] and weights float32 [b, T, H].
    """
    rows, length = ids.shape
    heads = ahead.shape[1]
    labels = np.zeros((rows, length, heads), np.int32)
    weights = np.empty((rows, length, heads), np.float32)
    shares = _shares(heads)
    count = max(1, _IDS_AT_ONCE // length)
    for start in range(0, rows, count):
        some = slice(start, start + count)
        for head in range(heads):
            inside = length - 1 - head
            has = reach[some] > head
            np.copyto(labels[some, :inside, head], ids[some, head + 1 :], where=has[:, :inside])
            np.copyto(labels[some, inside:, head], ahead[some, : head + 1], where=has[:, inside:])
        shares.take(reach[some], axis=0, out=weights[some], mode="clip")  # other modes copy `out`
    if exclude_comp is not None:
        wrong = labels[..., main_heads:] >= COMP_OFFSET
        if wrong.any():
            _leave_out(labels, weights, wrong & (exclude_comp == 0)[..., None], main_heads)
    return labels, weights


def _leave_out(labels: Int32s, weights: Float32s, wrong: npt.NDArray[np.bool_], main_heads: int) -> None:
    """Take labels of raw heads away; the heads that are left share the weight."""
    labels[..., main_heads:][wrong] = 0
    weights[..., main_heads:][wrong] = 0
    changed = wrong.any(axis=-1)
    kept = weights[changed] > 0
    count = kept.sum(axis=-1, keepdims=True).astype(np.float32)
    weights[changed] = kept / np.maximum(count, np.float32(1))


def _shares(heads: int) -> Float32s:
    """float32 [H + 1, H]: row n gives each of the first n heads 1/n."""
    table = np.zeros((heads + 1, heads), np.float32)
    for count in range(1, heads + 1):
        table[count, :count] = np.float32(1) / np.float32(count)
    return table
