"""Aligned parts of pairs: a pair cut at boundaries of comp symbols, so that twins lie in one sequence.

A boundary lies before each comp symbol whose span is > 0, and at the end. A part between two boundaries costs its raw
bytes, its comp symbols and its sentinels. Only spans within reach are looked at: O(ids left) a part.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Spans = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Part:
    """Comp symbols [start, end) and the raw bytes that they cover.

    Attributes:
        cost: in ids, sentinels included.
    """

    start: int
    end: int
    raw_bytes: int
    cost: int


def next_boundary(spans: Spans, start: int) -> int:
    """The first boundary after a symbol."""
    count = 64
    at = start + 1
    while at < len(spans):
        found = np.flatnonzero(spans[at : at + count])
        if len(found):
            return at + int(found[0])
        at += count
        count *= 2
    return len(spans)


def part_of_one(spans: Spans, start: int, sentinels: int) -> Part:
    """The part from one boundary to the next, whatever it costs."""
    end = next_boundary(spans, start)
    raw_bytes = int(spans[start:end].sum(dtype=np.int64))
    return Part(start, end, raw_bytes, raw_bytes + end - start + sentinels)


def choose_part(
    spans: Spans, start: int, *, cost_left: int, left: int, sequence: int, pair_symbols: int, sentinels: int
) -> Part | None:
    """The next part of a pair, or None: pad the rest of the sequence and choose anew in the next.

    It runs to the last boundary whose cost is at most L = min(left, pair_symbols), or to the next boundary if none
    is. None if L < min(cost_left, pair_symbols / 8), or if the part costs more than `left` but not more than
    `sequence`. Never None at the start of a sequence.

    Args:
        spans: of the whole document.
        start: first symbol of the part.
        cost_left: of all that is left of the document, as one part.
        left: ids left in the sequence.
        sequence: T.
        pair_symbols: the longest part wanted.
        sentinels: ids of a part that are neither bytes nor comp symbols.
    """
    limit = min(left, pair_symbols)
    if limit < cost_left and 8 * limit < pair_symbols:
        return None
    # Cost of a part that ends before the symbol after each one in reach; a symbol costs at least 1.
    costs = np.cumsum(spans[start : start + limit], dtype=np.int64)
    costs += np.arange(1 + sentinels, len(costs) + 1 + sentinels)
    count = int(np.searchsorted(costs, limit, side="right"))
    if start + count < len(spans) and count:
        boundaries = np.flatnonzero(spans[start + 1 : start + count + 1])
        count = int(boundaries[-1]) + 1 if len(boundaries) else 0
    if not count:
        part = part_of_one(spans, start, sentinels)
        return None if left < part.cost <= sequence else part
    cost = int(costs[count - 1])
    return Part(start, start + count, cost - count - sentinels, cost)
