"""Renderings to arrays: plain cuts every T ids, re-openers, padding, docs, positions, views, reach of the heads.

In: renderings, one after another, by `place`; out: `Arrays` of all sequences by `finish`. Counts on the way. Cost:
about 10 microseconds a rendering and 10 ns an id.
"""

from dataclasses import dataclass

import numpy as np

from trainer.data.batch import NO_VIEW, Arrays, Counts, labels_and_weights
from trainer.data.rendering import COMP_VIEW, OPENERS, RAW_VIEW, Rendering


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
    """The arrays of some sequences while they are being filled, one after another."""

    def __init__(self, rows: int, layout: Layout) -> None:
        self.layout, self.counts = layout, Counts()
        shape = (rows, layout.sequence)
        self._ids, self._doc = np.zeros(shape, np.int32), np.empty(shape, np.int32)
        self._position, self._view = np.empty(shape, np.int32), np.empty(shape, np.uint8)
        self._reach = np.zeros(shape, np.uint8)
        self._ahead = np.zeros((rows, layout.heads), np.int32)
        # Heads that a position of each view may have: raw heads predict from raw positions only.
        self._heads = (layout.heads, layout.main_heads, layout.main_heads)
        self._falling = np.arange(layout.heads - 1, -1, -1, dtype=np.uint8)
        self._numbers = np.arange(layout.sequence, dtype=np.int32)
        self._symbols = [0, 0, 0]  # by view
        self._covered = [0.0, 0.0]
        self._row = -1
        self._at = layout.sequence
        self._docs = 0

    @property
    def left(self) -> int:
        """Ids left in the sequence."""
        return self.layout.sequence - self._at

    def open_row(self) -> None:
        """Begin the next sequence."""
        self._row += 1
        self._at, self._docs = 0, 0
        arrays = self._ids, self._doc, self._position, self._view, self._reach
        self._ids_row, self._doc_row, self._position_row, self._view_row, self._reach_row = (
            array[self._row] for array in arrays
        )

    def place(self, rendering: Rendering, start: int) -> int:
        """Write ids of a rendering from `start` on, as many as fit, and give their number (re-opener not counted)."""
        first = self._at
        at = self._reopen(rendering, start) if start and not first else first
        heads = self.layout.heads
        stop = min(rendering.length, start + self.layout.sequence - at)
        shift = at - start  # from places in the rendering to places in the sequence
        ids, views, reach = self._ids_row, self._view_row, self._reach_row
        for piece in rendering.pieces:
            piece_start, piece_stop, view, special, symbols = piece
            if piece_stop <= start:
                continue
            if piece_start >= stop:
                break
            if symbols is None:
                place = piece_start + shift
                ids[place], views[place], reach[place] = special, view, self._heads[view]
                self._symbols[view] += 1
                continue
            low, high = max(start, piece_start), min(stop, piece_stop)
            rendering.write(piece, low, high, ids[low + shift : high + shift])
            views[low + shift : high + shift] = view
            reach[low + shift : high + shift] = self._heads[view]
            self._symbols[view] += high - low
            self._covered[view] += rendering.covered(piece, low, high)
        self._at = end = stop + shift
        self._doc_row[first:end] = self._docs
        self._position_row[first:end] = self._numbers[: end - first]
        self._docs += 1
        ahead = min(rendering.length, stop + heads)
        if stop < ahead:
            rendering.copy(stop, ahead, self._ahead[self._row])
        if ahead < stop + heads:
            self._bar(ahead + shift, at)
        if not self.layout.reference_loss:
            for opener in rendering.openers:
                if start < opener < ahead:
                    self._bar(opener + shift, at)
        return stop - start

    def pad(self) -> None:
        """Fill the sequence with padding: id 0, a doc of its own, no labels."""
        rest = slice(self._at, None)
        self._doc[self._row, rest] = self._docs
        self._position[self._row, rest] = self._numbers[: self.left]
        self._view[self._row, rest] = NO_VIEW
        self.counts.padding += self.left
        self._at = self.layout.sequence

    def finish(self) -> Arrays:
        """The arrays, once every sequence is full."""
        assert self._row == len(self._ids) - 1
        assert not self.left
        mixed = self.layout.raw_heads and (self.layout.reference_loss or not self.layout.sentinels)
        labels, weights = labels_and_weights(
            self._ids,
            self._ahead,
            self._reach,
            main_heads=self.layout.main_heads,
            exclude_comp=self._view if mixed else None,
        )
        counts = self.counts
        counts.raw_symbols, counts.comp_symbols, counts.unviewed_symbols = self._symbols
        counts.raw_view_bytes, counts.comp_view_bytes = int(self._covered[RAW_VIEW]), self._covered[COMP_VIEW]
        counts.targets = int(np.count_nonzero(self._reach))
        return Arrays(self._ids, self._doc, self._position, self._view, labels, weights)

    def _reopen(self, rendering: Rendering, start: int) -> int:
        """Write the opener of the view that goes on here, if one is due, and give the place after it.

        It is input only: `reach` stays 0.
        """
        piece = next(piece for piece in rendering.pieces if start < piece.stop)
        if not self.layout.sentinels or piece.view == NO_VIEW or piece.special in OPENERS:
            return 0
        self._ids_row[0] = OPENERS[piece.view]
        self._view_row[0] = piece.view
        self.counts.reopened += 1
        return 1

    def _bar(self, barrier: int, first: int) -> None:
        """No label at or beyond `barrier` for the positions from `first` on before it."""
        reachable = barrier - self.layout.heads
        low, high = max(first, reachable), min(barrier, self.layout.sequence)
        if low < high:
            near = self._reach_row[low:high]
            skip = low - reachable
            np.minimum(near, self._falling[skip : skip + high - low], out=near)
