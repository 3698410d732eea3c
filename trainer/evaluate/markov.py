"""Markov models over bytes: the yardstick that needs no network.

Counts of the last k bytes on the training split, scored on held-out documents, with Witten-Bell interpolation
down to the uniform distribution. Each document starts with an empty context. Order 2 is about what letter pairs
know; a byte model that does not beat it has learnt nothing yet.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

COUNTED_AT_ONCE = 8 << 20
"""Bytes of documents: each count touches all 256^(order + 1) cells."""


class MarkovModel:
    """Witten-Bell byte model of a fixed order.

    Args:
        order: bytes of context, 0 to 2.
        documents: training documents.
    """

    def __init__(self, order: int, documents: Iterable[bytes]) -> None:
        if not 0 <= order <= 2:
            raise ValueError(f"order {order}: counts of 256^(order + 1) are kept, so 0 to 2")
        self.order = order
        self._counts = [np.zeros((256**k, 256), np.int64) for k in range(order + 1)]
        for some in _together(documents):
            data = np.frombuffer(b"".join(some), np.uint8).astype(np.int64)
            sizes = np.array([len(document) for document in some])
            place = np.arange(len(data)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in its document
            for k in range(order + 1):
                cells = (_contexts(data, k) * 256 + data[k:])[place[k:] >= k]
                self._counts[k] += np.bincount(cells, minlength=256 ** (k + 1)).reshape(-1, 256)

    def lower(self, order: int) -> "MarkovModel":
        """The model of a smaller order, of the same counts."""
        found = MarkovModel(order, ())
        found._counts = self._counts[: order + 1]
        return found

    def bits(self, document: bytes) -> float:
        """Code length of a document in bits: the sum over its bytes of -log2 p."""
        data = np.frombuffer(document, np.uint8).astype(np.int64)
        p = np.full(len(data), 1 / 256)
        for k, counts in enumerate(self._counts):
            if len(data) <= k:
                break
            contexts = _contexts(data, k)
            rows = counts[contexts]
            total = rows.sum(axis=1)
            kinds = (rows > 0).sum(axis=1)
            seen = total > 0
            own = rows[np.arange(len(rows)), data[k:]]
            mixed = (own + kinds * p[k:]) / np.maximum(total + kinds, 1)
            p[k:] = np.where(seen, mixed, p[k:])
        return float(-np.log2(p).sum())

    def bits_per_byte(self, documents: Sequence[bytes]) -> float:
        """Mean over all bytes of the documents."""
        size = sum(map(len, documents))
        return math.fsum(self.bits(document) for document in documents) / size if size else math.nan


def _together(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Documents in lists of COUNTED_AT_ONCE bytes or a little more."""
    some: list[bytes] = []
    size = 0
    for document in documents:
        some.append(document)
        size += len(document)
        if size >= COUNTED_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _contexts(data: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """The k bytes before each position from k on as one number, int64 [max(0, n - k)]."""
    value = np.zeros(max(0, len(data) - k), np.int64)
    for j in range(k):
        value = value * 256 + data[j : len(data) - k + j]
    return value
