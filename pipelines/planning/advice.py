"""Units of a corpus as times, and the unit size that leaves workers little to wait for at the end.

A unit is a block at least (`pipelines.reading.plan`): smaller units than a compressed file cannot be had, so sizes are
tried on the blocks of the corpus where it is listed.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

from pipelines.planning.rates import Rates
from pipelines.planning.simulate import Troubles, simulate
from pipelines.reading.plan import BLOCK_BYTES, MAX_UNIT_BYTES, MIB, Block, Unit, units_of
from schemas.errors import UserError

UNIT_SECONDS = 0.5
"""Of a unit beside its documents: a dozen requests of 40 ms on an object store."""

TAIL = 0.05
"""Share of the time in which workers may find nothing to do."""

MOST_SIMULATED = 1_000_000


def advise(
    raw_bytes: int, rates: Rates, workers: int, troubles: Troubles, blocks: Sequence[Block] | None = None
) -> int | None:
    """The largest unit of 1 to 64 MiB with a simulated tail below `TAIL`; None: not even the smallest has.

    A larger unit than the default's 64 MiB would take more memory.

    Args:
        raw_bytes: of the corpus.
        rates: of the proxy.
        workers: that work at once.
        troubles: what goes wrong.
        blocks: of a listed corpus, permuted: a unit is a block at least. None: any size can be had.
    """
    size, before = MAX_UNIT_BYTES, list[float]()
    while size >= MIB:
        if blocks is None:
            units = max(1, math.ceil(raw_bytes / rates.raw_per_input / size))
            shares = [1 / units]
        else:
            shares = shares_of(units_of(blocks, size))
            units = len(shares)
        if units > MOST_SIMULATED:
            return None
        seconds = unit_times(raw_bytes, shares, units, rates)
        if seconds != before:
            with suppress(UserError):  # failures that units of this size hardly ever outlive
                if simulate(seconds, workers, troubles).tail < TAIL:
                    return size
        before = seconds
        size //= 2
    return None


def unit_times(raw_bytes: float, shares: Sequence[float], units: int, rates: Rates) -> list[float]:
    """Mean seconds of each unit, in their order.

    Args:
        raw_bytes: of all.
        shares: of these, of each unit; one for all if all are alike.
        units: number.
        rates: of the proxy.
    """
    seconds = [raw_bytes * share / 1e6 / rates.mb_per_second + UNIT_SECONDS for share in shares]
    return seconds * units if len(seconds) == 1 else seconds


def shares_of(units: Sequence[Unit]) -> list[float]:
    """Of the corpus, of each unit."""
    total = sum(unit.input_bytes for unit in units)
    return [unit.input_bytes / total if total else 1 / len(units) for unit in units]


def uncut_of(blocks: Sequence[Block] | None) -> tuple[str, int] | None:
    """Name and bytes of the largest block if no unit size cuts it: what can be cut is in blocks of `BLOCK_BYTES`."""
    if not blocks:
        return None
    largest = min(blocks, key=lambda block: (-block.input_bytes, block.files[0].path))
    return (largest.files[0].source, largest.input_bytes) if largest.input_bytes > BLOCK_BYTES else None
