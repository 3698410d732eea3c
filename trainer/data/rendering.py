"""Renderings: a document, a pair or a part of one as ids: bos, views in their sentinels, eos.

`bos <raw> ... </raw> eos`, `bos <comp> ... </comp> eos`, a pair `bos <raw> ... </raw><comp> ... </comp> eos` or the
reverse; without sentinels `bos ... eos`. A rendering is never built as a whole: its ids are copied by slices.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_CLOSE, COMP_OPEN, EOS, RAW_CLOSE, RAW_OPEN
from trainer.data.batch import NO_VIEW
from trainer.data.kernels import total
from trainer.data.parts import Part
from trainer.data.rows import Document
from trainer.data.views import View

RAW_VIEW, COMP_VIEW = 0, 1
OPENERS, CLOSERS = (RAW_OPEN, COMP_OPEN), (RAW_CLOSE, COMP_CLOSE)
_CONTENT = -1

Symbols = npt.NDArray[Any]
"""Raw bytes (uint8) or comp ids (int32)."""


class Piece(NamedTuple):
    """Ids [start, stop) of a rendering: one special, or the symbols of a view."""

    start: int
    stop: int
    view: int
    special: int
    symbols: Symbols | None


class Rendering:
    """The ids of a document, of a pair, or of a part of one: bos, its views, eos.

    Attributes:
        length: in ids.
        pieces: it is made of these.
        openers: places of `<raw>` and `<comp>`.
    """

    def __init__(
        self, document: Document, view: View, *, sentinels: bool, part: Part | None = None, raw_start: int = 0
    ) -> None:
        """Render a document.

        Args:
            document: of which only the columns of the view are decoded.
            view: raw, comp, or both in some order.
            sentinels: whether views are wrapped in theirs.
            part: of it; None for all.
            raw_start: first raw byte of the part.
        """
        self._document, self._part = document, part
        self.pieces = [Piece(0, 1, NO_VIEW, BOS, None)]
        self.length = 1
        self.openers: list[int] = []
        for which in view.value:
            symbols: Symbols | None = document.raw if which == RAW_VIEW else document.comp
            assert symbols is not None, "a document without comp is shown raw only"
            if part is not None:
                first, last = (raw_start, raw_start + part.raw_bytes) if which == RAW_VIEW else (part.start, part.end)
                symbols = symbols[first:last]
            if sentinels:
                self.openers.append(self.length)
                self._add(1, which, OPENERS[which])
            self._add(len(symbols), which, _CONTENT, symbols)
            if sentinels:
                self._add(1, which, CLOSERS[which])
        self._add(1, NO_VIEW, EOS)

    def _add(self, length: int, view: int, special: int, symbols: Symbols | None = None) -> None:
        self.pieces.append(Piece(self.length, self.length + length, view, special, symbols))
        self.length += length

    def covered(self, piece: Piece, low: int, high: int) -> float:
        """Raw bytes that the ids [low, high) of the rendering, symbols of one piece, stand for."""
        if piece.view == RAW_VIEW:
            return high - low
        count, part = piece.stop - piece.start, self._part
        raw_bytes = self._document.raw_bytes if part is None else part.raw_bytes
        if high - low == count:
            return raw_bytes
        spans = self._document.spans
        if spans is None:
            return (high - low) * raw_bytes / count
        start = (0 if part is None else part.start) - piece.start
        return int(total(spans[start + low : start + high]))

    def copy(self, start: int, stop: int, out: npt.NDArray[np.int32]) -> None:
        """Write ids [start, stop) to the beginning of `out`."""
        for piece in self.pieces:
            first, last = max(start, piece.start), min(stop, piece.stop)
            if first < last:
                self.write(piece, first, last, out[first - start : last - start])

    def write(self, piece: Piece, first: int, last: int, out: npt.NDArray[np.int32]) -> None:
        """Write ids [first, last) of the rendering, all of one piece, to `out`, int32 [last - first]."""
        if piece.symbols is None:
            out[:] = piece.special
            return
        out[:] = piece.symbols[first - piece.start : last - piece.start]
        if piece.view == RAW_VIEW:
            out += BYTE_OFFSET
