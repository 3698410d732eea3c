"""A simulation, not a measurement, of many workers on the units of a job: slow ones, failing ones, the last ones.

A worker that is free takes the next unit. A unit takes its own time (lognormal around the mean) times its worker's
slowness. A worker that fails loses its unit, which goes back to the head of the queue, and comes again after a
while. With copies, a worker that finds no unit left runs the one that is expected to end last once more, and the
first to end counts; a worker that finds none to copy either is called when there is one. Discrete events, one seed,
the same result everywhere; 50,000 units take a second.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.errors import UserError

HOUR = 3600.0

MOST_SPREAD = 3
"""One unit in six takes 20 times the median then; far beyond, most times are 0 to a float beside the longest."""

MOST_FAILURES = 5.0
"""Expected in the time of the longest unit on the slowest worker: e^5 runs of it. With more, it hardly ever ends."""


@dataclass(frozen=True, kw_only=True)
class Troubles:
    """What goes wrong in the simulated cluster. The defaults are assumptions, not measurements.

    Attributes:
        spread: standard deviation of the logarithm of a unit's time.
        slow_share: of the workers that are slow all the time.
        slow_factor: how many times as long these take.
        failures_per_hour: of a worker; it loses the unit that it is at.
        restart_seconds: until a failed worker takes a unit again.
        copies: whether idle workers run the last units once more.
        simulation_seed: of all draws.
    """

    spread: float = 0.15
    slow_share: float = 0.02
    slow_factor: float = 3.0
    failures_per_hour: float = 0.02
    restart_seconds: float = 120.0
    copies: bool = False
    simulation_seed: int = 0

    def __post_init__(self) -> None:
        for name, good, remedy in (
            ("spread", 0 <= self.spread <= MOST_SPREAD, f"0 to {MOST_SPREAD}"),
            ("slow_share", 0 <= self.slow_share <= 1, "a share between 0 and 1"),
            ("slow_factor", 1 <= self.slow_factor < math.inf, "1 or more"),
            ("failures_per_hour", 0 <= self.failures_per_hour < math.inf, "0 or more"),
            ("restart_seconds", 0 <= self.restart_seconds < math.inf, "0 or more"),
            ("simulation_seed", self.simulation_seed >= 0, "0 or more"),
        ):
            if not good:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give {remedy}")


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What came of it, in seconds.

    Attributes:
        makespan: until the last unit was done.
        ideal: all units' own times shared out evenly among workers that are never slow or idle.
        tail: share of the makespan after the first worker found nothing to do.
        utilisation: share of the workers' time that ended in a unit done.
        failures: of workers, with the seconds that they lost.
        lost_seconds: of units that failures cut short.
        copies: of running units that were begun, with what the losers of each pair took.
        copy_seconds: likewise.
    """

    makespan: float
    ideal: float
    tail: float
    utilisation: float
    failures: int
    lost_seconds: float
    copies: int
    copy_seconds: float


def simulate(
    seconds: Sequence[float], workers: int, troubles: Troubles, remedy: str = "smaller --unit-bytes"
) -> Simulated:
    """Units of these mean times, in the order in which they are taken.

    Args:
        seconds: mean time of each unit, of which there is one at least, on a worker that is not slow.
        workers: number, 1 or more.
        troubles: what goes wrong.
        remedy: what makes the longest unit shorter, for a message.

    Raises:
        UserError: see `simulate_each`.
    """
    rng = np.random.default_rng(troubles.simulation_seed)
    factors = rng.lognormal(-(troubles.spread**2) / 2, troubles.spread, len(seconds))  # of mean 1
    return simulate_each((np.array(seconds) * factors).tolist(), workers, troubles, remedy)


def simulate_each(
    seconds: Sequence[float], workers: int, troubles: Troubles, remedy: str = "smaller --unit-bytes"
) -> Simulated:
    """Units of given times, in the order in which they are taken.

    Raises:
        UserError: a unit that hardly ever ends, since it is cut short by failures before.
    """
    slowest = troubles.slow_factor if round(troubles.slow_share * workers) else 1.0
    longest = max(seconds) * slowest
    if troubles.failures_per_hour / HOUR * longest > MOST_FAILURES:
        raise UserError(
            f"--failures-per-hour {troubles.failures_per_hour:g}: a unit of {longest / HOUR:.3g} h, the longest on the "
            f"slowest worker, hardly ever ends between two failures; give fewer, or {remedy}"
        )
    return _Run(seconds, workers, troubles).run()


