"""Where values lie on an axis, and the ticks beside it: round numbers, linear or logarithmic."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LEAST, _MOST = 1e-100, 1e100
"""Sizes of values that are told apart from 0 and from nonsense."""

_SAME = 1 + 1e-9
"""Values whose ratio is less count as one."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A map from values to lengths.

    Attributes:
        low, high: values at 0 and at `length`; low < high, both above 0 if logarithmic.
        length: in units of the drawing.
        log: logarithmic.
    """

    low: float
    high: float
    length: float
    log: bool = False

    def place(self, value: float) -> float:
        """Of a value, from 0; outside of the scale it is cut to its end."""
        return min(max(self.place_beyond(value), 0.0), self.length)

    def place_beyond(self, value: float) -> float:
        """As `place`, and beyond the ends of the scale by its length at most, for lines that leave it."""
        if self.log:
            found = math.log(max(value, self.low * 1e-6) / self.low) / math.log(self.high / self.low) * self.length
        else:
            found = (value - self.low) / (self.high - self.low) * self.length
        return min(max(found, -self.length), 2 * self.length)

    def ticks(self, wanted: int) -> list[float]:
        """About so many round values on the scale; if it is logarithmic, 1, 2 and 5 times powers of ten, or powers."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1, 2, 5) if math.log10(self.high / self.low) < 1.7 else (1,)
            every = max(1, math.ceil((last - first) / (wanted + 1)))
            powers = [10.0**power for power in range(first, last + 1) if power % every == 0]
            return [factor * power for power in powers for factor in factors if self.low <= factor * power <= self.high]
        step = nice_step((self.high - self.low) / max(1, wanted))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def nice_step(about: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below a number above 0."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about * (1 - 1e-9))


def scale_over(
    values: Iterable[float], length: float, *, log: bool = False, from_zero: bool = False, room: float = 0.06
) -> Scale:
    """A scale that holds values with a little room around them, or [0, 1] without any.

    Args:
        values: those that are not finite or beyond 1e100, and where it is logarithmic those that are not above 1e-100,
            are passed over.
        length: see `Scale`.
        log: see `Scale`.
        from_zero: begin at 0.
        room: at each end, as a share of what the values span.
    """
    kept = [value for value in values if abs(value) <= _MOST and (not log or value >= _LEAST)]
    if not kept:
        return Scale(low=1.0, high=10.0, length=length, log=True) if log else Scale(low=0.0, high=1.0, length=length)
    low, high = min(kept), max(kept)
    if log:
        around = (high / low) ** room if high > low * _SAME else 1.25
        return Scale(low=low / around, high=high * around, length=length, log=True)
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    largest = max(abs(low), abs(high))
    if largest < _LEAST or high - low <= largest * (_SAME - 1):
        around = largest * 0.1 if largest >= _LEAST else 1.0
    else:
        around = (high - low) * room
    return Scale(
        low=low if from_zero and low == 0 else low - around,
        high=high if from_zero and high == 0 and low < 0 else high + around,
        length=length,
    )


def short(value: float) -> str:
    """A tick's label: 12k, 0.25, 3e-4."""
    size = abs(value)
    if size >= 1e15 or (value and size < 1e-3):
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    for unit, step in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= step:
            return f"{value / step:.4g}{unit}"
    return f"{value:.4g}"


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, the one at this share, 0 to 1; there is at least one value."""
    return values[min(len(values) - 1, round(share * (len(values) - 1)))]
