"""The compiled coder against a plain walk over the list of strings, and what its windows promise."""

import re
from bisect import bisect_right
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compressor_model import encoder
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.encoder import CodebookCoder, Windows
from compressor_model.segment import TableSegmenter
from compressor_model.text import I64, U8

COMPRESSOR = open_compressor(PRETRAINED)
SEGMENTER = TableSegmenter(COMPRESSOR.segments())
FORMS: list[tuple[Windows, bool]] = [
    ("segment", False),
    ("segment", True),
    ("packed", False),
    ("packed", True),
    ("equal-info", False),
]
SOURCE = Path(encoder.__file__).read_bytes()


class Coded:
    """A coder with its strings; a class of its own so that a failing test does not print 65,536 of them."""

    def __init__(self, coder: CodebookCoder, strings: list[bytes]) -> None:
        self.coder, self.strings = coder, strings
        self.codes = {string: code for code, string in enumerate(strings)}


@pytest.fixture(
    scope="module",
    params=[(bits, *form) for bits in COMPRESSOR.bits for form in FORMS],
    ids=lambda p: f"{p[0]}-{p[1]}{'-fuzz' * p[2]}",
)
def coded(request: pytest.FixtureRequest) -> Coded:
    bits, windows, fuzz = request.param
    book = COMPRESSOR.codebook(bits)
    return Coded(encoder.coder(book, windows, fuzz), book.strings())


def after(places: list[int], at: int, end: int) -> int:
    """The first of sorted places behind `at`, else the end."""
    index = bisect_right(places, at)
    return places[index] if index < len(places) else end


def plain_windows(coded: Coded, document: bytes, marks: list[int]) -> list[tuple[int, int]]:
    """Codeword and span of each window, by the definition of the coder's form."""
    windows, codes, end = coded.coder.windows, coded.codes, len(document)
    soft = [at for at, mark in enumerate(marks) if mark]
    lines = [match.end() for match in re.finditer(rb"\n[ \t\r\n]*", document)]
    stops = {"segment": soft, "packed": lines, "equal-info": []}[windows]
    ends = sorted({*soft, *stops})
    result = []
    at = 0
    while at < end:
        bound = after(stops, at, end)
        died = at + 1
        while died < bound and document[at : died + 1] in codes:
            died += 1
        walked, span = document[at:died], died - at
        if died < bound:
            dropped = after(ends, died, end) - died
            passed = [mark for mark in soft if at < mark <= died]
            if coded.coder.fuzz and died not in ends and dropped <= len(walked) // 4:
                span += dropped
            elif windows == "packed" and passed:
                span = passed[-1] - at
                walked = walked[:span]
        result.append((codes[walked], span))
        at += span
    return result


def encode(coder: CodebookCoder, documents: list[bytes], marks: U8 | None = None) -> tuple[list[int], list[int], I64]:
    offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    data = np.frombuffer(b"".join(documents), np.uint8)
    codes, spans, counts = coder.encode(data, offsets, SEGMENTER.marks(data, offsets) if marks is None else marks)
    assert (codes.dtype, spans.dtype, counts.dtype) == (np.uint32, np.uint16, np.int64)
    return codes.tolist(), spans.tolist(), counts


DOCUMENT = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(str.encode),
    st.text(" \t\r\nab=(", max_size=100).map(str.encode),
    st.integers(0, len(SOURCE)).map(lambda at: SOURCE[at : at + 300]),
    st.builds(lambda unit, count: unit * count, st.binary(min_size=1, max_size=2), st.integers(0, 400)),
)
"""Any bytes, any text, what looks like lines, code, and repetitions."""

DENSITY = st.sampled_from([None, 0.0, 0.05, 0.4, 1.0])
"""Share of bytes that are marked at random; None: as the table marks them."""


def drawn_marks(documents: list[bytes], density: float | None, seed: int) -> U8 | None:
    draws = np.random.default_rng(seed).random(sum(map(len, documents)))
    return None if density is None else (draws < density).astype(np.uint8)


@settings(max_examples=100, deadline=None)
@given(st.lists(DOCUMENT, min_size=1, max_size=5), DENSITY, st.integers(0, 99))
@example([b""], None, 0)
@example([b"", b"\x00", b"", bytes(range(256)), b"a" * 3000, b"tail\0\0\0", b"    " * 100], None, 0)
@example([SOURCE, b"", SOURCE[::-1]], 0.05, 1)
@example([b"if x:\n\ty = 1\n" * 20, b"if x:\r\n \n    y = 1\r" * 20], 0.0, 0)
@example([b" " * 5000, b"\n" * 3000, b"\n  \r\n\tx\n"], 0.01, 2)
def test_windows_are_their_definition_and_of_each_document_alone(
    coded: Coded, documents: list[bytes], density: float | None, seed: int
) -> None:
    marks = drawn_marks(documents, density, seed)
    codes, spans, counts = encode(coded.coder, documents, marks)
    used = encode_marks(documents) if marks is None else marks
    at = begin = 0
    for document, count in zip(documents, counts.tolist(), strict=True):
        own = used[begin : begin + len(document)].tolist()
        expected = plain_windows(coded, document, own)
        assert list(zip(codes[at : at + count], spans[at : at + count], strict=True)) == expected
        at, begin = at + count, begin + len(document)
    assert at == len(codes)


