"""The range coder: constriction's words, cut by information; caching changes nothing."""

import math

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.model import ByteLM
from compressor_model.range_coder import RangeCoder, code_words, cut, first_symbols, symbol_count
from compressor_model.text import Text


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    return open_compressor(PRETRAINED).lm()


def frequencies_of(lm: ByteLM, data: bytes) -> np.ndarray:
    return lm.frequencies(Text.of([data]))


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=400))
def test_words_decode_with_the_same_frequencies_and_have_the_ideal_length(lm: ByteLM, data: bytes) -> None:
    frequencies = frequencies_of(lm, data)
    raw = np.frombuffer(data, np.uint8)
    words = code_words(raw, frequencies)
    decoder = constriction.stream.queue.RangeDecoder(words)
    family = constriction.stream.model.Categorical(perfect=False)
    assert decoder.decode(family, frequencies.astype(np.float32) / np.float32(65536)).tolist() == list(data)
    ideal = sum(16 - math.log2(frequencies[at, byte]) for at, byte in enumerate(data))
    assert 32 * len(words) <= ideal + 64


@given(st.lists(st.integers(0, 2**32 - 1), max_size=6), st.integers(1, 20), st.integers(12, 16))
def test_symbols_are_groups_of_the_words_bits(words: list[int], count: int, bits: int) -> None:
    symbols = first_symbols(np.array(words, np.uint32), count, bits)
    stream = "".join(f"{word:032b}" for word in words).ljust(1000, "0")
    assert symbols.tolist() == [int(stream[n * bits : (n + 1) * bits], 2) for n in range(count)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30))
def test_cache_changes_nothing(lm: ByteLM, segments: list[bytes]) -> None:
    coder = RangeCoder(lm, 16)
    together = coder.encode(segments)
    again = coder.encode(segments)
    alone = [RangeCoder(lm, 16).encode([segment])[0] for segment in segments]
    for a, b, c in zip(together, again, alone, strict=True):
        assert a.tolist() == b.tolist() == c.tolist()
    assert coder.misses == len(set(segments))
    assert coder.hits == 2 * len(segments) - len(set(segments))


def test_symbols_are_the_words_of_the_segment_alone(lm: ByteLM) -> None:
    segment = b"    def __init__(self, *args, **kwargs) -> None:\n"
    frequencies = frequencies_of(lm, segment)
    information = sum(16 - math.log2(frequencies[at, byte]) for at, byte in enumerate(segment))
    words = code_words(np.frombuffer(segment, np.uint8), frequencies)
    expected = first_symbols(words, math.ceil(information / 14), 14)
    assert RangeCoder(lm, 14).encode([segment])[0].tolist() == expected.tolist()
    assert len(expected) == math.ceil(information / 14)


def test_segments_end_after_the_limit_at_the_latest() -> None:
    starts = np.zeros(25, bool)
    starts[[0, 3, 20]] = True
    assert cut(starts, 8).tolist() == [0, 3, 11, 19, 20]
    assert cut(starts, 100).tolist() == [0, 3, 20]
    assert cut(np.zeros(0, bool), 8).tolist() == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20), st.integers(12, 16))
def test_never_more_than_one_symbol_a_byte(lm: ByteLM, segments: list[bytes], bits: int) -> None:
    for segment, symbols in zip(segments, RangeCoder(lm, bits).encode(segments), strict=True):
        assert 1 <= len(symbols) <= len(segment)
        assert int(symbols.max()) < 1 << bits


@pytest.mark.parametrize(
    ("size", "information", "count"), [(1, 0.0, 1), (1, 40.0, 1), (3, 32.0, 2), (3, 32.1, 3), (9, 1.0, 1)]
)
def test_count_of_symbols(size: int, information: float, count: int) -> None:
    assert symbol_count(size, information, 16) == count
