"""A batch: the arrays that a model takes, and what they hold."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Uint8s = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]

NO_VIEW = 2
"""The view number of bos, eos and padding; raw is 0, comp 1."""


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
