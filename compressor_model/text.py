"""Documents laid end to end, with contexts that never cross a document's start: the training text of the models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressor_model.model import I64, ORDERS, U8, contexts_at


@dataclass(frozen=True)
class Text:
    """Documents laid end to end: `data` uint8 [n], and `start` int64 [n], the first byte of each byte's document."""

    data: U8
    start: I64

    @classmethod
    def of(cls, documents: Sequence[bytes]) -> "Text":
        """Concatenate documents."""
        lengths = np.array([len(document) for document in documents], np.int64)
        starts = np.cumsum(lengths) - lengths
        return cls(np.frombuffer(b"".join(documents), np.uint8), np.repeat(starts, lengths))

    def contexts(self, positions: I64) -> tuple[U8, I64]:
        """Context bytes and lengths before each position, never across a document's start."""
        return contexts_at(self.data, positions), np.minimum(positions - self.start[positions], ORDERS)
