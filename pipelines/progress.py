"""Progress of a job, read from the receipts in its output folder: the same on every runner.

On a terminal one live bar; elsewhere a plain line now and then. Receipts that were there before count as done and
not as speed.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Receipt

LOCAL_SECONDS, REMOTE_SECONDS = 0.5, 5.0
LINE_SECONDS = 15.0
"""Between plain lines in a log."""


@dataclass
class ProgressReport:
    """Watches a folder's receipts.

    Attributes:
        out: the dataset's folder.
        names: receipts that the job will write.
        quiet: show nothing.
    """

    out: Folder
    names: list[str]
    quiet: bool = False
    _seen: set[str] = field(default_factory=set)
    _documents: int = 0
    _raw_bytes: int = 0
    _symbols: int = 0
    _rejects: int = 0

    def __post_init__(self) -> None:
        self._console = Console(stderr=True)
        self._start = self._last_line = time.monotonic()
        self._before = self._poll()
        self._bar: Progress | None = None
        if self._console.is_terminal and not self.quiet:
            self._bar = Progress(
                TextColumn("{task.completed}/{task.total} units"),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=len(self.names), completed=len(self._seen))
            self._bar.start()

    @property
    def interval(self) -> float:
        """Seconds between looks."""
        return LOCAL_SECONDS if self.out.is_local else REMOTE_SECONDS

    @property
    def done(self) -> int:
        """Units whose receipts were seen."""
        return len(self._seen)

    def update(self) -> None:
        """Look for new receipts and show them; a store that does not answer is asked again the next time."""
        with suppress(OSError):
            self._poll()
        if self._bar is not None:
            self._bar.update(self._task, completed=len(self._seen), description=self._line())
        elif not self.quiet and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(f"{len(self._seen)}/{len(self.names)} units  {self._line()}", highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _poll(self) -> int:
        wanted = set(self.names)
        for name in sorted((self.out.sizes("receipts").keys() & wanted) - self._seen):
            try:
                receipt = Receipt.from_bytes(self.out.read(name), name)
            except (FileNotFoundError, UserError):
                continue  # being replaced, or damaged: its unit will be redone
            self._seen.add(name)
            self._documents += receipt.documents
            self._raw_bytes += receipt.shard.raw_bytes
            self._symbols += receipt.shard.comp_symbols
            self._rejects += receipt.rejects.rows
        return self._raw_bytes

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-3)
        speed = (self._raw_bytes - self._before) / 1e6 / seconds
        ratio = f", {self._raw_bytes / self._symbols:.2f} bytes/symbol" if self._symbols else ""
        return f"{self._documents:,} documents, {speed:.1f} MB/s{ratio}, {self._rejects:,} rejects"
