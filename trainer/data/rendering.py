"""Renderings: a document, a pair or a part of one as ids: bos, views in their sentinels, eos.

`bos <raw> ... </raw> eos`, `bos <comp> ... </comp> eos`, a pair `bos <raw> ... </raw><comp> ... </comp> eos` or the
reverse; without sentinels `bos ... eos`. A rendering is never built as a whole: it is slices of the row group's
arrays and their order, from which `kernels.place` writes what a sequence has room for.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.parts import Part
from trainer.data.rows import Document
from trainer.data.views import View

RAW_VIEW, COMP_VIEW = 0, 1


def _none_of(kind: type[np.generic]) -> npt.NDArray[Any]:
    """No symbols; read-only like all columns, so that the compiled loops are compiled once."""
    none = np.zeros(0, kind)
    none.flags.writeable = False
    return none


_NO_RAW: npt.NDArray[np.uint8] = _none_of(np.uint8)
_NO_COMP: npt.NDArray[np.int32] = _none_of(np.int32)
_NO_SPANS: npt.NDArray[np.uint16] = _none_of(np.uint16)


class Rendering:
    """The ids of a document, of a pair, or of a part of one: bos, its views, eos.

    Attributes:
        length: in ids.
        raw: the bytes that it shows, uint8 [n].
        comp: the comp ids that it shows, int32 [m].
        raw_bytes: that it stands for: all of `comp` covers so many.
        first, second: its views in order, RAW_VIEW or COMP_VIEW; second is -1 if there is none.
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
        self.raw, self.comp = _NO_RAW, _NO_COMP
        self._spans: npt.NDArray[np.uint16] | None = None  # not asked for yet
        self.raw_bytes = document.raw_bytes if part is None else part.raw_bytes
        views: tuple[int, ...] = view.value
        self.first, self.second = views if len(views) == 2 else (views[0], -1)
        if RAW_VIEW in views:
            self.raw = document.raw if part is None else document.raw[raw_start : raw_start + part.raw_bytes]
        if COMP_VIEW in views:
            comp = document.comp
            assert comp is not None, "a document without comp is shown raw only"
            self.comp = comp if part is None else comp[part.start : part.end]
        wrapping = 2 if sentinels else 0
        self.length = 2 + wrapping * len(views) + len(self.raw) + len(self.comp)
        # Where the comp ids lie: behind bos, the raw view if that is first, and their own opener.
        before = len(self.raw) + wrapping if self.first == RAW_VIEW else 0
        self._comp_start = 1 + before + wrapping // 2

    def spans_within(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """Spans of `comp`, uint16 [m], if the ids [start, stop) hold only some of it; none if they are not known.

        They are decoded only then: all of it covers `raw_bytes`.
        """
        comp_start = self._comp_start
        if not len(self.comp) or (start <= comp_start and comp_start + len(self.comp) <= stop):
            return _NO_SPANS
        if self._spans is None:
            spans, part = self._document.spans, self._part
            if spans is None:
                self._spans = _NO_SPANS
            else:
                self._spans = spans if part is None else spans[part.start : part.end]
        return self._spans
