"""A big-integer arithmetic coder, straight from docs/coding.md, and language models to try it on."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from compressor_model.codebook import Frequencies


def quantised(weights: np.ndarray) -> np.ndarray:
    """Frequencies of integer weights [n, 256]: 1 + floor(65280 share), what is left of 2^16 to the largest."""
    whole = weights.astype(np.int64)
    frequencies = 1 + whole * 65280 // whole.sum(axis=1, keepdims=True)
    frequencies[np.arange(len(whole)), frequencies.argmax(axis=1)] += 65536 - frequencies.sum(axis=1)
    return frequencies.astype(np.uint32)


def toy_frequencies(strings: Sequence[bytes]) -> np.ndarray:
    """A byte likes to be followed by itself; else weights 1..17 by value."""
    weights = np.tile(np.arange(256) % 17 + 1, (len(strings), 1))
    for row, string in enumerate(strings):
        if string:
            weights[row, string[-1]] += 700
    return quantised(weights)


def tied_frequencies(strings: Sequence[bytes]) -> np.ndarray:
    """Two bytes that share all but the least of the others: ties wherever the coder compares."""
    weights = np.ones((len(strings), 256), np.int64)
    weights[:, [65, 66]] = (65536 - 254) // 2
    return weights.astype(np.uint32)


def random_frequencies(seed: int, sharpness: float) -> Frequencies:
    """A language model of the last two bytes: each pair has its own arbitrary distribution."""
    rows: dict[bytes, np.ndarray] = {}

    def row(context: bytes) -> np.ndarray:
        if context not in rows:
            key = int.from_bytes(hashlib.blake2b(context + bytes([seed]), digest_size=8).digest(), "little")
            weights = np.floor(np.random.default_rng(key).exponential(1, 256) ** sharpness * 1000) + 1
            rows[context] = quantised(np.minimum(weights, 2**28)[None, :])[0]
        return rows[context]

    return lambda strings: np.array([row(string[-2:]) for string in strings], np.uint32)


class IntervalTwin:
    """Intervals of any string over the symbols (end, 256 bytes), by Python's integers.

    Args:
        bits: of a codeword.
        frequencies: the language model.
    """

    def __init__(self, bits: int, frequencies: Frequencies) -> None:
        self.bits = bits
        self.frequencies = frequencies
        self._weights: dict[bytes, list[int]] = {}
        self._intervals: dict[bytes, tuple[int, int]] = {b"": (-1, (1 << bits) + 1)}

    def shares(self, string: bytes) -> list[int]:
        """The model's frequencies after a string."""
        return self.frequencies([string])[0].tolist()

    def weights(self, string: bytes) -> list[int]:
        """Codewords of each child of a node."""
        if string not in self._weights:
            codewords = self.interval(string)[1] - 1
            weights = largest_remainders(codewords, self.shares(string))
            self._weights[string] = weights if string else self._paid(weights)
        return self._weights[string]

    def interval(self, string: bytes) -> tuple[int, int]:
        """(low, R); R = 0 where the string is no node, and low then means nothing."""
        if string not in self._intervals:
            low, size = self.interval(string[:-1])
            if size:
                weights = self.weights(string[:-1])
                low, size = low + 1 + sum(weights[: string[-1]]), weights[string[-1]]
            self._intervals[string] = low, size
        return self._intervals[string]

    @cached_property
    def payments(self) -> list[int]:
        """Codewords that each first byte gave to those that would have had none, [256]."""
        before = largest_remainders(1 << self.bits, self.shares(b""))
        return [max(b - after, 0) for b, after in zip(before, self.weights(b""), strict=True)]

    @cached_property
    def nodes(self) -> list[bytes]:
        """All nodes but the root, in preorder."""
        found, stack = [], [b""]
        while stack:
            node = stack.pop()
            found.append(node)
            if self.interval(node)[1] > 1:
                stack += [node + bytes([b]) for b in reversed(range(256)) if self.weights(node)[b]]
        return found[1:]

    def windows(self, data: bytes) -> list[tuple[int, bytes]]:
        """The coder at work: narrow the interval while a codeword is left in it, then send its lower end."""
        sent, start = [], 0
        for end in range(1, len(data) + 1):
            if end == len(data) or not self.interval(data[start : end + 1])[1]:
                sent.append((self.interval(data[start:end])[0], data[start:end]))
                start = end
        return sent

    def _paid(self, weights: list[int]) -> list[int]:
        owed = weights.count(0)
        weights = [max(weight, 1) for weight in weights]
        while owed:
            largest = weights.index(max(weights))
            part = min(owed, weights[largest] - 1)
            weights[largest] -= part
            owed -= part
        return weights


def largest_remainders(codewords: int, shares: Sequence[int]) -> list[int]:
    """Whole codewords by shares of 2^16: each its floor, and what is left one each to the largest remainders."""
    parts = [divmod(codewords * share, 1 << 16) for share in shares]
    weights = [whole for whole, _ in parts]
    remainders = [rest for _, rest in parts]
    by_remainder = sorted(range(256), key=remainders.__getitem__, reverse=True)  # stable: of equals the smaller first
    for byte in by_remainder[: codewords - sum(weights)]:
        weights[byte] += 1
    return weights
