"""Aligned parts of pairs: a pair cut at boundaries of comp symbols, so that twins lie in one sequence.

A boundary lies before each comp symbol whose span is > 0, and at the end. A part between two boundaries costs its raw
bytes, its comp symbols and its sentinels. Only spans within reach are looked at: O(ids left) a part.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Spans = npt.NDArray[np.unsignedinteger[Any]]
"""Read-only arrays and others are compiled for apart, so columns are all read-only."""


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


def part_of_one(spans: Spans, start: int, sentinels: int) -> Part:
    """The part from one boundary to the next, whatever it costs."""
    end, raw_bytes = next_boundary(spans, start)
    return Part(start, end, raw_bytes, raw_bytes + end - start + sentinels)


@numba.njit(cache=True, nogil=True)
def next_boundary(spans: Spans, start: int) -> tuple[int, int]:
    """The first boundary after a symbol, and the bytes up to it."""
    end = start + 1
    raw_bytes: Any = np.int64(spans[start])
    while end < len(spans) and spans[end] == 0:
        end += 1
    return end, raw_bytes


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
    end, raw_bytes = last_boundary(spans, start, limit - sentinels)
    if end == start:
        part = part_of_one(spans, start, sentinels)
        return None if left < part.cost <= sequence else part
    return Part(start, end, raw_bytes, raw_bytes + end - start + sentinels)


@numba.njit(cache=True, nogil=True)
def last_boundary(spans: Spans, start: int, most: int) -> tuple[int, int]:
    """The last boundary that bytes and symbols up to it cost at most `most` for, and the bytes; start, 0 if none is."""
    end, raw_bytes = start, 0
    covered: Any = np.int64(0)
    for at in range(start, len(spans)):
        covered += np.int64(spans[at])
        if covered + at + 1 - start > most:
            break
        if at + 1 == len(spans) or spans[at + 1] > 0:
            end, raw_bytes = at + 1, covered
    return end, raw_bytes
