"""Lengths of runs from budgets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from trainer.planning.budget import Budget, raw_share, steps_for, text_share

STEP = 64 * 32_768


@given(amount=st.integers(1, 10**30), per_step=st.integers(1, 10**24))
def test_the_fewest_whole_steps_make_up_an_amount(amount: int, per_step: int) -> None:
    steps = steps_for(amount, per_step)
    assert steps * per_step >= amount > (steps - 1) * per_step


def test_each_kind_of_budget_becomes_steps() -> None:
    assert Budget().resolve(50_000, STEP, STEP * 7) == 50_000
    assert Budget(steps=12).resolve(50_000, STEP, STEP * 7) == 12
    assert Budget(symbols=STEP + 1).resolve(50_000, STEP, STEP * 7) == 2
    assert Budget(flops=STEP * 7 * 3).resolve(50_000, STEP, STEP * 7) == 3
    assert Budget(flops=1e21).resolve(1, 2_097_152, 2_097_152 * 43_000_000_000) == math.ceil(1e21 / (2_097_152 * 43e9))


def test_raw_bytes_end_a_run_at_the_first_step_that_reaches_them_and_others_never_do() -> None:
    budget = Budget(steps=10, raw_bytes=1000)
    assert budget.resolve(1, STEP, STEP) == 10
    assert [budget.is_spent(shown) for shown in (0, 999, 1000, 1001)] == [False, False, True, True]
    assert not Budget(steps=10).is_spent(10**18)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5, "symbols": 7_000}, r"--steps 5 and --symbols 7,000: give one of them"),
        ({"symbols": 5, "flops": 1e20}, r"--symbols 5 and --flops .*: give one of them"),
        ({"raw_bytes": 5_000}, r"--raw-bytes 5,000: give --steps too"),
        ({"raw_bytes": 5_000, "symbols": 10}, r"--raw-bytes 5,000: give --steps too"),
        ({"steps": 0}, r"--steps 0: give 1 or more"),
        ({"flops": -1.0}, r"--flops -1.0: give 1 or more"),
        ({"flops": math.nan}, r"--flops nan: give 1 or more"),
        ({"flops": math.inf}, r"--flops inf: give 1 or more"),
    ],
)
def test_what_is_no_budget_is_refused_with_what_to_give(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Budget(**options)  # type: ignore[arg-type]  # wrong on purpose


@given(rate=st.floats(0, 1), bytes_per_symbol=st.floats(1, 20), document=st.integers(1, 10**6))
def test_shares_of_bytes_are_those_of_documents_shown_as_one_view_or_the_other(
    rate: float, bytes_per_symbol: float, document: int
) -> None:
    ids = rate * document / bytes_per_symbol + (1 - rate) * document
    assert raw_share(bytes_per_symbol, rate) * ids == pytest.approx((1 - rate) * document)
    assert text_share(bytes_per_symbol, rate) * ids == pytest.approx(document)


def test_a_run_of_bytes_alone_shows_a_byte_an_id() -> None:
    assert raw_share(2.7, 0.0) == text_share(2.7, 0.0) == 1