@dataclass(slots=True)
class _Attempt:
    """A worker at a unit; due when it ends if the worker does not fail."""

    unit: int
    worker: int
    start: float
    due: float
    is_over: bool = False


@dataclass
class _Run:
    seconds: Sequence[float]
    workers: int
    troubles: Troubles
    now: float = 0.0
    events: list[tuple[float, int, _Attempt | int, bool]] = field(default_factory=list)
    running: dict[int, list[_Attempt]] = field(default_factory=dict)
    alone: list[tuple[float, int, _Attempt]] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    first_idle: float | None = None
    numbered: int = 0
    failures: int = 0
    useful: float = 0.0
    lost: float = 0.0
    copies: int = 0
    copied: float = 0.0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.troubles.simulation_seed, 1])
        self.queue = deque(range(len(self.seconds)))
        self.left = len(self.seconds)
        slow = self.rng.permutation(self.workers)[: round(self.troubles.slow_share * self.workers)]
        self.slowness = np.ones(self.workers)
        self.slowness[slow] = self.troubles.slow_factor

    def run(self) -> Simulated:
        for worker in range(self.workers):
            self._give_work(worker)
        while self.left:
            self.now, _, subject, failed = heapq.heappop(self.events)
            if isinstance(subject, int):
                self._give_work(subject)
            elif not subject.is_over:
                self._end(subject, failed)
            while self.idle and (self.queue or self._last_alone()):  # which a failure gave back, or left alone
                self._give_work(self.idle.pop())
        first_idle = self.now if self.first_idle is None else self.first_idle
        return Simulated(
            makespan=self.now,
            ideal=sum(self.seconds) / self.workers,
            tail=(self.now - first_idle) / self.now if self.now else 0.0,
            utilisation=self.useful / (self.workers * self.now) if self.now else 1.0,
            failures=self.failures,
            lost_seconds=self.lost,
            copies=self.copies,
            copy_seconds=self.copied,
        )

    def _give_work(self, worker: int) -> None:
        if self.queue:
            self._begin(self.queue.popleft(), worker)
            return
        if self.first_idle is None:
            self.first_idle = self.now
        last = self._last_alone()
        if last is None:
            self.idle.append(worker)
        else:
            self.copies += 1
            self._begin(last.unit, worker)

    def _last_alone(self) -> _Attempt | None:
        """Of the attempts at units that no other worker is at, the one due last; none without copies."""
        while self.alone:
            attempt = self.alone[0][2]
            if not attempt.is_over and len(self.running[attempt.unit]) == 1:
                return attempt
            heapq.heappop(self.alone)
        return None

    def _is_alone(self, attempt: _Attempt) -> None:
        if self.troubles.copies:
            self.numbered += 1
            heapq.heappush(self.alone, (-attempt.due, self.numbered, attempt))

    def _begin(self, unit: int, worker: int) -> None:
        takes = self.seconds[unit] * float(self.slowness[worker])
        attempt = _Attempt(unit, worker, self.now, self.now + takes)
        self.running.setdefault(unit, []).append(attempt)
        if len(self.running[unit]) == 1:
            self._is_alone(attempt)
        rate = self.troubles.failures_per_hour / HOUR
        fails = float(self.rng.exponential(1 / rate)) if rate else takes
        self._at(self.now + min(takes, fails), attempt, fails < takes)

    def _at(self, moment: float, subject: _Attempt | int, failed: bool = False) -> None:
        """An event: the end of an attempt, or a worker that is there again."""
        self.numbered += 1  # of two at the same moment, the one that was known first comes first
        heapq.heappush(self.events, (moment, self.numbered, subject, failed))

    def _end(self, attempt: _Attempt, failed: bool) -> None:
        attempt.is_over = True
        others = [other for other in self.running.pop(attempt.unit) if other is not attempt]
        if failed:
            self.failures += 1
            self.lost += self.now - attempt.start
            self._at(self.now + self.troubles.restart_seconds, attempt.worker)
            if others:
                self.running[attempt.unit] = others
                self._is_alone(others[0])
            else:
                self.queue.appendleft(attempt.unit)
            return
        self.left -= 1
        self.useful += self.now - attempt.start
        for other in others:
            other.is_over = True
            self.copied += self.now - other.start
        for worker in (attempt.worker, *(other.worker for other in others)):
            self._give_work(worker)
