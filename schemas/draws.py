"""Randomness as a function: no generator state, no lock, the same number wherever it is asked for.

A draw is a keyed blake2b of what it is for and what it is about. So the batch a document falls into, the view
it is shown in and the shard it is stored in depend on the seed and on the document alone, never on workers,
ranks, prefetch or restarts. About 1 microsecond a draw.
"""

import hashlib
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Purpose = Literal["split", "block", "unit", "row", "view", "order", "source", "text", "raw-text", "sample"]

NO_DOCUMENT = bytes(16)
"""doc_id of a key that is about no document (blocks, units, sources)."""

FITTING_MARGIN = 0.05
"""Documents whose split draw lies below this are never used to fit a compressor or a tokenizer, and are what
"held-out" means in figures. Wider than the usual val_fraction, so that a validation split may be chosen later."""

_U64 = (1 << 64) - 1


def document_id(raw: bytes) -> bytes:
    """blake2b-128 of the document's raw bytes (16 bytes); shards hold its hex form."""
    return hashlib.blake2b(raw, digest_size=16).digest()


def draw_u64(
    purpose: Purpose,
    *,
    seed: int = 0,
    epoch: int = 0,
    doc_id: bytes = NO_DOCUMENT,
    record: int = 0,
    piece: int = 0,
    source: str = "",
) -> int:
    """Uniform 64-bit integer for this purpose and key.

    Args:
        purpose: at most 16 ASCII bytes; the blake2b personalisation.
        seed: u64; the blake2b key.
        epoch: u64.
        doc_id: 16 bytes.
        record: u64, see the shard column of this name (or an ordinal).
        piece: u32.
        source: text, hashed, so that the key has a fixed length.

    Returns:
        The little-endian integer of blake2b-64 over epoch | doc_id | record | piece | blake2b-128(source).
    """
    if len(doc_id) != 16:
        raise ValueError(f"doc_id has {len(doc_id)} bytes; expected 16")
    hasher = _hasher(purpose, seed).copy()
    hasher.update(_KEY.pack(epoch, doc_id, record, piece, _source_digest(source)))
    return int.from_bytes(hasher.digest(), "little")


_KEY = struct.Struct("<Q16sQI16s")


@lru_cache(maxsize=64)
def _hasher(purpose: Purpose, seed: int) -> Any:
    """Of nothing yet; copied for each draw, which is cheaper than to set it up."""
    return hashlib.blake2b(digest_size=8, key=(seed & _U64).to_bytes(8, "little"), person=purpose.encode("ascii"))


@lru_cache(maxsize=1024)
def _source_digest(source: str) -> bytes:
    """A row has some draws one after another, and rows of one source follow each other."""
    return hashlib.blake2b(source.encode(), digest_size=16).digest()


def uniform(u64: int) -> float:
    """The draw as a float in [0, 1): its upper 53 bits, so that every value is exact."""
    return (u64 >> 11) * 2.0**-53


def split_uniform(doc_id: bytes) -> float:
    """The split draw of a document in [0, 1); it never depends on a run's seed.

    A document is held out iff this is below val_fraction: so duplicates and pieces stay on one side.
    """
    return uniform(draw_u64("split", doc_id=doc_id))


def may_fit(doc_id: bytes) -> bool:
    """Whether a compressor or tokenizer may be fitted on this document."""
    return split_uniform(doc_id) >= FITTING_MARGIN


def permutation(u64s: Iterable[int]) -> npt.NDArray[np.int64]:
    """Argsort of (draw, ordinal), int64 [n]: the permutation that the draws of n items mean."""
    return np.argsort(np.fromiter(u64s, dtype=np.uint64), kind="stable").astype(np.int64)
