"""What a run says while it goes: JSON lines for programs, TensorBoard for curves, one live line for people.

`metrics.jsonl` has one object a step. After a resume the lines from the resumed step on are dropped first, so that a
killed and an undisturbed run leave the same file (but for times).
"""

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from schemas.errors import UserError

METRICS = "metrics.jsonl"
LINE_SECONDS = 10.0
"""Between lines where there is no terminal to rewrite one."""

SUMMED_UP = 200
"""Steps at the end of a run that its summary tells the loss of."""


class RunLog:
    """The open logs of a run.

    Args:
        run: the run's folder.
        first_step: the step that comes next; what is logged from there on is dropped.
        tensorboard: whether to write event files too.
    """

    def __init__(self, run: Path, first_step: int, *, tensorboard: bool) -> None:
        run.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(run) if line["step"] < first_step]
        temp = run / f"{METRICS}.tmp"
        temp.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temp.replace(run / METRICS)
        self._file = (run / METRICS).open("a")
        self._board = _board(run, first_step) if tensorboard else None
        self._last_line = 0.0
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._is_terminal:
            sys.stderr.write("\n")

    def write(self, metrics: dict[str, Any], line: str) -> None:
        """Log one step.

        Args:
            metrics: JSON object with "step"; numbers also go to TensorBoard.
            line: for people.

        Raises:
            UserError: a full disk.
        """
        try:
            self._file.write(json.dumps(metrics) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._file.name}: cannot be written ({error.strerror})") from None
        if self._board is not None:
            for name, value in metrics.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, metrics["step"])
        now = time.monotonic()
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            sys.stderr.write(line + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The logged steps; a last line that a kill cut short is left out."""
    path = run / METRICS
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def summary(lines: list[dict[str, Any]]) -> str:
    """Bits per byte by view over the last SUMMED_UP steps, speed and waits over all: one line for people."""
    last = lines[-SUMMED_UP:]
    parts = []
    for view in ("raw", "comp"):
        # each step counts by its bytes: late in a run most steps show few raw ones
        shown = [line for line in last if line[f"{view}_bits_per_byte"] is not None]
        size = sum(line[f"{view}_view_bytes"] for line in shown)
        if size:
            bits = sum(line[f"{view}_bits_per_byte"] * line[f"{view}_view_bytes"] for line in shown)
            parts.append(f"{view} view {bits / size:.3f}")
    seconds = [line["symbols"] / line["symbols_per_second"] for line in lines]
    waited = sum(line["data_wait"] * second for line, second in zip(lines, seconds, strict=True)) / sum(seconds)
    rate = sum(line["symbols"] for line in lines) / sum(seconds)
    return (
        f"{' and '.join(parts)} bits per byte over the last {len(last)} steps, {rate:,.0f} symbols/s, "
        f"{waited:.2%} of the time waiting for data"
    )


def _board(run: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"), purge_step=first_step)
