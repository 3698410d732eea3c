"""The paper's literal coder: each segment through a range coder with the byte LM's frequencies.

The context runs on inside a segment and starts anew in the next, so a segment's symbols are a function of its
bytes alone: they are cached (about 98 % of segments are hits on source code). Symbols are the first
min(bytes of the segment, max(1, ceil(I / bits))) groups of `bits` bits of the coder's 32-bit words, high bit first,
zero-padded, I being the segment's information in bits. So there is never more than one symbol a byte, whatever the
model makes of the text. What the words held beyond that is dropped: this coder cannot be decoded.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compressor_model.model import FREQUENCY_TOTAL, U32, ByteLM, information
from compressor_model.text import I64, U8, Text, batches

MAX_SEGMENT = 4096
"""A segment ends after this many bytes at the latest."""

CACHE_ENTRIES = 1 << 18
"""Segments remembered: about 60 MB of Python objects. The oldest are forgotten; the output does not change."""

_BATCH_BYTES = 1 << 16


def cut(starts: npt.NDArray[np.bool_], max_segment: int = MAX_SEGMENT) -> I64:
    """First byte of each segment, int64 [s], from a bool per byte; longer segments are cut every `max_segment`."""
    first = np.flatnonzero(starts).astype(np.int64)
    lengths = np.diff(first, append=len(starts))
    if not (lengths > max_segment).any():
        return first
    pieces = -(-lengths // max_segment)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.repeat(first, pieces) + within * max_segment


class RangeCoder:
    """Codes segments; remembers what it coded.

    Args:
        model: the byte LM.
        bits: of a symbol, 12..16.
    """

    def __init__(self, model: ByteLM, bits: int) -> None:
        self._model = model
        self._bits = bits
        self._cache: OrderedDict[bytes, U32] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def encode(self, segments: Sequence[bytes]) -> list[U32]:
        """The symbols of each segment: uint32 [`symbol_count`], each below 2^bits."""
        cache = self._cache
        with self._lock:  # another thread's segments may push these out before they are read again
            known = {segment: cache[segment] for segment in segments if segment in cache}
        new = list(dict.fromkeys(segment for segment in segments if segment not in known))
        symbols = (one for batch in batches(new, _BATCH_BYTES) for one in self._code_batch(batch))
        known |= zip(new, symbols, strict=True)
        with self._lock:
            self.hits += len(segments) - len(new)
            self.misses += len(new)
            cache.update((segment, known[segment]) for segment in new)
            while len(cache) > CACHE_ENTRIES:
                cache.popitem(last=False)
        return [known[segment] for segment in segments]

    def forget(self) -> None:
        """Empty the cache and its counters."""
        self._cache.clear()
        self.hits = self.misses = 0

    def _code_batch(self, segments: list[bytes]) -> list[U32]:
        text = Text.of(segments)
        frequencies = self._model.frequencies(text)
        bits = information(frequencies, text.data)
        ends = np.cumsum([len(segment) for segment in segments])
        result = []
        for segment, end in zip(segments, ends.tolist(), strict=True):
            part = slice(end - len(segment), end)
            words = code_words(text.data[part], frequencies[part])
            count = symbol_count(len(segment), float(bits[part].sum()), self._bits)
            result.append(first_symbols(words, count, self._bits))
        return result


def code_words(data: U8, frequencies: U32) -> U32:
    """The words of constriction's range coder for bytes under integer frequencies.

    Args:
        data: uint8 [n].
        frequencies: uint32 [n, 256], rows summing to 2^16.

    Returns:
        uint32 words in order.
    """
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    # Multiples of 2^-16 are exact in float32 and in the coder's 24-bit fixed point.
    family = constriction.stream.model.Categorical(perfect=False)
    encoder.encode(data.astype(np.int32), family, frequencies.astype(np.float32) / np.float32(FREQUENCY_TOTAL))
    words: U32 = encoder.get_compressed()
    return words


def symbol_count(size: int, information: float, bits: int) -> int:
    """Symbols of a segment of `size` bytes and `information` bits: min(size, max(1, ceil(information / bits)))."""
    return min(size, max(1, math.ceil(information / bits)))


def first_symbols(words: U32, count: int, bits: int) -> U32:
    """The first `count` groups of `bits` bits of words, high bit first, zero-padded: uint32 [count]."""
    stream = np.unpackbits(words.astype(">u4").view(np.uint8))
    padded = np.zeros(count * bits, np.uint8)
    kept = stream[: len(padded)]
    padded[: len(kept)] = kept
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint32)
    return (padded.reshape(count, bits) @ weights).astype(np.uint32)
