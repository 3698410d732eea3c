"""The `small` byte LM: hashed contexts of 1 to 6 bytes, in integers, so that a symbol is the same on every machine.

p(next byte | last 6 bytes) = softmax(W relu(sum_k E_k[hash(last k bytes)] + b) + c), k = 1..6. Training is in
floating point (`small_training.py`); what is stored and run here is its 8-bit form. A hidden unit is a sum of six int8
and a bias (below 2^11), a logit a sum of 64 products with int8 weights (below 2^24), so a float32 matrix product
computes it exactly in any order, on any BLAS, in any batch. The exponential is a table of integers.

About 1 MB/s on two cores in numpy. An absent context byte (before the start) is absent, not zero: its orders add
nothing, which is what "fresh context" means for the coders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compressor_model.model import (
    F32,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    entropies_of,
    softmax_frequencies,
)
from compressor_model.text import Text

ORDERS = 6
"""Longest context of the small model in bytes."""

HASH_MULTIPLIER = 0x9E3779B97F4A7C15
"""2^64 / golden ratio: Fibonacci hashing takes the upper bits of the product."""

MAX_HIDDEN_BIAS = 1000
"""What quantising clips the hidden bias to, in its units."""

_EXACT = 1 << 24  # below it, float32 holds every integer

MAX_WIDTH = (_EXACT - (1 << 20)) // ((ORDERS * 127 + MAX_HIDDEN_BIAS) * 127)
"""Hidden units (70) whose largest sum stays exact with 2^20 to spare for the output bias; see `max_output_bias`."""

_BATCH = 1024  # contexts evaluated at once: their 1024 x 256 logits fit the L2 cache


def max_output_bias(width: int) -> int:
    """Largest output bias with which the logits of any model of this width are exact in float32."""
    return _EXACT - 1 - (ORDERS * 127 + MAX_HIDDEN_BIAS) * 127 * width


def context_hashes(contexts: U8) -> U64:
    """Hash of the last k bytes for k = 1..K.

    Args:
        contexts: uint8 [n, K], newest byte first.

    Returns:
        uint64 [n, K]: h_k * HASH_MULTIPLIER mod 2^64 with h_0 = 0, h_k = 257 h_{k-1} + contexts[:, k-1] + 1.
    """
    hashes = np.empty(contexts.shape, np.uint64)
    h = np.zeros(len(contexts), np.uint64)
    for k in range(contexts.shape[1]):
        h = h * np.uint64(257) + contexts[:, k].astype(np.uint64) + np.uint64(1)
        hashes[:, k] = h * np.uint64(HASH_MULTIPLIER)
    return hashes


def contexts(text: Text, positions: I64) -> tuple[U8, I64]:
    """What is before positions, int64 [n].

    Returns:
        The last ORDERS bytes, uint8 [n, ORDERS] newest first, and how many of them are in the document, int64 [n];
        the others may be anything.
    """
    index = np.maximum(positions[:, None] - 1 - np.arange(ORDERS), 0)
    return text.data[index], np.minimum(positions - text.start[positions], ORDERS)


@dataclass(frozen=True, kw_only=True)
class SmallByteLM:
    """The 8-bit hashed context model; implements `ByteLM`.

    Attributes:
        embeddings: int8 [ORDERS, rows, width], rows a power of two.
        hidden_bias: int16 [width], in units of the embeddings.
        output: int8 [256, width].
        output_bias: int32 [256], in units of a logit.
        logit_scale: nats of one unit of a logit, as a fraction of 2^32.

    Raises:
        ValueError: arrays of other types or shapes, or so large that logits would not be exact.
    """

    embeddings: I8
    hidden_bias: I16
    output: I8
    output_bias: I32
    logit_scale: int

    def __post_init__(self) -> None:
        rows, width = (*self.embeddings.shape, 0, 0)[1:3]
        for name, dtype, shape in (
            ("embeddings", np.int8, (ORDERS, rows, width)),
            ("hidden_bias", np.int16, (width,)),
            ("output", np.int8, (256, width)),
            ("output_bias", np.int32, (256,)),
        ):
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name}: {array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}")
        if rows < 2 or rows & (rows - 1) or not width:
            raise ValueError(f"embeddings: {rows} rows of {width}; rows must be a power of two")
        if not 0 < self.logit_scale < 1 << 32:
            raise ValueError(f"logit_scale: {self.logit_scale} is not between 0 and 1 nat")
        hidden = ORDERS * 127 + int(np.abs(self.hidden_bias.astype(np.int64)).max())
        bound = hidden * 127 * width + int(np.abs(self.output_bias.astype(np.int64)).max())
        if bound >= _EXACT:
            raise ValueError(f"logits may reach {bound}: float32 sums would not be exact")

    def logits(self, contexts: U8, lengths: I64) -> I32:
        """Exact integer logits, int32 [n, 256]; arguments as `contexts` gives them."""
        shift = np.uint64(64 - (self.embeddings.shape[1].bit_length() - 1))
        rows = (context_hashes(contexts) >> shift).astype(np.int64)
        hidden = np.tile(self.hidden_bias, (len(contexts), 1))
        for k in range(ORDERS):
            present = (lengths > k)[:, None]
            hidden += self.embeddings[k][rows[:, k]] * present
        activation = np.maximum(hidden, 0).astype(np.float32)
        product = activation @ self.output.T.astype(np.float32)
        return product.astype(np.int32) + self.output_bias

    def frequencies(self, text: Text) -> U32:
        """See `ByteLM.frequencies`."""
        parts = [part for _, part in self._parts(text)]
        return np.concatenate([np.empty((0, 256), np.uint32), *parts])

    def next_frequencies(self, strings: Sequence[bytes]) -> U32:
        """See `ByteLM.next_frequencies`."""
        tails = [string[: -ORDERS - 1 : -1] for string in strings]
        lengths = np.array([len(tail) for tail in tails], np.int64)
        padded = np.frombuffer(b"".join(tail.ljust(ORDERS, b"\0") for tail in tails), np.uint8).reshape(-1, ORDERS)
        result = np.empty((len(tails), 256), np.uint32)
        for at in range(0, len(tails), _BATCH):
            part = slice(at, at + _BATCH)
            result[part] = softmax_frequencies(self.logits(padded[part], lengths[part]), self.logit_scale)
        return result

    def entropies(self, text: Text) -> U16:
        """See `ByteLM.entropies`."""
        result = np.empty(len(text.data), np.uint16)
        for part, frequencies in self._parts(text):
            result[part] = entropies_of(frequencies)
        return result

    def _parts(self, text: Text) -> Iterator[tuple[slice, U32]]:
        for at in range(0, len(text.data), _BATCH):
            positions = np.arange(at, min(at + _BATCH, len(text.data)), dtype=np.int64)
            logits = self.logits(*contexts(text, positions))
            yield slice(at, at + len(positions)), softmax_frequencies(logits, self.logit_scale)


def quantised(embeddings: F32, hidden_bias: F32, output: F32, output_bias: F32) -> SmallByteLM:
    """Round float weights, shapes as in `SmallByteLM`, to 8 bits with one scale per matrix.

    A hidden unit may be scaled by any positive factor if its output column is divided by it (relu is homogeneous).
    That freedom gives each unit's embeddings the same range, so that one scale fits all of them.
    """
    spread = np.quantile(np.abs(embeddings).reshape(-1, embeddings.shape[2]), 0.9995, axis=0)
    spread = np.maximum(spread, 1e-6)
    embeddings, hidden_bias, output = embeddings / spread, hidden_bias / spread, output * spread
    unit_in = 1 / 127
    unit_out = float(np.abs(output).max()) / 127
    unit = unit_in * unit_out
    room = max_output_bias(output.shape[1])
    return SmallByteLM(
        embeddings=np.clip(np.rint(embeddings / unit_in), -127, 127).astype(np.int8),
        hidden_bias=np.clip(np.rint(hidden_bias / unit_in), -MAX_HIDDEN_BIAS, MAX_HIDDEN_BIAS).astype(np.int16),
        output=np.clip(np.rint(output / unit_out), -127, 127).astype(np.int8),
        output_bias=np.clip(np.rint(output_bias / unit), -room, room).astype(np.int32),
        logit_scale=round(unit * 2**32),
    )
