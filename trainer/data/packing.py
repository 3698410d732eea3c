"""Renderings to arrays: plain cuts every T ids, re-openers, padding, docs, positions, views, reach of the heads.

In: renderings, one after another, by `place`; out: `Arrays` of all sequences by `finish`. Counts on the way.
"""

from dataclasses import dataclass

import numpy as np

from trainer.data.batch import NO_VIEW, Arrays, Counts
from trainer.data.kernels import spread
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
    """The arrays of some sequences while they are being filled, one after another.

    Only ids are written as they come. What else there is of a position is constant over a run of ids, or counts up in
    it, so runs are noted with the place where they begin and spread over all sequences at once in `finish`; places
    are counted through the whole batch.
    """

    def __init__(self, rows: int, layout: Layout) -> None:
        self.layout, self.counts = layout, Counts()
        self._ids = np.zeros((rows, layout.sequence), np.int32)
        self._flat_ids = self._ids.reshape(-1)
        self._ahead = np.zeros((rows, layout.heads), np.int32)
        # Heads that a position of each view may have: raw heads predict from raw positions only.
        self._heads = (layout.heads, layout.main_heads, layout.main_heads)
        self._runs: list[tuple[int, int, int]] = []  # (place, view, heads) of each run of one view
        self._docs: list[tuple[int, int]] = []  # (place, number) of each doc
        self._bars: list[tuple[int, int, int]] = []  # (place, first, end), see `spread`
        self._symbols = [0, 0, 0]  # by view
        self._covered = [0.0, 0.0]
        self._row = -1
        self._at = self._end = 0  # next place and the place after the sequence
        self._doc = 0

    @property
    def left(self) -> int:
        """Ids left in the sequence."""
        return self._end - self._at

    def open_row(self) -> None:
        """Begin the next sequence."""
        self._row += 1
        self._at = self._row * self.layout.sequence
        self._end = self._at + self.layout.sequence
        self._doc = 0

    def place(self, rendering: Rendering, start: int) -> int:
        """Write ids of a rendering from `start` on, as many as fit, and give their number (re-opener not counted)."""
        first, heads = self._at, self.layout.heads
        self._docs.append((first, self._doc))
        self._doc += 1
        at = first
        if start and self._end - first == self.layout.sequence:
            at += self._reopen(rendering, start)
        length = rendering.length
        stop = min(length, start + self._end - at)
        shift = at - start  # from places in the rendering to places in the batch
        ids, runs, symbols_by_view = self._flat_ids, self._runs, self._symbols
        for piece in rendering.pieces:
            piece_start, piece_stop, view, special, symbols = piece
            if piece_stop <= start:
                continue
            if piece_start >= stop:
                break
            if symbols is None:
                place = piece_start + shift
                ids[place] = special
                runs.append((place, view, self._heads[view]))
                symbols_by_view[view] += 1
                continue
            low = piece_start if piece_start > start else start
            high = piece_stop if piece_stop < stop else stop
            rendering.write(piece, low, high, ids[low + shift : high + shift])
            runs.append((low + shift, view, self._heads[view]))
            symbols_by_view[view] += high - low
            self._covered[view] += rendering.covered(piece, low, high)
        self._at = stop + shift
        ahead = min(length, stop + heads)
        if stop < ahead:
            rendering.copy(stop, ahead, self._ahead[self._row])
        if ahead < stop + heads:
            self._bars.append((ahead + shift, at, self._end))
        if not self.layout.reference_loss:
            self._bars += [(opener + shift, at, self._end) for opener in rendering.openers if start < opener < ahead]
        return stop - start

    def pad(self) -> None:
        """Fill the sequence with padding: id 0, a doc of its own, no labels."""
        self._docs.append((self._at, self._doc))
        self._runs.append((self._at, NO_VIEW, 0))
        self.counts.padding += self.left
        self._at = self._end

    def finish(self) -> Arrays:
        """The arrays, once every sequence is full."""
        assert self._row == len(self._ids) - 1
        assert not self.left
        doc, position, view, labels, weights, targets = spread(
            self._ids,
            self._ahead,
            np.array(self._runs, np.int64),
            np.array(self._docs, np.int64),
            np.array(self._bars, np.int64).reshape(-1, 3),
            self.layout.main_heads,
            bool(self.layout.raw_heads) and (self.layout.reference_loss or not self.layout.sentinels),
        )
        counts = self.counts
        counts.raw_symbols, counts.comp_symbols, counts.unviewed_symbols = self._symbols
        counts.raw_view_bytes, counts.comp_view_bytes = int(self._covered[RAW_VIEW]), self._covered[COMP_VIEW]
        counts.targets = targets
        return Arrays(self._ids, doc, position, view, labels, weights)

    def _reopen(self, rendering: Rendering, start: int) -> int:
        """Write the opener of the view that goes on here, if one is due; the number of ids written.

        It is input only: no head has a label there.
        """
        piece = next(piece for piece in rendering.pieces if start < piece.stop)
        if not self.layout.sentinels or piece.view == NO_VIEW or piece.special in OPENERS:
            return 0
        self._flat_ids[self._at] = OPENERS[piece.view]
        self._runs.append((self._at, piece.view, 0))
        self.counts.reopened += 1
        return 1
