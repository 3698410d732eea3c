"""The simulation against what can be worked out without one."""

import math

import numpy as np
import pytest

from pipelines.planning.simulate import Simulated, Troubles, simulate, simulate_each
from schemas.errors import UserError

ALIKE = Troubles(spread=0, slow_share=0, failures_per_hour=0)


@pytest.mark.parametrize(("units", "workers"), [(1, 1), (1, 5), (10, 3), (12, 3), (1000, 7), (7, 1000)])
def test_equal_units_take_whole_rounds(units: int, workers: int) -> None:
    seen = simulate([2.5] * units, workers, ALIKE)
    assert seen.makespan == pytest.approx(math.ceil(units / workers) * 2.5)
    assert seen.ideal == pytest.approx(units * 2.5 / workers)
    assert seen.utilisation == pytest.approx(seen.ideal / seen.makespan)
    assert (seen.failures, seen.copies, seen.lost_seconds) == (0, 0, 0)


def test_full_rounds_have_no_tail() -> None:
    assert simulate([1] * 12, 3, ALIKE).tail == 0


@pytest.mark.parametrize(
    ("seconds", "makespan", "tail"),
    [
        ([3.0, 1.0, 1.0, 1.0], 3.0, 0.0),  # the long one first: the other does the rest meanwhile
        ([1.0, 1.0, 1.0, 3.0], 4.0, 0.5),  # and last: begun at 1, while the other is idle from 2 on
        ([2.0, 1.0, 4.0], 5.0, 3 / 5),
    ],
)
def test_two_workers_by_hand(seconds: list[float], makespan: float, tail: float) -> None:
    seen = simulate_each(seconds, 2, ALIKE)
    assert seen.makespan == makespan
    assert seen.tail == pytest.approx(tail)


def test_a_slow_worker_by_hand() -> None:
    """One of two is three times as slow: it does the fourth unit in the time in which the other does three."""
    slow = Troubles(spread=0, slow_share=0.5, slow_factor=3, failures_per_hour=0)
    assert simulate_each([1.0] * 4, 2, slow).makespan == 3
    assert simulate_each([1.0] * 2, 2, slow).makespan == 3
    copied = simulate_each(
        [1.0] * 2, 2, Troubles(spread=0, slow_share=0.5, slow_factor=3, failures_per_hour=0, copies=True)
    )
    assert (copied.makespan, copied.copies, copied.copy_seconds) == (2, 1, 2)


def test_the_unit_that_is_due_last_is_copied_first() -> None:
    """Of three workers one is ten times as slow. From 1 on another is free: it copies the slow one's unit, due at 10.

    The unit of 5 s was begun first, but would end no earlier by a copy; it is copied from 2 on, for nothing.
    """
    troubles = Troubles(spread=0, slow_share=1 / 3, slow_factor=10, failures_per_hour=0, copies=True)
    slow = int(np.random.default_rng([troubles.simulation_seed, 1]).permutation(3)[0])
    seconds = [1.0] * 3
    seconds[slow - 1] = 5.0
    seen = simulate_each(seconds, 3, troubles)
    assert (seen.makespan, seen.copies) == (5, 2)
    assert seen.copy_seconds == 2 + 3, "the slow worker's from 0 to 2, and the copy of the long unit"


def test_an_idle_worker_is_called_when_a_failure_leaves_a_unit_to_copy() -> None:
    """One unit, three workers: two are at it, the third has nothing to copy until one of the two fails for good."""
    failed_once = 0
    for seed in range(40):
        troubles = Troubles(
            spread=0, slow_share=0, failures_per_hour=36, restart_seconds=1e9, copies=True, simulation_seed=seed
        )
        seen = simulate_each([100.0], 3, troubles)
        if seen.failures == 1:
            failed_once += 1
            assert seen.copies == 2
    assert failed_once > 5


def test_failures_cost_what_the_closed_form_says() -> None:
    """One worker, units of t s, failures at rate r, d s to restart: (e^(rt) - 1) (1 / r + d) s a unit are expected."""
    troubles = Troubles(spread=0, slow_share=0, failures_per_hour=36, restart_seconds=20)
    rate, units = 36 / 3600, 20_000
    seen = simulate([50] * units, 1, troubles)
    expected = math.expm1(rate * 50) * (1 / rate + 20)
    assert seen.makespan / units == pytest.approx(expected, rel=0.03)
    assert seen.failures / units == pytest.approx(math.expm1(rate * 50), rel=0.05)


def test_every_unit_is_done_once_however_often_it_failed() -> None:
    """Useful time is exactly the units' own: what was lost and copied is counted apart."""
    troubles = Troubles(spread=0.5, slow_share=0, failures_per_hour=60, restart_seconds=5, copies=True)
    seen = simulate([10] * 500, 20, troubles)
    assert seen.failures > 50
    assert seen.copies > 0
    assert seen.utilisation * 20 * seen.makespan == pytest.approx(seen.ideal * 20)


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    def run(seed: int) -> Simulated:
        return simulate([30] * 2000, 50, Troubles(failures_per_hour=1, copies=True, simulation_seed=seed))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_copies_shorten_the_tail_of_stragglers() -> None:
    troubles = {"slow_share": 0.05, "slow_factor": 8.0, "failures_per_hour": 0.0}
    plain, copied = (simulate([10] * 2000, 100, Troubles(**troubles, copies=copies)) for copies in (False, True))
    assert copied.makespan < plain.makespan
    assert copied.copy_seconds > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"spread": -1},
        {"slow_share": 2},
        {"slow_factor": 0.5},
        {"failures_per_hour": -1},
        {"restart_seconds": -1},
        *[{"spread": 4}, {"spread": math.nan}],
        *[{name: math.inf} for name in ("spread", "slow_factor", "failures_per_hour", "restart_seconds")],
    ],
)
def test_impossible_troubles_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="--" + next(iter(wrong)).replace("_", "-")):
        Troubles(**wrong)  # type: ignore[arg-type]


def test_a_unit_that_hardly_ever_ends_is_refused_and_others_are_not() -> None:
    """By e^(rt), the runs that a unit of t seconds takes at r failures a second, on the slowest worker."""
    often = {"spread": 0.0, "failures_per_hour": 36.0}
    simulate([490] * 3, 2, Troubles(**often, slow_share=0))
    simulate([490] * 3, 2, Troubles(**often, slow_share=0.1))  # of two workers none
    with pytest.raises(UserError, match=r"^--failures-per-hour 36: a unit of 0\.142 h, .* smaller --unit-bytes$"):
        simulate([510] * 3, 2, Troubles(**often, slow_share=0))
    with pytest.raises(UserError, match=r"--failures-per-hour 36: a unit of 0\.408 h"):
        simulate([490] * 3, 2, Troubles(**often, slow_share=0.5, slow_factor=3))
    with pytest.raises(UserError, match="--failures-per-hour 36"):
        simulate_each([1, 510], 2, Troubles(**often, slow_share=0))
