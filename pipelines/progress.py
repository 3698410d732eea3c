"""Progress of a pass over units, read from the output folder: the same on every runner.

On a terminal one live bar; elsewhere a plain line now and then. A unit is done when its file (its receipt, or what
another pass leaves) is listed; what it held is read from its receipt, once, a few at a time. Units that were there
before count as done and not as speed, and their receipts are not read. The time left goes by input bytes, not by
units. A look at a store of 50,000 receipts takes seconds, so looks happen beside the work and take at most a tenth
of the time.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.reject_limit import is_hopeless, too_many, too_much_lost
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Receipt

LOCAL_SECONDS, REMOTE_SECONDS = 0.5, 5.0
LINE_SECONDS = 15.0
"""Between plain lines in a log."""

RECEIPTS_A_LOOK = 512
"""Of those behind, the rest is read in later looks: 2 s on a store, so that a bar never waits for figures."""

_READERS = 16
_PATIENCE = 1.0
"""Seconds that an update waits for a look; a longer one goes on behind it."""

_PAUSE = 9
"""Looks begin at least so many times their own duration after the last one ended."""


@dataclass
class ProgressReport:
    """Watches a folder for the files of done units.

    Attributes:
        out: the dataset's folder.
        names: of the files that say that a unit is done; receipts are read, too.
        quiet: show nothing.
        input_bytes: of each unit, in the order of `names`; None: all weigh the same.
        title: of this pass, where a job has several.
        before: files that were there at the start.
        max_reject_fraction: stop once rejects are far more than this share of the documents, see `is_hopeless`, or once
            inputs that could not be read are more than this share of all.
    """

    out: Folder
    names: Sequence[str]
    quiet: bool = False
    input_bytes: Sequence[int] | None = None
    title: str = ""
    before: frozenset[str] = frozenset()
    max_reject_fraction: float = 1.0
    _documents: int = 0
    _raw_bytes: int = 0
    _symbols: int = 0
    _rejected: Counter[str] = field(default_factory=Counter)
    _rejects_file: str = ""
    _lost_bytes: int = 0
    _lost_file: str = ""
    _done: set[str] = field(default_factory=set)
    _unread: set[str] = field(default_factory=set)
    _look: threading.Thread | None = None
    _next_look: float = 0.0

    def __post_init__(self) -> None:
        self._weights = dict(zip(self.names, self.input_bytes or [1] * len(self.names), strict=True))
        self._total = sum(self._weights.values())
        self._folders = sorted({name.rpartition("/")[0] for name in self.names})
        self._console = Console(stderr=True)
        with suppress(OSError, UserError):
            self.before = frozenset(self._listed())
        self._done = set(self.before)
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal and not self.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self.line(), total=self._total, completed=self._weigh(self.before))
            self._bar.start()

    @property
    def interval(self) -> float:
        """Seconds between updates."""
        return LOCAL_SECONDS if self.out.is_local else REMOTE_SECONDS

    @property
    def done(self) -> int:
        """Units whose files were seen."""
        return len(self._done)

    def update(self) -> None:
        """Look for new files, at most a second long, and show them; a look that fails is made again later.

        Raises:
            UserError: so many of the documents are rejects that the job can only fail.
        """
        if self._look is None and time.monotonic() >= self._next_look:
            self._look = threading.Thread(target=self._see, daemon=True, name="progress")
            self._look.start()
        if self._look is not None:
            self._look.join(_PATIENCE)
            if not self._look.is_alive():
                self._look = None
                self._check_rejects()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._weigh(set(self._done)), description=self.line())
        elif not self.quiet and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def line(self) -> str:
        """What is shown, beside a bar or alone."""
        seconds = max(time.monotonic() - self._start, 1e-3)
        done = set(self._done)
        made, left = self._weigh(done - self.before), self._total - self._weigh(done)
        parts = [f"{len(done):,}/{len(self.names):,} units"]
        if self._documents:
            parts.append(f"{self._documents:,} documents")
        if self.input_bytes is not None:
            parts.append(f"{made / 1e6 / seconds:.1f} MB/s")
        if self._symbols:
            parts.append(f"{self._raw_bytes / self._symbols:.2f} bytes/symbol")
        if self._documents:
            parts.append(f"{self._rejected.total():,} rejects")
        if self._unread:
            parts.append(f"{len(self._unread):,} receipts behind")
        if made and left:
            parts.append(f"{timedelta(seconds=round(seconds * left / made))} left")
        return (f"{self.title}: " if self.title else "") + ", ".join(parts)

    def _see(self) -> None:
        start = time.monotonic()
        try:
            found = self._listed()
            self._unread |= {name for name in found - self._done if name.startswith("receipts/")}
            self._done |= found
            self._read(sorted(self._unread)[:RECEIPTS_A_LOOK])
        except (OSError, UserError):
            pass  # a store that does not answer is asked again
        end = time.monotonic()
        self._next_look = end + _PAUSE * (end - start)

    def _listed(self) -> set[str]:
        return {name for folder in self._folders for name in self.out.sizes(folder) if name in self._weights}

    def _read(self, names: list[str]) -> None:
        if self.out.is_local:
            self._count(map(self._receipt, names))
        elif names:
            with ThreadPoolExecutor(_READERS) as pool:
                self._count(pool.map(self._receipt, names))
        self._unread -= set(names)

    def _receipt(self, name: str) -> Receipt | None:
        try:
            return Receipt.from_bytes(self.out.read(name), name)
        except (OSError, UserError):
            return None  # being replaced, or damaged: its figures are left out

    def _count(self, receipts: Iterable[Receipt | None]) -> None:
        for receipt in receipts:
            if receipt is not None:
                self._documents += receipt.documents
                self._raw_bytes += receipt.shard.raw_bytes
                self._symbols += receipt.shard.comp_symbols
                self._rejected.update(receipt.rejected)
                self._lost_bytes += receipt.lost_bytes
                if receipt.rejects.rows:
                    self._rejects_file = receipt.rejects.name
                if receipt.lost_bytes:
                    self._lost_file = receipt.rejects.name

    def _check_rejects(self) -> None:
        if is_hopeless(self._documents, self._rejected.total(), self.max_reject_fraction):
            raise too_many(self.out, self._documents, self._rejected, self._rejects_file, self.max_reject_fraction)
        if self.input_bytes is not None and self._lost_bytes > self.max_reject_fraction * self._total:
            rejected, limit = self._rejected, self.max_reject_fraction
            raise too_much_lost(self.out, self._lost_bytes, self._total, rejected, self._lost_file, limit)

    def _weigh(self, names: Iterable[str]) -> int:
        return sum(self._weights[name] for name in names)
