"""Documents laid end to end: the text of training, of scores, and of what the coders ask a byte LM."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


def batches(documents: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Consecutive documents, a batch ending with the one that makes it `size` bytes or more; none is empty."""
    batch: list[bytes] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


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

    @property
    def offsets(self) -> I64:
        """Bounds of the documents that are not empty, int64 [d + 1]."""
        changes = np.flatnonzero(self.start[1:] != self.start[:-1]) + 1
        return np.array([*([0] if len(self.data) else []), *changes.tolist(), len(self.data)], np.int64)

    def first(self, size: int) -> "Text":
        """The first `size` bytes."""
        return Text(self.data[:size], self.start[:size])

    def pieces(self, size: int) -> Iterator["Text"]:
        """Cut every `size` bytes; what a document has before a cut is no context of the rest."""
        for at in range(0, len(self.data), size):
            yield Text(self.data[at : at + size], np.maximum(self.start[at : at + size] - at, 0))
