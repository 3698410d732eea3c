"""What byte LMs have in common: the interface that segments and coders are built on, and integer frequencies.

A model gives p(next byte | bytes before it in its document). Coders take it as integers that sum to 2^16, so that what
they decide is exact; segmentation takes its entropy in steps of 1/256 bit. Two models: `small.py` (integers all
through, the same on every machine) and `transformer.py` (floating point, the same on one kind of machine).
"""

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from compressor_model.text import Text

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
I8 = npt.NDArray[np.int8]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

FREQUENCY_TOTAL = 1 << 16
"""Integer frequencies of the next byte sum to this, each at least 1."""

ENTROPY_UNITS = 256
"""Steps of an entropy in a bit."""

STEPS_PER_NAT = 256
"""Resolution of the exponential table: probabilities are good to 0.2 %."""

_EXP_RATIO = 18374827034086858297  # round(2^64 * exp(-1/256))
# 2^28: a row's weights sum to less than 2^37, so that the float64 quotient of two integers, at most 2^16, is at
# least 2^-37 away from the integer above it, more than its rounding error: the floor of it is exact.
_EXP_ONE = 1 << 28


class ByteLM(Protocol):
    """What segmentation, codebook and coders need of a byte language model."""

    def frequencies(self, text: Text) -> U32:
        """Integer frequencies before each byte, from the bytes before it in its own document.

        Args:
            text: n bytes; 1 KB of memory a byte, so callers keep it to about 64 KiB.

        Returns:
            uint32 [n, 256], each row >= 1 and summing to FREQUENCY_TOTAL.
        """
        ...

    def next_frequencies(self, strings: Sequence[bytes]) -> U32:
        """Integer frequencies of the byte after each string, in a fresh context: uint32 [n, 256], rows as above."""
        ...

    def entropies(self, text: Text) -> U16:
        """Entropy before each byte, uint16 [n] in 1/256 bit, of the model's full context; any length of text."""
        ...


@cache
def exponentials() -> F64:
    """round-down of 2^28 exp(-i / 256), i = 0, 1, .., down to 0, by integer multiplication: float64 integers."""
    table, value = [], _EXP_ONE << 64
    while value >> 64:
        table.append(value >> 64)
        value = (value * _EXP_RATIO) >> 64
    return np.array([*table, 0], np.float64)


def softmax_frequencies(logits: I32, nats: int) -> U32:
    """Integer frequencies of softmax(logits * nats / 2^32), computed in integers.

    With integer weights of the probabilities p_b, by the table of `exponentials`: q_b = floor(65280 p_b) + 1, and what
    is left of 2^16 to the largest q, ties to the smaller byte. The 256 ones make every byte codable.

    Args:
        logits: int32 [n, 256].
        nats: of one unit of a logit, as a fraction of 2^32.

    Returns:
        uint32 [n, 256], see `ByteLM.frequencies`.
    """
    from compressor_model import kernels

    result = np.empty(logits.shape, np.uint32)
    kernels.softmax_frequencies(logits, nats * STEPS_PER_NAT, exponentials(), result)
    return result


def information(frequencies: U32, data: U8) -> F64:
    """Bits that each byte costs: float64 [n] of frequencies uint32 [n, 256] and bytes uint8 [n]."""
    return 16 - np.log2(frequencies[np.arange(len(data)), data])


def entropies_of(frequencies: U32) -> U16:
    """Entropy of each row of integer frequencies, uint16 [n] in 1/256 bit.

    H = 16 - sum q log2(q) / 2^16 with each term rounded to an integer in units of 2^-24 bit: sums of integers, so the
    same on every machine, and off by 256 half units at most, 2^-17 bit.
    """
    terms = _entropy_terms()[frequencies].sum(axis=1, dtype=np.int64)
    return (((1 << 28) - terms + (1 << 15)) >> 16).astype(np.uint16)


@cache
def _entropy_terms() -> I32:
    q = np.arange(FREQUENCY_TOTAL + 1, dtype=np.float64)
    return np.rint(q * np.log2(np.maximum(q, 1)) * (1 << 8)).astype(np.int32)


def bits_per_byte(model: ByteLM, text: Text, limit: int = 1 << 20) -> float:
    """Mean code length in bits of the text's first `limit` bytes under the model's integer frequencies.

    Taken in pieces of 64 KiB, each with a fresh context at its start.
    """
    total = 0.0
    for piece in text.first(limit).pieces(1 << 16):
        total += float(information(model.frequencies(piece), piece.data).sum())
    return total / min(limit, len(text.data))
