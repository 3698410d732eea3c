"""How many row groups the writer will make of documents of which only mean and spread are known.

Lengths are lognormal, in the order of draws, and cut by the writer's own rule (`pipelines.rows`), so no formula of the
waste at a group's end is needed; nor would one do where documents are as long as groups. Milliseconds a call.
"""

import math
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.rows import GROUPS_OF_A_SIZE, ROW_BYTES, group_limit, group_rows

DOCUMENT_SPREAD = 1.4
"""Standard deviation of the logarithm of a document's length that gives the row groups of Python's libraries (1.6 by
their lengths' variance) and of the standard library (1.3) within 10 %, whatever the size of a group."""

_DRAWS = 8192


def spread_of(lengths: NDArray[Any]) -> float:
    """Of a lognormal distribution with the mean and variance of these lengths, each counted as a row counts."""
    rows = lengths.astype(np.float64) + ROW_BYTES
    return math.sqrt(math.log1p(float(rows.var()) / float(rows.mean()) ** 2))


def groups_of_unit(raw_bytes: float, document_bytes: float, most: int, spread: float = DOCUMENT_SPREAD) -> float:
    """Row groups of a unit, in the mean over units of this size; 1 at least.

    Args:
        raw_bytes: of the unit.
        document_bytes: mean of its documents.
        most: bytes of a row group; each row counts `ROW_BYTES` more than its document.
        spread: standard deviation of the logarithm of a document's length.
    """
    documents = max(1.0, raw_bytes / document_bytes)
    groups = 0
    while True:
        limit = group_limit(most, groups)
        rows = _rows_of_group(document_bytes, spread, limit)
        # The last group is cut short at a place that knows nothing of it: half a group more, less half a row.
        here = documents / rows + (1 - 1 / rows) / 2
        if here <= GROUPS_OF_A_SIZE or group_limit(most, groups + GROUPS_OF_A_SIZE) == limit:
            return max(1.0, groups + here)
        groups += GROUPS_OF_A_SIZE
        documents -= GROUPS_OF_A_SIZE * rows


@cache
def _rows_of_group(document_bytes: float, spread: float, limit: int) -> float:
    """Mean rows of the row groups but the last."""
    row = document_bytes + ROW_BYTES
    lengths = (_factors(spread) * row - ROW_BYTES).round().astype(np.int64)
    groups = list(group_rows(lengths.tolist(), lambda: limit))[:-1]
    return sum(groups) / len(groups) if groups else max(1.0, limit / row)


@cache
def _factors(spread: float) -> NDArray[np.float64]:
    """Lognormal lengths of mean 1: their quantiles, in an order of draws."""
    quantiles = [NormalDist().inv_cdf((index + 0.5) / _DRAWS) for index in range(_DRAWS)]
    factors = np.exp(spread * np.array(quantiles))
    return np.random.default_rng(0).permutation(factors / factors.mean())
