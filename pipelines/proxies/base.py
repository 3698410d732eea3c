"""What a proxy is: a pure map from a document's bytes to vocabulary ids, with the bytes each id covers.

A proxy is rebuilt in a worker from its URI (`scheme:path?options`), does no I/O after that, and its output
depends on nothing but the document. Third parties register one by the entry point group `proxy_compression.proxies`: a
callable that takes the URI and returns a `Proxy`; `encode` and `decode` are all it must write.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.vocabulary import Vocabulary

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

_SUMMED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Encoded:
    """The comp view of one document.

    Attributes:
        ids: uint32 [n], vocabulary ids.
        spans: uint16 [n], raw bytes covered by each, the first not 0, summing to the document's length; or None
            where symbols cover no definite bytes.
        escaped_bytes: raw bytes that could only be escaped.
        dropped_bytes: raw bytes that are covered and not coded.
    """

    ids: U32
    spans: U16 | None
    escaped_bytes: int = 0
    dropped_bytes: int = 0


@dataclass(frozen=True)
class EncodedBatch:
    """The comp views of several documents end to end; `counts` int64 [d] are the symbols of each."""

    ids: U32
    spans: U16 | None
    counts: I64
    escaped_bytes: int = 0
    dropped_bytes: int = 0

    @classmethod
    def of(cls, documents: Sequence[Encoded]) -> "EncodedBatch":
        """Join documents' views; all have spans or none has. One alone is not copied."""
        if len(documents) == 1:
            one = documents[0]
            return cls(one.ids, one.spans, np.array([len(one.ids)], np.int64), one.escaped_bytes, one.dropped_bytes)
        spans = [document.spans for document in documents if document.spans is not None]
        return cls(
            ids=np.concatenate([document.ids for document in documents] or [np.empty(0, np.uint32)]),
            spans=np.concatenate(spans) if spans else None,
            counts=np.array([len(document.ids) for document in documents], np.int64),
            escaped_bytes=sum(document.escaped_bytes for document in documents),
            dropped_bytes=sum(document.dropped_bytes for document in documents),
        )

    def views(self) -> list[Encoded]:
        """Ids and spans of each document; what was escaped or dropped is known of the batch only."""
        if not len(self.counts):
            return []
        bounds = np.cumsum(self.counts)[:-1]
        ids = np.split(self.ids, bounds)
        spans = [None] * len(ids) if self.spans is None else np.split(self.spans, bounds)
        return [Encoded(*view) for view in zip(ids, spans, strict=True)]


class Proxy(ABC):
    """A training-time compressor.

    Attributes:
        name: as in `--proxy`.
        uri: what `proxies.load` rebuilds it from; `load` sets it.
        fingerprint: SHA-256 (hex) of everything that decides the output: artefacts, options, code version.
        vocabulary: ids that `encode` may give.
        lossless: whether `decode` inverts `encode`.
    """

    name: str
    uri: str
    fingerprint: str
    vocabulary: Vocabulary
    lossless: bool = True

    @abstractmethod
    def encode(self, raw: bytes) -> Encoded | None:
        """The comp view of a document, of any bytes; None for a proxy without one."""

    @abstractmethod
    def decode(self, ids: U32) -> bytes:
        """The bytes that ids stand for.

        Raises:
            ValueError: ids that `encode` never gives, or a proxy that is not lossless.
        """

    def encode_batch(self, raws: Sequence[bytes]) -> EncodedBatch | None:
        """As `encode` of each document; faster where a proxy overrides it, never different."""
        encoded = [self.encode(raw) for raw in raws]
        views = [view for view in encoded if view is not None]
        return EncodedBatch.of(views) if len(views) == len(encoded) and (views or self.has_comp) else None

    def decode_batch(self, batch: EncodedBatch) -> list[bytes]:
        """As `decode` of each document."""
        return [self.decode(view.ids) for view in batch.views()]

    def mismatches(self, raws: Sequence[bytes], batch: EncodedBatch) -> npt.NDArray[np.bool_]:
        """Which views do not stand for their documents, bool [len(raws)]: here, those that decode to other bytes.

        Raises:
            ValueError: ids that `encode` never gives.
        """
        if not self.provable:
            return np.zeros(len(raws), bool)
        decoded = self.decode_batch(batch)
        return np.array([one != raw for one, raw in zip(decoded, raws, strict=True)], bool)

    @property
    def provable(self) -> bool:
        """Whether `mismatches` can find anything: views are decoded to see."""
        return self.lossless

    @property
    def has_comp(self) -> bool:
        """Whether there is a comp view at all."""
        return self.vocabulary.comp_symbols > 0


def slices(joined: bytes, lengths: I64) -> list[bytes]:
    """Cut a buffer into consecutive pieces of these lengths."""
    ends = np.cumsum(lengths).tolist()
    return [joined[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


def sums(values: npt.NDArray[np.integer] | npt.NDArray[np.bool_], counts: I64) -> I64:
    """Sum of each of consecutive groups of `counts` values, int64 [len(counts)]; a group may be empty."""
    if len(values) > _SUMMED_AT_ONCE:  # few groups, and reduceat would make int64 of all values first
        parts = np.split(values, np.cumsum(counts)[:-1])
        return np.array([part.sum(dtype=np.int64) for part in parts], np.int64)
    total = np.zeros(len(counts), np.int64)
    filled = counts > 0
    if filled.any():
        first = np.cumsum(counts) - counts
        total[filled] = np.add.reduceat(values, first[filled], dtype=np.int64)
    return total


def joined(raws: Sequence[bytes]) -> tuple[U8, I64]:
    """Documents end to end, uint8 [n] (one alone is not copied), and their bounds, int64 [d + 1]."""
    offsets = np.zeros(len(raws) + 1, np.int64)
    np.cumsum([len(raw) for raw in raws], out=offsets[1:])
    return np.frombuffer(raws[0] if len(raws) == 1 else b"".join(raws), np.uint8), offsets
