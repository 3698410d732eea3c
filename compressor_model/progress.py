"""Progress of a training for people: one live line on a terminal, elsewhere a plain line now and then."""

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_SECONDS = 15.0
"""Between plain lines in a log."""

Report = Callable[[str], None]
"""Called with one line for people."""


class TrainingProgress:
    """Shows steps, bits per byte, speed and what is left.

    Args:
        report: takes the plain lines; held-out bits per byte always get one.
        steps: in all.
        batch: bytes of a step.
        done: steps done before; they do not count as speed.
    """

    def __init__(self, report: Report, steps: int, batch: int, done: int) -> None:
        self._report = report
        self._steps, self._batch, self._before = steps, batch, done
        self._start = self._last_line = time.monotonic()
        self._average = 0.0
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("starting", total=steps, completed=done)

    def __enter__(self) -> "TrainingProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, bits: float, held_out: float | None) -> None:
        """After a step.

        Args:
            step: steps done.
            bits: per byte, of its batch; shown as a running mean.
            held_out: bits per byte on held-out text, if it was tried.
        """
        here = step - self._before
        self._average += (bits - self._average) * max(0.02, 1 / here)
        line = self._line(step, here)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=line)
        if held_out is not None:
            self._print(f"{line}; held out {held_out:.3f}")
        elif self._bar is None and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print(line)

    def _line(self, step: int, here: int) -> str:
        seconds = max(time.monotonic() - self._start, 1e-3)
        left = round(seconds / here * (self._steps - step))
        speed = here * self._batch / seconds / 1e3
        return (
            f"step {step:,} of {self._steps:,}: {self._average:.3f} bits per byte, {speed:,.0f} kB/s, "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        self._report(f"  {line}")
