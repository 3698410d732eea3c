"""Stop texts: found wherever parts end, never given out, nothing held back longer than needed; whole characters."""

import itertools
from collections.abc import Iterable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer.inference.stops import StopFinder, whole_characters

letters = st.integers(97, 99)
texts = st.lists(letters, max_size=40).map(bytes)
stop_texts = st.lists(st.lists(letters, min_size=1, max_size=5).map(bytes), max_size=4)


def parts_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=300, deadline=None)
@example(b"ccabcc", [b"abca", b"b"], [4])
@example(b"aaaab", [b"aab", b"aaaac"], [1, 2, 3])
@given(texts, stop_texts, st.lists(st.integers(0, 100), max_size=6))
def test_the_stream_ends_before_the_first_stop_text_wherever_its_parts_end(
    data: bytes, stops: list[bytes], cuts: list[int]
) -> None:
    finder = StopFinder(stops)
    given_out, taken = b"", b""
    for part in parts_of(data, cuts):
        given_out += finder.feed(part)
        taken += part
        if not finder.found:
            # held back: exactly the longest end that may become a stop text
            maybe = [
                n for n in range(len(taken) + 1) if any(stop.startswith(taken[len(taken) - n :]) for stop in stops)
            ]
            assert taken == given_out + taken[len(taken) - max(maybe, default=0) :]
    given_out += finder.end()
    ends = [data.find(stop) + len(stop) for stop in stops if stop in data]
    assert finder.found == bool(ends)
    if ends:
        end = min(ends)
        assert given_out == data[: min(data[:end].find(stop) for stop in stops if stop in data[:end])]
    else:
        assert given_out == data
    assert not any(stop in given_out for stop in stops)


def test_nothing_follows_a_stop_text_and_empty_ones_are_ignored() -> None:
    finder = StopFinder([b"", b"--"])
    assert finder.feed(b"a-b-") == b"a-b"
    assert finder.feed(b"-c") == b""
    assert finder.found
    assert finder.feed(b"d") + finder.end() == b""
    assert StopFinder([b""]).feed(b"abc") == b"abc"


@given(st.binary(max_size=30) | st.text(max_size=12).map(str.encode), st.lists(st.integers(0, 100), max_size=8))
def test_text_parts_never_split_a_character(data: bytes, cuts: list[int]) -> None:
    parts = list(whole_characters(parts_of(data, cuts)))
    assert "".join(parts) == data.decode(errors="replace")
    assert all(parts)


def test_a_character_begun_before_comes_out_whole() -> None:
    snowman = "\u2603".encode()
    assert list(whole_characters([snowman[2:], b"x"], before=b"a" + snowman[:2])) == ["\u2603", "x"]
    assert list(whole_characters([snowman[:1]])) == ["\ufffd"]
