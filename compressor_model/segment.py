"""Entropy segmentation by table: a segment starts where the next byte is hard to predict from the last 1..3 bytes.

The byte LM's entropy, averaged over every occurrence of a context, is distilled into one uint8 table per context
length, hashed and with back-off. A boundary so depends on three bytes only: three bytes after an edit the
segments are the same again, which is what makes the proxy stable. In: bytes. Out: a bool per byte. The compiled
encoder (`encoder.py`) reads the same tables at about 100 MB/s; `boundaries` here is its plain numpy twin.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressor_model.model import I64, U8, ByteLM, context_hashes, contexts_at, entropy_bits
from compressor_model.text import Text

CONTEXT_BYTES = 3
TABLE_BITS = 20
UNSEEN = 255
MIN_COUNT = 3
"""A context seen fewer times backs off to a shorter one."""

ENTROPY_UNITS = 16  # table entries are sixteenths of a bit
_BATCH = 1 << 16


@dataclass(frozen=True, kw_only=True)
class EntropyTable:
    """Mean entropy of the next byte by context, in sixteenths of a bit.

    Attributes:
        tables: uint8 [CONTEXT_BYTES, 2^TABLE_BITS]; row k - 1 is indexed by the hash of the last k bytes
            (bytes before the document are 0); UNSEEN means back off.
        fallback: entropy where no context was seen.
        threshold: a segment starts where the entropy is greater than this (and at byte 0).
    """

    tables: U8
    fallback: int
    threshold: int


def slots(contexts: U8) -> I64:
    """Table index of the last k bytes, k = 1..CONTEXT_BYTES: int64 [n, CONTEXT_BYTES]."""
    return (context_hashes(contexts[:, :CONTEXT_BYTES]) >> np.uint64(64 - TABLE_BITS)).astype(np.int64)


def entropies(table: EntropyTable, data: U8, start: I64) -> U8:
    """Entropy before each byte in sixteenths of a bit, by the longest context that was seen: uint8 [n].

    Args:
        table: the tables.
        data: uint8 [n], documents end to end.
        start: int64 [n], first byte of each byte's document.
    """
    result = np.empty(len(data), np.uint8)
    for at in range(0, len(data), _BATCH):
        positions = np.arange(at, min(at + _BATCH, len(data)), dtype=np.int64)
        index = slots(_contexts(data, start, positions))
        value = np.full(len(positions), table.fallback, np.uint8)
        for k in range(CONTEXT_BYTES):
            found = table.tables[k][index[:, k]]
            value = np.where(found == UNSEEN, value, found)
        result[positions] = value
    return result


def boundaries(table: EntropyTable, data: U8, start: I64) -> npt.NDArray[np.bool_]:
    """True where a segment starts: at each document's first byte and where the entropy exceeds the threshold."""
    return (entropies(table, data, start) > table.threshold) | (start == np.arange(len(data)))


def distil(model: ByteLM, text: Text, mean_segment: float) -> EntropyTable:
    """Average the model's full-context entropies by context; set the threshold by the wanted segment length.

    Args:
        model: the byte LM.
        text: training text; about 3 MB fill the tables, more refine them.
        mean_segment: wanted mean segment length in bytes; the threshold gives the least reachable one above.
    """
    size = 1 << TABLE_BITS
    sums, counts = np.zeros((CONTEXT_BYTES, size)), np.zeros((CONTEXT_BYTES, size), np.int64)
    total = 0.0
    for at in range(0, len(text.data), _BATCH):
        positions = np.arange(at, min(at + _BATCH, len(text.data)), dtype=np.int64)
        entropy = entropy_bits(model.frequencies(*text.contexts(positions))) * ENTROPY_UNITS
        total += float(entropy.sum())
        index = slots(_contexts(text.data, text.start, positions))
        for k in range(CONTEXT_BYTES):
            sums[k] += np.bincount(index[:, k], entropy, size)
            counts[k] += np.bincount(index[:, k], minlength=size)
    mean = np.clip(np.rint(sums / np.maximum(counts, 1)), 0, UNSEEN - 1)
    tables = np.where(counts >= MIN_COUNT, mean, UNSEEN).astype(np.uint8)
    fallback = int(min(round(total / len(text.data)), UNSEEN - 1))
    table = EntropyTable(tables=tables, fallback=fallback, threshold=UNSEEN)
    return EntropyTable(
        tables=tables,
        fallback=fallback,
        threshold=threshold_for(entropies(table, text.data, text.start), mean_segment),
    )


def threshold_for(values: U8, mean_segment: float) -> int:
    """The least threshold whose mean segment over these entropies is at least as long as wanted.

    At least, and not nearest: on text so repetitive that segments of 1 or of 40 bytes are all there is, short ones
    would be no compression.
    """
    above = len(values) - np.cumsum(np.bincount(values, minlength=256))
    return int(np.flatnonzero(above * mean_segment <= len(values))[0])


def _contexts(data: U8, start: I64, positions: I64) -> U8:
    contexts = contexts_at(data, positions, CONTEXT_BYTES)
    inside = positions[:, None] - 1 - np.arange(CONTEXT_BYTES)[None, :] >= start[positions][:, None]
    return np.where(inside, contexts, 0).astype(np.uint8)
