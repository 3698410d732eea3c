"""Bootstrap intervals over documents: how much a figure would move with other documents of the same kind.

Documents are drawn anew with replacement, as many as there are, each with all its pieces, and the figure is computed
from each draw; the interval holds the middle 95 % (percentile bootstrap, Efron 1979). It says nothing of other seeds of
training, which at small scales move figures more: see docs/evaluating.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000

_CELLS = 1 << 22
"""Numbers drawn at once: memory."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def rounded(self, digits: int = 4) -> dict[str, float]:
        """As JSON."""
        return {name: round(value, digits) for name, value in vars(self).items()}

    @property
    def known(self) -> bool:
        """Of one document, or where all are the same, all draws are equal, and how far it may move is not known."""
        return self.low < self.high

    def cells(self) -> tuple[str, str]:
        """The figure and its interval, for a table."""
        return f"{self.value:.4f}", f"{self.low:.3f} to {self.high:.3f}" if self.known else "-"

    def share(self) -> str:
        """As percentages, for a table's cell."""
        return f"{self.value:.1%}" + (f" ({self.low:.1%} to {self.high:.1%})" if self.known else " (-)")


def ratio(
    numerators: Sequence[float], denominators: Sequence[float], documents: Sequence[str], seed: int = 0
) -> Interval:
    """The sum of the numerators over the sum of the denominators, such as bits over bytes.

    Args:
        numerators: of each document, or piece of one.
        denominators: of each, positive; one or more. The order matters to the interval's last digits only, callers
            keep it fixed.
        documents: which each is of.
        seed: of the draws.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(documents))}
    which = [names[name] for name in documents]
    over, under = (np.bincount(which, np.array(values, np.float64)) for values in (numerators, denominators))
    generator = np.random.Generator(np.random.PCG64(seed))
    together = max(1, _CELLS // len(over))
    values = np.empty(DRAWS)
    for start in range(0, DRAWS, together):
        drawn = generator.integers(len(over), size=(min(together, DRAWS - start), len(over)))
        values[start : start + len(drawn)] = over[drawn].sum(axis=1) / under[drawn].sum(axis=1)
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(math.fsum(numerators) / math.fsum(denominators), float(low), float(high))
