"""The codebook against golden values, a big-integer coder and constriction."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor_model import codebook
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.model import quantised_frequencies

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "golden.json").read_text())["codebook"]


def toy_frequencies(strings: Sequence[bytes]) -> np.ndarray:
    """A byte likes to be followed by itself; else weights 1..17 by value."""
    weights = np.tile((np.arange(256) % 17 + 1).astype(np.float64), (len(strings), 1))
    for row, string in enumerate(strings):
        if string:
            weights[row, string[-1]] += 700
    return quantised_frequencies(weights)


def random_frequencies(seed: int, sharpness: float):
    """A language model of hashed contexts: any string has its own arbitrary distribution."""

    def frequencies(strings: Sequence[bytes]) -> np.ndarray:
        rows = []
        for string in strings:
            key = int.from_bytes(hashlib.blake2b(string[-2:] + bytes([seed]), digest_size=8).digest(), "little")
            rows.append(np.floor(np.random.default_rng(key).exponential(1, 256) ** sharpness * 1000))
        return quantised_frequencies(np.array(rows) + 1)

    return frequencies


def plain_children(codewords: int, frequencies: list[int], *, is_root: bool) -> list[int]:
    """Weights of the children in plain integers, straight from the formula."""
    weights = [codewords * q >> 16 for q in frequencies]
    by_remainder = sorted(range(256), key=lambda b: (-(codewords * frequencies[b] % 65536), b))
    for b in by_remainder[: codewords - sum(weights)]:
        weights[b] += 1
    while is_root and 0 in weights:
        largest = max(range(256), key=lambda b: (weights[b], -b))
        owed = weights.count(0) if weights[largest] > weights.count(0) else weights[largest] - 1
        for b in [b for b in range(256) if weights[b] == 0][:owed]:
            weights[b] = 1
            weights[largest] -= 1
    return weights


def interval(string: bytes, bits: int, frequencies) -> tuple[int, int]:
    """[low, low + R) of a string by the big-integer coder over (end, children); R = 0 if it has no node."""
    low, size = -1, (1 << bits) + 1
    for at, byte in enumerate(string):
        weights = plain_children(size - 1, frequencies([string[:at]])[0].tolist(), is_root=at == 0)
        low, size = low + 1 + sum(weights[:byte]), weights[byte]
    return low, size


def test_toy_codebook_of_12_bits_matches_golden_values() -> None:
    strings = codebook.build(12, toy_frequencies).strings()
    expected = GOLDEN["12"]
    assert [string.hex() for string in strings[:24]] == expected["first"]
    assert [string.hex() for string in strings[-8:]] == expected["last"]
    assert max(strings, key=len).hex() == expected["longest"]
    assert sum(map(len, strings)) / len(strings) == expected["mean_length"]
    joined = b"".join(bytes([len(string)]) + string for string in strings)
    assert hashlib.sha256(joined).hexdigest() == expected["sha256_of_length_prefixed_strings"]


def test_golden_toy_codebook_of_9_bits_is_no_tree_and_ours_is() -> None:
    """With 9 bits the golden program takes 29 codewords from a byte that has 4, and its intervals overlap.

    Nothing smaller than 12 bits is offered; there, and wherever the largest can pay, both agree.
    """
    golden_first = [bytes.fromhex(string) for string in GOLDEN["9"]["first"]]
    assert golden_first != sorted(golden_first)
    strings = codebook.build(9, toy_frequencies).strings()
    assert strings == sorted(set(strings))
    assert {bytes([byte]) for byte in range(256)} <= set(strings)


@pytest.mark.parametrize("frequencies", [toy_frequencies, random_frequencies(1, 1), random_frequencies(2, 6)])
@pytest.mark.parametrize("bits", [9, 12])
def test_codebook_is_a_lossless_prefix_closed_code(frequencies, bits: int) -> None:
    strings = codebook.build(bits, frequencies).strings()
    assert len(strings) == len(set(strings)) == 1 << bits
    assert strings == sorted(strings)  # preorder with children in byte order
    assert {bytes([byte]) for byte in range(256)} <= set(strings)  # every byte string can be coded
    assert all(len(string) == 1 or string[:-1] in set(strings) for string in strings[:: 1 + len(strings) // 512])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 255), sharpness=st.sampled_from([0.5, 1.0, 3.0, 8.0]), data=st.data())
def test_intervals_equal_the_big_integer_coder(seed: int, sharpness: float, data: st.DataObject) -> None:
    frequencies = random_frequencies(seed, sharpness)
    book = codebook.build(12, frequencies)
    strings = book.strings()
    for code in data.draw(st.lists(st.integers(0, 4095), min_size=1, max_size=5)):
        low, size = interval(strings[code], 12, frequencies)
        below = next((n for n in range(code + 1, 4096) if book.depth[n] <= book.depth[code]), 4096)
        assert (low, size) == (code, below - code)


def test_length_agrees_with_constriction() -> None:
    """The same per-node weights as categorical models cost constriction's coder what the intervals say."""
    frequencies = random_frequencies(3, 2)
    strings = codebook.build(12, frequencies).strings()
    rng = np.random.default_rng(0)
    encoder = constriction.stream.queue.RangeEncoder()
    ideal, coded = 0.0, 0
    for code in rng.integers(0, 4096, 400).tolist():
        size = 4097
        for at, byte in enumerate([*strings[code], None]):
            if size == 1:
                break
            weights = plain_children(size - 1, frequencies([strings[code][:at]])[0].tolist(), is_root=at == 0)
            # at the root an empty window has no codeword: its weight of 1 is never used
            shares = np.array([1, *weights], np.float64) / size
            symbol = 0 if byte is None else byte + 1
            encoder.encode(symbol, constriction.stream.model.Categorical(shares, perfect=False))
            ideal -= math.log2(shares[symbol])
            coded += 1
            size = 1 if byte is None else weights[byte]
    bits = 32 * len(encoder.get_compressed())
    assert ideal <= bits + 1
    assert bits <= ideal + 32 + 0.01 * coded


def test_parents_are_the_strings_without_their_last_byte() -> None:
    book = codebook.build(12, random_frequencies(4, 4))
    strings = book.strings()
    for code, parent in enumerate(book.parents().tolist()):
        assert strings[code][:-1] == (strings[parent] if parent >= 0 else b"")


def test_shipped_codebooks_are_those_of_the_shipped_language_model() -> None:
    compressor = open_compressor(PRETRAINED)
    model = compressor.lm()
    for bits in compressor.bits:
        rebuilt = codebook.build(bits, codebook.lm_frequencies(model))
        assert np.array_equal(rebuilt.depth, compressor.codebook(bits).depth)
        assert np.array_equal(rebuilt.last, compressor.codebook(bits).last)
