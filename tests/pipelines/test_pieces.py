"""Cutting long documents: nothing is lost, limits hold, cuts lie where the rule says."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.pieces import pieces, stream_pieces

documents = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(str.encode),
    st.lists(st.sampled_from([b"\n", b"a", "é".encode(), "😀".encode(), b"\x80"]), max_size=100).map(b"".join),
)


@given(documents, st.integers(1, 40))
def test_pieces_concatenate_to_the_document_and_respect_the_limit(raw: bytes, limit: int) -> None:
    parts = list(pieces(raw, limit))
    assert b"".join(parts) == raw
    assert all(len(part) <= limit for part in parts)
    assert all(parts) or parts == [b""]


@given(documents, st.integers(1, 40), st.lists(st.integers(0, 200), max_size=6))
def test_streamed_pieces_do_not_depend_on_the_chunks(raw: bytes, limit: int, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    chunks = [raw[a:b] for a, b in itertools.pairwise(bounds)]
    assert list(stream_pieces(chunks, limit)) == list(pieces(raw, limit))


@given(st.text(max_size=100), st.integers(4, 40))
def test_pieces_of_valid_utf8_are_valid_utf8(text: str, limit: int) -> None:
    for part in pieces(text.encode(), limit):
        part.decode()


def test_a_piece_ends_at_the_last_newline_that_fits() -> None:
    assert list(pieces(b"ab\ncd\nefgh", 7)) == [b"ab\ncd\n", b"efgh"]
    assert list(pieces(b"abcdef\ngh", 7)) == [b"abcdef\n", b"gh"]


def test_without_newline_a_piece_ends_before_the_character_that_does_not_fit() -> None:
    assert list(pieces("aé😀".encode(), 4)) == ["aé".encode(), "😀".encode()]
    assert list(pieces("aé😀".encode(), 6)) == ["aé".encode(), "😀".encode()]


def test_bytes_that_are_not_utf8_are_cut_at_the_limit() -> None:
    assert list(pieces(b"\x80" * 10, 4)) == [b"\x80" * 4, b"\x80" * 4, b"\x80" * 2]


def test_a_limit_below_one_character_still_advances() -> None:
    assert list(pieces("😀".encode(), 1)) == [b"\xf0", b"\x9f", b"\x98", b"\x80"]


def test_an_empty_document_is_one_empty_piece() -> None:
    assert list(pieces(b"", 5)) == [b""]
    assert list(stream_pieces([], 5)) == [b""]
