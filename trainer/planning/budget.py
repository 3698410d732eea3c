"""How long a run is: by steps, by ids, by operations, or by the raw bytes that it may show.

The ramp and the learning rate follow the number of steps N, so N is known before the first step. A budget of ids or of
operations is a number of steps, rounded up. How many raw bytes a step shows is known only when it is made, so a budget
of raw bytes ends a run before its N steps are over, and N is asked for too.
"""

import math
from dataclasses import dataclass

from schemas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The length of a run as its options give it, checked.

    Attributes:
        steps: N.
        symbols: ids, those of padding included.
        flops: operations, as `limits.flops_per_symbol` counts them.
        raw_bytes: of the raw views alone, over all processes; needs `steps`.
    """

    steps: int | None = None
    symbols: int | None = None
    flops: float | None = None
    raw_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse two lengths, and lengths of nothing.

        Raises:
            UserError: with the options and what to give.
        """
        for name in ("steps", "symbols", "flops", "raw_bytes"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < math.inf:
                raise UserError(f"{_option(name)} {value}: give 1 or more")
        lengths = [name for name in ("steps", "symbols", "flops") if getattr(self, name) is not None]
        if len(lengths) > 1:
            given = " and ".join(f"{_option(name)} {getattr(self, name):,}" for name in lengths)
            raise UserError(f"{given}: give one of them")
        if self.raw_bytes is not None and self.steps is None:
            raise UserError(
                f"--raw-bytes {self.raw_bytes:,}: give --steps too, the most there may be; the ramp and the learning "
                "rate follow it (make plan ARGS='--raw-bytes ...' estimates how many are needed)"
            )

    def resolve(self, default: int, symbols_per_step: int, flops_per_step: int) -> int:
        """N of the run.

        Args:
            default: steps if nothing is given.
            symbols_per_step: B T.
            flops_per_step: B T times the operations of an id.
        """
        if self.symbols is not None:
            return steps_for(self.symbols, symbols_per_step)
        if self.flops is not None:
            return steps_for(self.flops, flops_per_step)
        return default if self.steps is None else self.steps

    def is_spent(self, raw_bytes: int) -> bool:
        """Whether a run that has shown so many raw bytes ends now, before its N steps."""
        return self.raw_bytes is not None and raw_bytes >= self.raw_bytes


def steps_for(amount: float, per_step: int) -> int:
    """The fewest steps that make up an amount; exact for whole numbers of any size."""
    return -(-math.ceil(amount) // per_step)


def raw_share(bytes_per_symbol: float, rate: float) -> float:
    """Raw bytes of raw views for each id of a run, sentinels left out.

    A share `rate` of the views is comp, each of a document like the others: 1 / bytes_per_symbol ids for each of its
    bytes; the rest is raw, one id a byte.

    Args:
        bytes_per_symbol: of the comp symbols.
        rate: r, 0 to 1; 0 for bytes alone.
    """
    return (1 - rate) / (rate / bytes_per_symbol + 1 - rate)


def text_share(bytes_per_symbol: float, rate: float) -> float:
    """Bytes of text that both views together stand for, for each id of a run; arguments as of `raw_share`."""
    return 1 / (rate / bytes_per_symbol + 1 - rate)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
