"""pass@k: the probability that at least one of k samples of a problem passes.

From n samples of which c pass, 1 - C(n - c, k) / C(n, k) is unbiased (Chen et al. 2021, "Evaluating Large Language
Models Trained on Code", equation 1), here as a product of factors between 0 and 1, so that nothing overflows. The
interval is of the mean over problems, by drawing problems anew: it says how much other problems of the kind would give,
not how much other samples would.
"""

from collections.abc import Sequence

import numpy as np

from schemas.errors import UserError
from trainer.evaluate.intervals import Interval

_DRAWS = 10_000


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Of one problem.

    Args:
        samples: n, at least k.
        passed: c of them.
        k: 1 or more.

    Raises:
        UserError: fewer samples than k.
    """
    if not 1 <= k <= samples:
        raise UserError(f"pass@{k} needs {k} samples of a problem or more, there are {samples}")
    # the product of (1 - k / i) for i from n - c + 1 to n; a factor is 0 as soon as fewer than k fail
    failing = 1.0 - k / np.arange(samples - passed + 1, samples + 1, dtype=np.float64)
    return float(1.0 - np.prod(np.maximum(failing, 0.0)))


def estimate(counts: Sequence[tuple[int, int]], k: int, seed: int = 0) -> Interval:
    """The mean over problems, its value and ends between 0 and 1.

    Args:
        counts: samples and passed ones by problem; one or more.
        k: as above.
        seed: of the draws.

    Raises:
        UserError: no problem, or one with fewer samples than k.
    """
    if not counts:
        raise UserError(f"pass@{k} of no problem")
    values = np.array([pass_at_k(samples, passed, k) for samples, passed in counts])
    generator = np.random.Generator(np.random.PCG64(seed))
    means = np.empty(_DRAWS)
    for start in range(0, _DRAWS, 1000):  # 1000 at a time: memory
        drawn = generator.integers(len(values), size=(1000, len(values)))
        means[start : start + 1000] = values[drawn].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
