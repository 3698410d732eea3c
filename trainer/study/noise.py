"""How much a figure moves with the seed alone, and what of a difference is more than that.

Two or three seeds of one arm say little of its noise, so it is taken to be the same for all arms of a table: the
variances over seeds are averaged (each counts as many degrees of freedom as it has seeds less one), and the interval of
a mean difference over n seeds is t s sqrt(2 / n) to either side (Student 1908). Runs of one seed share their batches'
order, which makes differences less noisy than that: the interval is rather too wide.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % points of Student's t at 1 to 30 degrees of freedom; the last holds for more, a little too wide."""


@dataclass(frozen=True)
class Noise:
    """Of a run's figure over seeds.

    Attributes:
        deviation: standard deviation.
        freedom: degrees of freedom that it is known by; 0: not at all.
    """

    deviation: float
    freedom: int

    def half_width(self, seeds: int) -> float | None:
        """Of the 95 % interval of a mean difference of two arms over so many seeds; None where nothing is known."""
        if not self.freedom:
            return None
        return _T[min(self.freedom, len(_T)) - 1] * self.deviation * math.sqrt(2 / seeds)


def pooled(arms: Iterable[Sequence[float]]) -> Noise:
    """The noise that is common to arms.

    Args:
        arms: of each its figures, a seed each; those of one seed say nothing.
    """
    known = [values for values in arms if len(values) > 1]
    freedom = sum(len(values) - 1 for values in known)
    if not freedom:
        return Noise(0.0, 0)
    return Noise(math.sqrt(sum(statistics.variance(one) * (len(one) - 1) for one in known) / freedom), freedom)