def encode_marks(documents: list[bytes]) -> U8:
    offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    return SEGMENTER.marks(np.frombuffer(b"".join(documents), np.uint8), offsets)


@settings(max_examples=100, deadline=None)
@given(st.lists(DOCUMENT, min_size=1, max_size=5), DENSITY, st.integers(0, 99))
def test_windows_cover_the_documents_and_decode(
    coded: Coded, documents: list[bytes], density: float | None, seed: int
) -> None:
    codes, spans, counts = encode(coded.coder, documents, drawn_marks(documents, density, seed))
    strings = [coded.strings[code] for code in codes]
    assert all(spans)  # so never more symbols than bytes
    bounds = np.cumsum([0, *counts])
    for document, first, last in zip(documents, bounds, bounds[1:], strict=False):
        assert sum(spans[first:last]) == len(document)
    assert coded.coder.decode(np.array(codes, np.uint32)) == b"".join(strings)
    if coded.coder.fuzz:
        chunks = cut(b"".join(documents), spans)
        assert all(chunk.startswith(string) for chunk, string in zip(chunks, strings, strict=True))
        assert all(span - len(string) <= len(string) // 4 for span, string in zip(spans, strings, strict=True))
    else:
        assert b"".join(strings) == b"".join(documents)


def cut(data: bytes, spans: list[int]) -> list[bytes]:
    ends = np.cumsum(spans, dtype=np.int64).tolist()
    return [data[end - span : end] for end, span in zip(ends, spans, strict=True)]


def chunks_by_code(coder: CodebookCoder, documents: list[bytes], marks: U8 | None) -> dict[int, set[bytes]]:
    codes, spans, _ = encode(coder, documents, marks)
    groups: dict[int, set[bytes]] = defaultdict(set)
    for code, chunk in zip(codes, cut(b"".join(documents), spans), strict=True):
        groups[code].add(chunk)
    return groups


def alike(group: set[bytes]) -> float:
    """The least common prefix over the longer's length of any two."""
    chunks = sorted(group)
    least = 1.0
    for index, one in enumerate(chunks):
        for other in chunks[index + 1 :]:
            common = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
            least = min(least, common / max(len(one), len(other)))
    return least


@settings(max_examples=100, deadline=None)
@given(st.lists(DOCUMENT, min_size=1, max_size=8), DENSITY, st.integers(0, 99))
def test_chunks_of_one_codeword_are_equal_or_share_four_fifths(
    coded: Coded, documents: list[bytes], density: float | None, seed: int
) -> None:
    groups = chunks_by_code(coded.coder, documents, drawn_marks(documents, density, seed))
    for group in groups.values():
        assert alike(group) >= 0.8 if coded.coder.fuzz else len(group) == 1


def test_code_collides_only_with_fuzz_and_within_the_bound(coded: Coded) -> None:
    documents = [path.read_bytes() for path in sorted(Path(encoder.__file__).parent.glob("*.py"))]
    groups = chunks_by_code(coded.coder, documents, None)
    collisions = [group for group in groups.values() if len(group) > 1]
    assert bool(collisions) == coded.coder.fuzz
    assert all(alike(group) >= 0.8 for group in collisions)


def test_packed_windows_hold_whole_segments_within_a_line() -> None:
    coder = encoder.coder(COMPRESSOR.codebook(16), "packed")
    _, spans, _ = encode(coder, [SOURCE])
    marks = encode_marks([SOURCE])
    starts = np.cumsum(spans)[:-1]
    lines = {match.end() for match in re.finditer(rb"\n[ \t\r\n]*", SOURCE)} - {len(SOURCE)}
    assert lines <= set(starts.tolist())
    assert marks.sum() > 1.25 * len(spans)
    alone = encode(encoder.coder(COMPRESSOR.codebook(16)), [SOURCE])[0]
    assert len(alone) > 1.25 * len(spans)


def test_fuzz_needs_segments() -> None:
    with pytest.raises(ValueError, match="equal-info"):
        encoder.coder(COMPRESSOR.codebook(12), "equal-info", fuzz=True)


@pytest.mark.parametrize("bits", COMPRESSOR.bits)
def test_the_longest_chunk_fits_a_span(bits: int) -> None:
    depth = int(COMPRESSOR.codebook(bits).depth.max())
    assert depth + depth // encoder.FUZZ_SHARE <= np.iinfo(np.uint16).max


@given(st.lists(st.integers(0, 4095), max_size=50))
@settings(max_examples=30, deadline=None)
def test_any_codewords_decode_to_their_strings(coded: Coded, codes: list[int]) -> None:
    coder, strings = coded.coder, coded.strings
    assert coder.decode(np.array(codes, np.uint32)) == b"".join(strings[code] for code in codes)
