"""Renderings to arrays: plain cuts every T ids, re-openers, padding, docs, positions, views, reach of the heads.

In: renderings, one after another, by `place`; out: `Arrays` of all sequences by `finish`. Counts on the way.
"""

from dataclasses import dataclass

import numpy as np

from trainer.data.batch import NO_VIEW, Arrays, Counts
from trainer.data.kernels import AT, BARS, DOCS, MOST_NOTES, REOPENED, RUNS, SYMBOLS, TALLIES, place, spread
from trainer.data.rendering import COMP_VIEW, RAW_VIEW, Rendering

_NOTES = 256
"""Runs, docs and bars that there is room for at first."""


@dataclass(frozen=True)
class Layout:
    """What decides a batch's arrays.

    Attributes:
        sequence: T, ids of a sequence.
        main_heads: P, heads over the full vocabulary.
        raw_heads: R, heads over bytes and specials.
        sentinels: whether views are wrapped in them.
        pair_symbols: the longest aligned part wanted, in ids.
        reference_loss: labels on openers too, as published.
    """

    sequence: int
    main_heads: int
    raw_heads: int
    sentinels: bool
    pair_symbols: int
    reference_loss: bool = False

    @property
    def heads(self) -> int:
        """H = P + R."""
        return self.main_heads + self.raw_heads


class BatchWriter:
    """The arrays of some sequences while they are being filled, one after another.

    Only ids are written as they come. What else there is of a position is constant over a run of ids, or counts up in
    it, so runs are noted with the place where they begin and spread over all sequences at once in `finish`; places
    are counted through the whole batch.
    """

    def __init__(self, rows: int, layout: Layout) -> None:
        """Nothing yet of so many sequences."""
        self.layout, self.counts = layout, Counts()
        self._ids = np.zeros((rows, layout.sequence), np.int32)
        self._flat_ids = self._ids.reshape(-1)
        self._ahead = np.zeros((rows, layout.heads), np.int32)
        # Heads that raw and other positions may have: raw heads predict from raw positions only.
        self._heads = (layout.heads, layout.main_heads)
        self._runs = np.empty((_NOTES, 3), np.int64)  # (place, view, heads) of each run of one view
        self._docs = np.empty((_NOTES, 2), np.int64)  # (place, number) of each doc
        self._bars = np.empty((_NOTES, 3), np.int64)  # (place, first, end), see `spread`
        self._tally = np.zeros(TALLIES, np.int64)
        self._covered = np.zeros(2, np.float64)
        self._row = -1
        self._begin = self._at = self._end = 0  # first, next place and the place after the sequence
        self._doc = 0

    @property
    def left(self) -> int:
        """Ids left in the sequence."""
        return self._end - self._at

    def open_row(self) -> None:
        """Begin the next sequence."""
        self._row += 1
        self._begin = self._at = self._row * self.layout.sequence
        self._end = self._at + self.layout.sequence
        self._doc = 0

    def place(self, rendering: Rendering, start: int) -> int:
        """Write ids of a rendering from `start` on, as many as fit, and give their number (re-opener not counted)."""
        self._make_room()
        layout = self.layout
        written: int = place(
            rendering.raw,
            rendering.comp,
            # One less: a re-opener may take its place.
            rendering.spans_within(start, start + self._end - self._at - 1),
            (rendering.first, rendering.second),
            layout.sentinels,
            rendering.raw_bytes,
            start,
            (self._row, self._begin, self._end),
            self._doc,
            self._heads,
            not layout.reference_loss,
            self._flat_ids,
            self._ahead,
            self._runs,
            self._docs,
            self._bars,
            self._tally,
            self._covered,
        )
        self._doc += 1
        self._at = int(self._tally[AT])
        return written

    def pad(self) -> None:
        """Fill the sequence with padding: id 0, a doc of its own, no labels."""
        self._make_room()
        tally = self._tally
        self._docs[tally[DOCS]] = self._at, self._doc
        self._runs[tally[RUNS]] = self._at, NO_VIEW, 0
        self.counts.padding += self.left
        self._at = self._end
        tally[[DOCS, RUNS]] += 1
        tally[AT] = self._end

    def _make_room(self) -> None:
        """Let the notes hold those of one more rendering."""
        if self._tally[RUNS] + MOST_NOTES > len(self._runs):  # there are more runs than docs or bars
            self._runs, self._docs, self._bars = (
                np.concatenate([notes, np.empty_like(notes)]) for notes in (self._runs, self._docs, self._bars)
            )

    def finish(self) -> Arrays:
        """The arrays, once every sequence is full."""
        assert self._row == len(self._ids) - 1
        assert not self.left
        tally = self._tally
        doc, position, view, labels, weights, targets = spread(
            self._ids,
            self._ahead,
            self._runs[: tally[RUNS]],
            self._docs[: tally[DOCS]],
            self._bars[: tally[BARS]],
            self.layout.main_heads,
            bool(self.layout.raw_heads) and (self.layout.reference_loss or not self.layout.sentinels),
        )
        counts = self.counts
        counts.raw_symbols, counts.comp_symbols, counts.unviewed_symbols = tally[SYMBOLS : SYMBOLS + 3].tolist()
        counts.reopened = int(tally[REOPENED])
        counts.raw_view_bytes, counts.comp_view_bytes = int(self._covered[RAW_VIEW]), float(self._covered[COMP_VIEW])
        counts.targets = targets
        return Arrays(self._ids, doc, position, view, labels, weights)
