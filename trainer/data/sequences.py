"""A lane's endless stream of documents, made into one sequence after another.

`Lane.fill` fills one sequence of a `BatchWriter` from where the lane stands: it draws the source and the view of each
document as it begins, and takes pairs in aligned parts. Its state is a few integers, all else follows from them.
"""

import numpy as np

from schemas.draws import Purpose, draw_u64, uniform
from trainer.data.batch import Counts
from trainer.data.lanes import UNDRAWN, Cursor
from trainer.data.packing import BatchWriter
from trainer.data.parts import Part, Spans, choose_part, part_of_one
from trainer.data.rendering import Rendering
from trainer.data.views import Schedule, Text, View


class Lane:
    """An endless stream of renderings from one cursor a dataset, or two where raw views have a text of their own.

    Attributes:
        cursors: in the order of the datasets; at most one is inside a document. Of two of a dataset the first is over
            the text of raw views and pairs, the second over that of comp views.
        documents: begun so far; with several cursors the ordinal of the next `source` and `text` draws.
    """

    def __init__(self, lane: int, cursors: list[Cursor], weights: list[float], schedule: Schedule) -> None:
        self.lane, self.cursors, self.documents = lane, cursors, 0
        self._schedule = schedule
        self._own_raw_text = len(cursors) > len(weights)
        self._bounds = np.cumsum(weights) / np.sum(weights)
        self._forget()

    @property
    def state(self) -> list[int]:
        """Six integers a cursor; with several cursors the number of documents begun after them."""
        numbers = [number for cursor in self.cursors for number in cursor.state]
        return numbers if len(self.cursors) == 1 else [*numbers, self.documents]

    def restore(self, state: list[int]) -> None:
        """Go to a state."""
        for index, cursor in enumerate(self.cursors):
            cursor.restore(tuple(state[6 * index : 6 * index + 6]))
        self.documents = state[-1] if len(self.cursors) > 1 else 0
        self._forget()

    def fill(self, writer: BatchWriter, step: int) -> None:
        """Write the next sequence; draws nothing more once it is full."""
        writer.open_row()
        while writer.left:
            if self._cursor is None:
                self._enter(step, writer.counts)
            if self._rendering is None and not self._render(writer):
                writer.pad()
                return
            assert self._cursor is not None
            assert self._rendering is not None
            self._cursor.offset += writer.place(self._rendering, self._cursor.offset)
            if self._cursor.offset == self._rendering.length:
                self._leave()

    def _forget(self) -> None:
        """Drop all that follows from the state."""
        self._cursor: Cursor | None = None
        self._rendering: Rendering | None = None
        self._spans: Spans | None = None  # of a pair in aligned parts
        self._part_end = 0
        self._raw_at = 0

    def _enter(self, step: int, counts: Counts) -> None:
        """Begin the next document, or find the one that the state says is begun."""
        cursor = next((cursor for cursor in self.cursors if cursor.drawn_step != UNDRAWN), None)
        begins = cursor is None
        if cursor is None:
            cursor = self.cursors[self._next_cursor(step)]
        self._document = cursor.document()
        if begins:
            cursor.drawn_step = step
            self.documents += 1
        self._cursor = cursor
        self._view = self._schedule.view(self._document.key, cursor.epoch, cursor.drawn_step, cursor.text)
        if self._view is not View.RAW and self._document.comp is None:
            raise cursor.damaged(self._document, "no comp view")
        self._spans = self._document.spans if self._view.is_pair else None
        self._raw_at = 0 if self._spans is None else int(self._spans[: cursor.part].sum(dtype=np.int64))
        if begins:
            counts.pairs += self._view.is_pair
            counts.raw_documents += self._view is View.RAW
            counts.comp_documents += self._view is View.COMP

    def _next_cursor(self, step: int) -> int:
        """Which cursor the next document is of."""
        dataset = 0
        if len(self._bounds) > 1:
            dataset = min(int(np.searchsorted(self._bounds, self._draw("source"), side="right")), len(self._bounds) - 1)
        if not self._own_raw_text:
            return dataset
        return 2 * dataset + (self._schedule.text(self._draw("text"), step) is Text.COMP)

    def _draw(self, purpose: Purpose) -> float:
        return uniform(draw_u64(purpose, seed=self._schedule.seed, record=self.documents, piece=self.lane))

    def _render(self, writer: BatchWriter) -> bool:
        """Prepare the rendering that comes next; False if the rest of the sequence is to be padded."""
        assert self._cursor is not None
        document, sentinels = self._document, writer.layout.sentinels
        if self._spans is None:
            self._rendering = Rendering(document, self._view, sentinels=sentinels)
            return True
        part = self._next_part(self._cursor, self._spans, writer)
        if part is None:
            return False
        raw_end = self._raw_at + part.raw_bytes
        if raw_end > document.raw_bytes or (part.end == len(self._spans) and raw_end < document.raw_bytes):
            raise self._cursor.damaged(document, "its spans do not sum to its bytes")
        self._rendering = Rendering(document, self._view, sentinels=sentinels, part=part, raw_start=self._raw_at)
        self._part_end, self._raw_at = part.end, raw_end
        return True

    def _next_part(self, cursor: Cursor, spans: Spans, writer: BatchWriter) -> Part | None:
        """The aligned part at the cursor; None if the rest of the sequence is to be padded."""
        layout = writer.layout
        sentinels = 6 if layout.sentinels else 2
        if cursor.offset:  # begun in an earlier sequence: only a part from one boundary to the next is ever cut
            return part_of_one(spans, cursor.part, sentinels)
        part = choose_part(
            spans,
            cursor.part,
            cost_left=self._document.raw_bytes - self._raw_at + len(spans) - cursor.part + sentinels,
            left=writer.left,
            sequence=layout.sequence,
            pair_symbols=layout.pair_symbols,
            sentinels=sentinels,
        )
        writer.counts.parts += part is not None
        return part

    def _leave(self) -> None:
        """A rendering is placed: go to the next part, or past the document."""
        assert self._cursor is not None
        self._rendering = None
        if self._spans is not None and self._part_end < len(self._spans):
            self._cursor.part, self._cursor.offset = self._part_end, 0
            return
        self._cursor.finish()
        self._cursor = None
