"""pass@k against counting, and its interval."""

import itertools
import math
import random

import pytest

from schemas.errors import UserError
from trainer.evaluate.programs.passk import estimate, pass_at_k


def test_it_is_the_share_of_choices_with_one_that_passes() -> None:
    for samples in range(1, 8):
        for passed in range(samples + 1):
            for k in range(1, samples + 1):
                chosen = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
                assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, chosen)) / len(chosen), abs=1e-12)


def test_many_samples_neither_overflow_nor_lose_digits() -> None:
    for samples, passed, k in ((100_000, 1, 1), (100_000, 50_000, 100), (200, 3, 100), (10**6, 10**6 - 3, 5)):
        exact = 1 - math.prod((samples - passed - i) / (samples - i) for i in range(k))
        assert pass_at_k(samples, passed, k) == pytest.approx(exact, abs=1e-9)
    assert pass_at_k(1000, 0, 10) == 0
    assert pass_at_k(1000, 991, 10) == 1


def test_it_is_unbiased() -> None:
    # over all outcomes of 6 samples of a problem that is solved with probability p, the mean is that of one draw of k
    p, samples = 0.3, 6
    for k in (1, 2, 5):
        mean = sum(
            math.comb(samples, passed) * p**passed * (1 - p) ** (samples - passed) * pass_at_k(samples, passed, k)
            for passed in range(samples + 1)
        )
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


@pytest.mark.parametrize(("samples", "k"), [(3, 4), (0, 1), (3, 0)])
def test_too_few_samples_are_refused(samples: int, k: int) -> None:
    with pytest.raises(UserError, match=f"pass@{k} needs {k} samples"):
        pass_at_k(samples, 0, k)


def test_the_interval_is_that_of_the_mean_over_problems() -> None:
    rng = random.Random(1)
    counts = [(1, int(rng.random() < 0.4)) for _ in range(400)]
    found = estimate(counts, 1)
    mean = sum(passed for _, passed in counts) / len(counts)
    spread = 1.96 * math.sqrt(mean * (1 - mean) / len(counts))
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - spread, abs=0.01)
    assert found.high == pytest.approx(mean + spread, abs=0.01)
    assert estimate(counts, 1) == found
    assert estimate([(5, 5)] * 3, 5) == estimate([(1, 1)], 1)


def test_no_problem_has_no_mean() -> None:
    with pytest.raises(UserError, match="of no problem"):
        estimate([], 1)
