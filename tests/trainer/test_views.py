"""Views: r(t), calibrated pairing, modes."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.draws import document_id
from schemas.errors import UserError
from trainer.data.rows import RowKey
from trainer.data.views import Mode, Schedule, Text, View, default_ramp, probabilities

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "golden.json").read_text())["pairs"]

KEYS = [RowKey(document_id(b"%d" % n), n, 0, "a.py") for n in range(4000)]


@pytest.mark.parametrize("rate", GOLDEN)
def test_pairing_probabilities_are_the_golden_ones(rate: str) -> None:
    found = probabilities(float(Fraction(rate)), pairing=True)
    for name, value in GOLDEN[rate].items():
        assert getattr(found, name) == pytest.approx(float(Fraction(value)), abs=1e-12)


@given(st.floats(0.01, 0.99), st.booleans())
def test_the_share_of_comp_among_views_is_r(rate: float, pairing: bool) -> None:
    pair, comp, raw = probabilities(rate, pairing=pairing)
    assert min(pair, comp, raw) >= 0
    assert pair + comp + raw == pytest.approx(1)
    assert (pair + comp) / (2 * pair + comp + raw) == pytest.approx(rate)


@pytest.mark.parametrize("mode", [Mode.PROXY, Mode.NEVER_PAIR, Mode.ALWAYS_PAIR, Mode.NO_SENTINELS])
@pytest.mark.parametrize("step", [0, 100, 200, 400, 999, 1000, 5000])
def test_drawn_shares_are_within_three_sigma_of_r(mode: Mode, step: int) -> None:
    schedule = Schedule(mode=mode, ramp=1000, seed=7)
    views = Counter(schedule.view(key, 0, step) for key in KEYS)
    rate = schedule.rate(step)
    pairs = views[View.RAW_COMP] + views[View.COMP_RAW]
    comp, total = views[View.COMP] + pairs, len(KEYS) + pairs
    assert abs(comp / total - rate) < 3 * (rate * (1 - rate) / len(KEYS)) ** 0.5
    assert bool(pairs) == schedule.pairs_at(step)
    assert abs(views[View.RAW_COMP] - pairs / 2) <= 1.5 * pairs**0.5


def test_r_rises_from_04_to_09_over_the_ramp_and_pairs_end_with_it() -> None:
    schedule = Schedule(mode=Mode.PROXY, ramp=100, seed=0)
    assert [schedule.rate(t) for t in (0, 50, 100, 10_000)] == pytest.approx([0.4, 0.65, 0.9, 0.9])
    assert [schedule.pairs_at(t) for t in (0, 99, 100)] == [True, True, False]
    flat = Schedule(mode=Mode.PROXY, ramp=0, seed=0)
    assert flat.rate(0) == pytest.approx(0.9)
    assert not flat.ever_pairs
    assert [default_ramp(n) for n in (4, 1000, 50_000, 10**6)] == [0, 200, 10_000, 10_000]


def test_modes() -> None:
    def views(mode: Mode, step: int, ramp: int = 100) -> set[View]:
        return {Schedule(mode=mode, ramp=ramp, seed=3).view(key, 1, step) for key in KEYS[:300]}

    both = {View.RAW_COMP, View.COMP_RAW}
    assert views(Mode.PROXY, 0) == {View.RAW, *both}
    assert views(Mode.PROXY, 99) == {View.COMP, *both}
    assert views(Mode.PROXY, 100) == {View.COMP, View.RAW}
    assert views(Mode.NO_SENTINELS, 0) == {View.RAW, *both}
    assert views(Mode.NEVER_PAIR, 0) == {View.COMP, View.RAW}
    assert views(Mode.ALWAYS_PAIR, 5000) == {View.COMP, *both}
    assert views(Mode.ALWAYS_PAIR, 0, ramp=0) == {View.COMP, *both}
    assert views(Mode.COMP_ONLY, 0) == {View.COMP}
    assert views(Mode.BYTES, 0) == {View.RAW}


def test_views_depend_on_key_epoch_and_seed_and_on_the_step_only_through_r() -> None:
    schedule = Schedule(mode=Mode.NEVER_PAIR, ramp=10, seed=3)

    def drawn(schedule: Schedule, epoch: int, step: int) -> list[View]:
        return [schedule.view(key, epoch, step) for key in KEYS[:200]]

    assert drawn(schedule, 0, 10) == drawn(schedule, 0, 999)
    assert drawn(schedule, 0, 10) != drawn(schedule, 1, 10)
    assert drawn(schedule, 0, 10) != drawn(Schedule(mode=Mode.NEVER_PAIR, ramp=10, seed=4), 0, 10)


def test_a_negative_ramp_is_refused() -> None:
    with pytest.raises(UserError, match="--ramp -1"):
        Schedule(mode=Mode.PROXY, ramp=-1, seed=0)


@pytest.mark.parametrize("mode", [Mode.PROXY, Mode.NEVER_PAIR, Mode.ALWAYS_PAIR, Mode.NO_SENTINELS])
@pytest.mark.parametrize("step", [0, 200, 400, 999, 1000])
def test_raw_views_of_a_text_of_their_own_have_the_same_shares(mode: Mode, step: int) -> None:
    schedule = Schedule(mode=mode, ramp=1000, seed=7)
    texts = [schedule.text((number + 0.5) / len(KEYS), step) for number in range(len(KEYS))]
    views = Counter(schedule.view(key, 0, step, text) for key, text in zip(KEYS, texts, strict=True))
    pairs = views[View.RAW_COMP] + views[View.COMP_RAW]
    rate = schedule.rate(step)
    assert abs((views[View.COMP] + pairs) / (len(KEYS) + pairs) - rate) < 3 * (rate * (1 - rate) / len(KEYS)) ** 0.5
    assert bool(pairs) == schedule.pairs_at(step)
    for text, never in ((Text.RAW, [View.COMP]), (Text.COMP, [View.RAW, View.RAW_COMP, View.COMP_RAW])):
        assert not any(schedule.view(key, 0, step, text) in never for key in KEYS[:500])


def test_another_top_of_r() -> None:
    schedule = Schedule(mode=Mode.PROXY, ramp=10, seed=0, comp_rate=0.5)
    assert [schedule.rate(t) for t in (0, 5, 10)] == pytest.approx([0.4, 0.45, 0.5])
    assert Schedule(mode=Mode.PROXY, ramp=10, seed=0, comp_rate=0.2).rate(0) == pytest.approx(0.2)
    for options in ({"comp_rate": 1.0}, {"comp_rate": 0.0}):
        with pytest.raises(UserError, match="expected more than 0"):
            Schedule(mode=Mode.PROXY, ramp=0, seed=0, **options)
