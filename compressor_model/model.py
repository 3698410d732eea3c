"""The `small` byte LM as the coders see it: integers only, so that a symbol is the same on every machine.

p(next byte | last 6 bytes) = softmax(W relu(sum_k E_k[hash(last k bytes)] + b) + c), k = 1..6. Training is in
floating point (`train.py`); what is stored and run here is its 8-bit form. A hidden unit is a sum of six int8
and a bias (below 2^11), a logit a sum of 64 products with int8 weights (below 2^24), so a float32 matrix product
computes it exactly in any order, on any BLAS, in any batch. The exponential is a table of integers.

About 1 MB/s on two cores in numpy. An absent context byte (before the start) is absent, not zero: its orders add
nothing, which is what "fresh context" means for the coders.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]

ORDERS = 6
"""Longest context in bytes."""

HASH_MULTIPLIER = 0x9E3779B97F4A7C15
"""2^64 / golden ratio: Fibonacci hashing takes the upper bits of the product."""

FREQUENCY_TOTAL = 1 << 16
"""Integer frequencies of the next byte sum to this, each at least 1."""

STEPS_PER_NAT = 256
"""Resolution of the exponential table: probabilities are good to 0.2 %."""

_EXP_RATIO = 18374827034086858297  # round(2^64 * exp(-1/256))
# 2^28: a row's weights sum to less than 2^37, so that the float64 quotient of two integers, at most 2^16, is at
# least 2^-37 away from the integer above it, more than its rounding error: the floor of it is exact.
_EXP_ONE = 1 << 28
MAX_HIDDEN_BIAS = 1000
"""What training clips the hidden bias to, in its units."""

_EXACT = 1 << 24  # below it, float32 holds every integer

MAX_WIDTH = (_EXACT - (1 << 20)) // ((ORDERS * 127 + MAX_HIDDEN_BIAS) * 127)
"""Hidden units (70) whose largest sum stays exact with 2^20 to spare for the output bias; see `max_output_bias`."""

_BATCH = 1024  # contexts evaluated at once: their 1024 x 256 logits fit the L2 cache


class ByteLM(Protocol):
    """What codebook and coders need of a byte language model."""

    def frequencies(self, contexts: U8, lengths: I64) -> U32:
        """Integer frequencies of the next byte after each context.

        Args:
            contexts: uint8 [n, ORDERS], the last bytes, newest first; entries beyond the length are ignored.
            lengths: int64 [n], context bytes present, 0..ORDERS.

        Returns:
            uint32 [n, 256], each row >= 1 and summing to FREQUENCY_TOTAL.
        """
        ...


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


def contexts_at(data: U8, positions: I64, orders: int = ORDERS) -> U8:
    """The `orders` bytes before each position, newest first, 0 before the start: uint8 [n, orders]."""
    index = positions[:, None] - 1 - np.arange(orders)[None, :]
    return np.where(index >= 0, data[np.maximum(index, 0)], 0).astype(np.uint8)


def quantised_frequencies(weights: F64) -> U32:
    """Integer frequencies from nonnegative integer weights, float64 [n, 256] of integers below 2^29.

    q_b = floor(65280 p_b) + 1, what is left of 2^16 to the largest q, ties to the smaller byte. The 256 ones
    make every byte codable. The plain twin of `kernels.softmax_frequencies`.
    """
    totals = weights.sum(axis=1, keepdims=True)
    q = np.floor(weights * (FREQUENCY_TOTAL - 256) / totals).astype(np.uint32) + np.uint32(1)
    rows = np.arange(len(q))
    q[rows, q.argmax(axis=1)] += (FREQUENCY_TOTAL - q.sum(axis=1)).astype(np.uint32)
    return q


def entropy_bits(frequencies: U32) -> F64:
    """Entropy in bits of each row of integer frequencies, float64 [n]; computed in float32, good to 1e-5."""
    q = frequencies.astype(np.float32)
    return 16 - (q * np.log2(q)).sum(axis=1).astype(np.float64) / FREQUENCY_TOTAL


def exponentials() -> F64:
    """round-down of 2^28 exp(-i / 256), i = 0, 1, .., down to 0, by integer multiplication: float64 integers."""
    table, value = [], _EXP_ONE << 64
    while value >> 64:
        table.append(value >> 64)
        value = (value * _EXP_RATIO) >> 64
    return np.array([*table, 0], np.float64)


@dataclass(frozen=True, kw_only=True)
class SmallByteLM:
    """The 8-bit hashed context model; implements `ByteLM`.

    Attributes:
        embeddings: int8 [ORDERS, rows, width], rows a power of two.
        hidden_bias: int16 [width], in units of the embeddings.
        output: int8 [256, width].
        output_bias: int32 [256], in units of a logit.
        logit_scale: nats of one unit of a logit, as a fraction of 2^32.
    """

    embeddings: I8
    hidden_bias: I16
    output: I8
    output_bias: I32
    logit_scale: int

    def __post_init__(self) -> None:
        hidden = ORDERS * 127 + int(np.abs(self.hidden_bias.astype(np.int64)).max())
        bound = hidden * 127 * self.output.shape[1] + int(np.abs(self.output_bias.astype(np.int64)).max())
        if bound >= _EXACT:
            raise ValueError(f"logits may reach {bound}: float32 sums would not be exact")

    def logits(self, contexts: U8, lengths: I64) -> I32:
        """Exact integer logits, int32 [n, 256]; arguments as in `ByteLM.frequencies`."""
        shift = np.uint64(64 - (self.embeddings.shape[1].bit_length() - 1))
        rows = (context_hashes(contexts[:, :ORDERS]) >> shift).astype(np.int64)
        hidden = np.broadcast_to(self.hidden_bias, (len(contexts), len(self.hidden_bias))).astype(np.int16)
        for k in range(ORDERS):
            present = (lengths > k)[:, None]
            hidden += self.embeddings[k][rows[:, k]] * present
        activation = np.maximum(hidden, 0).astype(np.float32)
        product = activation @ self.output.T.astype(np.float32)
        return product.astype(np.int32) + self.output_bias

    def frequencies(self, contexts: U8, lengths: I64) -> U32:
        """See `ByteLM.frequencies`."""
        from compressor_model import kernels

        table = exponentials()
        result = np.empty((len(contexts), 256), np.uint32)
        for at in range(0, len(contexts), _BATCH):
            part = slice(at, at + _BATCH)
            logits = self.logits(contexts[part], lengths[part])
            kernels.softmax_frequencies(logits, self.logit_scale * STEPS_PER_NAT, table, result[part])
        return result
