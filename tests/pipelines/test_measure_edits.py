"""Edits: any bytes, the right rates, the piece's own characters; and the intervals of the bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.measure.bootstrap import RESAMPLES, Bootstrap
from pipelines.measure.edits import KINDS, Kind, characters, edit, edit_once, to_bytes
from pipelines.proxies.base import U32

RATE = 0.05


@given(st.binary(max_size=200))
def test_any_bytes_are_characters_and_back(raw: bytes) -> None:
    assert to_bytes(characters(raw)) == raw


def test_a_character_is_one_whatever_its_bytes() -> None:
    assert characters("aé中\n".encode()).tolist() == [97, 0xE9, 0x4E2D, 10]
    assert len(characters(b"\xff\xfe\xff")) == 3


@pytest.fixture(scope="module")
def text() -> U32:
    rng = np.random.default_rng(0)
    return characters("".join(rng.choice(list("aaaaaaabc "), 100_000).tolist()).encode())


def test_rates_are_as_asked(text: U32) -> None:
    deleted, inserted, substituted = (edit(text, kind, RATE, np.random.default_rng(1)) for kind in KINDS)
    within = pytest.approx(RATE, abs=0.003)  # four standard errors
    assert 1 - len(deleted) / len(text) == within
    assert len(inserted) / len(text) - 1 == within
    assert len(substituted) == len(text)
    assert (substituted != text).mean() == within


def test_what_is_new_follows_the_text_itself() -> None:
    text = characters(b"a" * 9_000 + b"b" * 1_000)
    inserted = edit(text, "insertion", 0.5, np.random.default_rng(2))
    new = len(inserted) - len(text)
    assert (int((inserted == ord("b")).sum()) - 1_000) / new == pytest.approx(0.1, abs=0.02)
    # a substituted character is another one: of two kinds, the other
    substituted = edit(text, "substitution", 0.5, np.random.default_rng(3))
    assert (substituted[:9_000] == ord("b")).mean() == pytest.approx(0.5, abs=0.03)
    assert (substituted[9_000:] == ord("a")).mean() == pytest.approx(0.5, abs=0.06)


def test_substitutes_are_in_the_proportion_of_the_others() -> None:
    text = characters(b"a" * 6_000 + b"b" * 3_000 + b"c" * 1_000)
    edited = edit(text, "substitution", 0.999, np.random.default_rng(4))
    assert (edited[:6_000] == ord("b")).mean() == pytest.approx(0.75, abs=0.03)
    assert (edited[9_000:] == ord("a")).mean() == pytest.approx(2 / 3, abs=0.06)


@pytest.mark.parametrize(("kind", "change"), [("deletion", -1), ("insertion", 1), ("substitution", 0)])
def test_one_edit_is_one(kind: Kind, change: int) -> None:
    text = characters("naïve text".encode())
    for seed in range(50):
        edited = edit_once(text, kind, np.random.default_rng(seed))
        assert len(edited) == len(text) + change
        if kind == "substitution":
            assert int((edited != text).sum()) == 1


def test_a_text_of_one_character_has_no_substitute() -> None:
    text = characters(b"aaaa")
    assert edit(text, "substitution", 0.9, np.random.default_rng(0)).tolist() == text.tolist()


def test_edits_repeat_by_their_seed(text: U32) -> None:
    for kind in KINDS:
        first, again, other = (edit(text, kind, RATE, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert first.tobytes() == again.tobytes() != other.tobytes()


def test_the_interval_covers_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(60, seed=0)
    found = [bootstrap.mean(rng.exponential(3.0, 60)) for _ in range(300)]
    covered = sum(interval["low"] <= 3.0 <= interval["high"] for interval in found) / len(found)
    assert 0.88 <= covered <= 0.98  # nominally 0.95; the percentile bootstrap is a little short on skewed figures
    assert all(interval["low"] < interval["mean"] < interval["high"] for interval in found)


def test_the_interval_narrows_with_documents() -> None:
    widths = []
    for count in (25, 400):
        interval = Bootstrap(count, seed=1).mean(np.random.default_rng(1).normal(size=count))
        widths.append(interval["high"] - interval["low"])
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_a_ratio_is_of_the_sums() -> None:
    interval = Bootstrap(3, seed=0).ratio([1, 2, 6], [1, 1, 1])
    assert interval["mean"] == 3
    assert interval["low"] == pytest.approx(1, abs=0.5)
    assert interval["high"] == 6  # the third document alone is one resample in 27
    assert Bootstrap(2, seed=0).ratio([0, 0], [0, 0]) == {"mean": 0, "low": 0, "high": 0}


def test_one_document_has_no_spread_and_seeds_decide() -> None:
    assert Bootstrap(1, seed=0).mean([0.25]) == {"mean": 0.25, "low": 0.25, "high": 0.25}
    values = np.random.default_rng(0).normal(size=50)
    assert Bootstrap(50, seed=3).mean(values) == Bootstrap(50, seed=3).mean(values)
    assert Bootstrap(50, seed=3).mean(values) != Bootstrap(50, seed=4).mean(values)
    assert RESAMPLES == 1000
