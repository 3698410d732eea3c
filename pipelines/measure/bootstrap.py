"""Confidence intervals of means and ratios over documents, by the percentile bootstrap (Efron 1979).

Documents are resampled with replacement, the same way for every figure and proxy, so that differences are paired.
"""

import numpy as np
import numpy.typing as npt

from pipelines.measure.results import Interval

RESAMPLES = 1000
DIGITS = 6
"""Figures are rounded to so many decimals: more than they are good for, and the same text wherever they are summed."""

_PURPOSE = 0xB007
_CHUNK = 100

F64 = npt.NDArray[np.float64]


class Bootstrap:
    """Resamples of `count` documents (at least 1).

    Args:
        count: of documents.
        seed: 0 or more.
    """

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng([seed, _PURPOSE, count])
        # How often each document is in each resample; chunks bound the memory for the draws.
        chunks = (rng.integers(0, count, (_CHUNK, count)) for _ in range(RESAMPLES // _CHUNK))
        self._weights = np.stack([np.bincount(row, minlength=count) for chunk in chunks for row in chunk]).astype(
            np.uint16
        )

    def mean(self, values: npt.ArrayLike) -> Interval:
        """Mean of `values` [count] with its 95 % interval."""
        numbers = np.asarray(values, np.float64)
        return self.ratio(numbers, np.ones(len(numbers)))

    def ratio(self, numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> Interval:
        """Sum of numerators / sum of denominators, both [count], with its 95 % interval; 0 where nothing divides."""
        above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
        totals = np.maximum(self._weights @ below, np.finfo(np.float64).tiny)
        low, high = np.quantile((self._weights @ above) / totals, [0.025, 0.975])
        mean = above.sum() / max(below.sum(), np.finfo(np.float64).tiny)
        return {"mean": rounded(mean), "low": rounded(low), "high": rounded(high)}


def rounded(value: float) -> float:
    """To `DIGITS` decimals, as a plain float."""
    return round(float(value), DIGITS)
