"""Choices are a function of logits, seed, prompt and position, and are distributed as the softmax says."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from schemas.vocabulary import BYTE_OFFSET, EOS, RAW_CLOSE
from trainer.inference.sampling import CHOICES, CLOSE, END, Sampler, Sampling


def some_logits(seed: int, spread: float = 2.0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=len(CHOICES)) * spread).astype(np.float32)


def softmax(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float64]:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights / weights.sum()


def nucleus(shares: npt.NDArray[np.float64], top_p: float) -> set[int]:
    inside: set[int] = set()
    total = 0.0
    for choice in sorted(range(len(shares)), key=lambda choice: (-shares[choice], choice)):
        if total >= top_p:
            break
        inside.add(choice)
        total += shares[choice]
    return inside


def chi_square(counts: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Statistic over cells of 5 or more expected, the rest in one; and its degrees of freedom."""
    large = expected >= 5
    cells = [*zip(counts[large], expected[large], strict=True), (counts[~large].sum(), expected[~large].sum())]
    cells = [(count, mean) for count, mean in cells if mean > 0]
    return sum((count - mean) ** 2 / mean for count, mean in cells), len(cells) - 1


def test_choices_are_ids_of_bytes_and_ends() -> None:
    assert CHOICES[:CLOSE] == tuple(BYTE_OFFSET + byte for byte in range(256))
    assert (CHOICES[CLOSE], CHOICES[END]) == (RAW_CLOSE, EOS)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7)])
def test_choices_are_distributed_as_the_softmax(temperature: float, top_p: float) -> None:
    logits, draws = some_logits(1), 20_000
    sampler = Sampler(Sampling(temperature=temperature, top_p=top_p, seed=5))
    counts = np.zeros(len(CHOICES))
    for draw in range(draws):
        counts[sampler.choose(logits, draw % 7, draw // 7)] += 1
    shares = softmax(logits, temperature)
    outside = sorted(set(range(len(CHOICES))) - nucleus(shares, top_p))
    shares[outside] = 0
    assert counts[outside].sum() == 0
    statistic, freedom = chi_square(counts, shares / shares.sum() * draws)
    # 5 standard deviations of a chi-square
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_noise_hangs_on_seed_prompt_and_position_alone() -> None:
    def noise(seed: int, number: int, position: int) -> bytes:
        return Sampler(Sampling(temperature=1, seed=seed)).noise(number, position).tobytes()

    different = {noise(*key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0))}
    assert len(different) == 5
    sampler = Sampler(Sampling(temperature=1, seed=3))
    order = [sampler.noise(2, position).tobytes() for position in (9, 4, 9)]
    assert order[0] == order[2] == noise(3, 2, 9)
    assert order[1] == noise(3, 2, 4)


def test_noise_is_pinned() -> None:
    """Seeds of published samples must go on meaning the same."""
    found = Sampler(Sampling(temperature=1.0, seed=1)).noise(2, 3)
    assert found[:3] == pytest.approx([-0.0746635763443646, 1.850154566741657, -0.2640473827571276], rel=1e-12)


def test_old_noise_is_forgotten_and_comes_back_the_same() -> None:
    sampler = Sampler(Sampling(temperature=1.0))
    first = sampler.noise(0, 0).tobytes()
    for position in range(5000):
        sampler.noise(0, position)
    assert len(sampler._kept) < 5000
    assert sampler.noise(0, 0).tobytes() == first


@given(st.integers(0, 50), st.floats(0.01, 1))
def test_a_small_nucleus_has_the_likeliest_choice(seed: int, top_p: float) -> None:
    logits = some_logits(seed)
    inside = Sampler(Sampling(temperature=1.0, top_p=top_p))._nucleus(logits.astype(np.float64))
    assert inside[logits.argmax()]
    if top_p < 0.999:  # the sum of all is 1 only up to rounding
        assert set(np.flatnonzero(inside)) == nucleus(softmax(logits, 1.0), top_p)


def test_no_temperature_takes_the_first_of_the_likeliest() -> None:
    logits = some_logits(0)
    logits[[9, 40]] = 50
    assert Sampler(Sampling(seed=4)).choose(logits, 0, 0) == 9
    assert Sampler(Sampling(temperature=1e-6, seed=4)).choose(some_logits(2), 0, 0) == some_logits(2).argmax()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
    ],
)
def test_bad_options_are_refused(bad: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Sampling(**bad)
