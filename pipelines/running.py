"""Runs a piece of work for each unit on a runner, with progress, Ctrl-C and one line for what went wrong."""

import logging
import multiprocessing.util
import os
import shlex
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, NoReturn

from pipelines import commit, local_pool
from pipelines.plan import Unit
from pipelines.progress import ProgressReport
from pipelines.shard import Outcome
from pipelines.storage import Folder
from schemas.errors import UserError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""

Work = Callable[[Unit], Outcome]
"""What is done for each unit: picklable, harmless to repeat, and committed to storage when it returns."""


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Where units run.

    Attributes:
        runner: direct runs on this machine; the others take their own options by --beam-options.
        workers: processes of the direct runner; default all cores.
        beam_options: passed to the runner as they are, one string: --beam-options="--region=x --project=y".
    """

    runner: Literal["direct", "dask", "flink", "spark", "dataflow"] = "direct"
    workers: int | None = None
    beam_options: str = ""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"WORKERS={self.workers}: give 1 or more")


def run_units(work: Work, units: list[Unit], out: Folder, progress: ProgressReport, options: RunnerOptions) -> None:
    """Do the work for each unit on the runner in a thread, while this one shows progress and hears Ctrl-C.

    Args:
        work: for a unit.
        units: to do.
        out: where the trace of an unexpected error goes.
        progress: of this work.
        options: where to run.

    Raises:
        UserError: a unit failed; those that were finished are kept.
    """
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of optional clients that nobody here asked for
    from pipelines import beam  # takes seconds to import, which bad options should not cost

    workers = min(options.workers or os.cpu_count() or 1, len(units))
    pool = local_pool.LocalPool(workers) if options.runner == "direct" else None
    failures: list[Exception] = []

    def run() -> None:
        try:
            beam.run(work, units, options.runner, shlex.split(options.beam_options), pool, workers)
        except Exception as error:  # noqa: BLE001 - carried to the main thread
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(progress.interval)
            progress.update()
    except KeyboardInterrupt:
        progress.close()
        if pool is not None:
            pool.kill()
            multiprocessing.util._run_finalizers(0)  # type: ignore[attr-defined]  # else a warning of semaphores
        for folder in beam.temporary_folders:
            shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.write(
            f"interrupted: {progress.done} of {len(units)} units are done; the same command goes on from there\n"
        )
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # Beam's threads wait for units that will not end
    progress.close()
    if pool is not None:
        pool.close()
    if pool is not None and pool.failure is not None:
        failures.insert(0, pool.failure)
    if failures:
        _raise_plainly(out, failures[0])


def _raise_plainly(out: Folder, error: Exception) -> NoReturn:
    """A user's error as it is; any other in one line, its trace in a file."""
    if isinstance(error, UserError):
        raise error
    trace = "".join(traceback.format_exception(error))
    with suppress(UserError, OSError):
        out.write(commit.ERROR_LOG, trace.encode("utf-8", "backslashreplace"))
    raise UserError(
        f"a unit failed: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}; finished units are kept; the "
        f"trace is in {out.locate(commit.ERROR_LOG)}; run the same command again once the cause is gone"
    ) from error


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, and SIGHUP when the terminal closes, end the job as Ctrl-C does."""

    def interrupt(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
