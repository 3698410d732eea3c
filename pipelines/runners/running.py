"""Runs a piece of work for each unit on a runner, with progress, Ctrl-C and one line for what went wrong."""

import logging
import multiprocessing.util
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from pipelines import commit
from pipelines.progress import ProgressReport
from pipelines.reading.plan import Unit
from pipelines.runners.local_pool import LocalPool
from pipelines.runners.place import Place
from pipelines.shard import Outcome
from pipelines.storage import Folder
from schemas.command_line import INTERRUPTED
from schemas.errors import UserError, one_line
from schemas.machine import available_cores
from schemas.secrets import redacted

Work = Callable[[Unit], Outcome]
"""What is done for each unit: picklable, harmless to repeat, and committed to storage when it returns."""


_REMOTE_USER_ERROR = re.compile(r"UserError: (.*?)(?:\s*\[while running|\\n|\n|$)")
"""In the trace of a worker, which is all that portable runners hand back."""


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Where units run.

    Attributes:
        runner: direct and dask run on this machine; the others, and portable for any Beam job server, take their own
            options by --beam-options (docs/runners.md).
        workers: processes of direct, and of dask without --scheduler; default all cores that this process may use.
        scheduler: address of a running Dask scheduler, tcp://host:8786; default: processes on this machine.
        beam_options: passed to the runner as they are, one string: --beam-options="--region=x --project=y"; direct
            takes none.

    Raises:
        UserError: what does not fit together.
    """

    runner: Literal["direct", "dask", "flink", "spark", "dataflow", "portable"] = "direct"
    workers: int | None = None
    scheduler: str | None = None
    beam_options: str = ""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"WORKERS={self.workers}: give 1 or more")
        if self.workers is not None and (self.runner not in ("direct", "dask") or self.scheduler is not None):
            cluster = f"RUNNER={self.runner}" if self.scheduler is None else f"--scheduler {self.scheduler}"
            raise UserError(f"WORKERS={self.workers}: the workers of {cluster} are started there; leave it out")
        if self.scheduler is not None and self.runner != "dask":
            raise UserError(f"--scheduler {self.scheduler}: RUNNER={self.runner} has none; give RUNNER=dask")
        if self.beam_arguments and self.runner == "direct":
            raise UserError(f"--beam-options {self.beam_options}: RUNNER=direct takes none; leave it out")
        if self.runner == "portable" and "--job_endpoint" not in self.beam_options:
            raise UserError('RUNNER=portable: give the job server, --beam-options="--job_endpoint=host:8099 ..."')

    @property
    def beam_arguments(self) -> list[str]:
        """`beam_options` as a shell splits them.

        Raises:
            UserError: an open quote.
        """
        try:
            return shlex.split(self.beam_options)
        except ValueError as error:
            raise UserError(f"--beam-options {self.beam_options}: {error}; see its quotes") from None


def run_units(work: Work, units: list[Unit], out: Folder, progress: ProgressReport, options: RunnerOptions) -> None:
    """Do the work for each unit on the runner in a thread, while this one shows progress and hears Ctrl-C.

    Args:
        work: for a unit.
        units: to do.
        out: the dataset's folder; the trace of an unexpected error goes there, too.
        progress: of this work: it names the file in `out` that each unit leaves.
        options: where to run.

    Raises:
        UserError: a unit failed, or its result is not there; those that were finished are kept.
    """
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of optional clients that nobody here asked for
    from pipelines.runners import beam  # takes seconds to import, which bad options should not cost

    beam.check(options.runner, options.beam_arguments)
    place = Place()
    failures: list[Exception] = []

    def run() -> None:
        try:
            arguments = [*place.options(len(units)), *options.beam_arguments]
            beam.run(work, units, out, options.runner, arguments, place if isinstance(place, LocalPool) else None)
        except SystemExit:  # of Beam's parser, at options of the runner that only its server knows
            failures.append(UserError(f"RUNNER={options.runner} does not take these options: {options.beam_options}"))
        except Exception as error:  # noqa: BLE001 - carried to the main thread
            failures.append(error)

    log = ""
    try:
        place = _open(options, len(units))
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(progress.interval)
            progress.update()
            place.check()
        if failures:
            log = place.logs()
    except KeyboardInterrupt:
        progress.close()
        place.kill()
        if isinstance(place, LocalPool):
            multiprocessing.util._run_finalizers(0)  # type: ignore[attr-defined]  # else a warning of semaphores
        for folder in beam.temporary_folders:
            shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.write(
            f"interrupted: {progress.done} of {len(units)} units are done; the same command goes on from there\n"
        )
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # Beam's threads wait for units that will not end
    except Exception as error:  # noqa: BLE001 - told in one line
        progress.close()
        log = place.logs()
        place.kill()
        _raise_plainly(out, place.explained(error), log, f"RUNNER={options.runner} failed")
    progress.close()
    place.close()
    if place.failure is not None or failures:
        _raise_plainly(out, place.explained(place.failure or failures[0]), log, "a unit failed")
    listed = {name for sub in {Path(name).parent for name in progress.names} for name in out.sizes(str(sub))}
    missing = sum(not out.exists(name) for name in set(progress.names) - listed)  # a listing may lag
    if missing:
        raise UserError(
            f"RUNNER={options.runner} ended well, but {missing} of {len(units)} units are not in {redacted(out.url)}; "
            "run the same command again: finished units are kept"
        )


def _open(options: RunnerOptions, units: int) -> Place:
    workers = min(options.workers or available_cores(), units)
    if options.runner == "direct":
        return LocalPool(workers)
    if options.runner != "dask":
        return Place()
    try:
        from pipelines.runners.dask_cluster import DaskCluster
    except ModuleNotFoundError as error:
        raise UserError(f"RUNNER=dask: {error.name} is not installed; pip install proxy-compression[dask]") from None
    return DaskCluster(workers, options.scheduler)


def _raise_plainly(out: Folder, error: Exception, log: str, what: str) -> NoReturn:
    """A user's error as it is; any other in one line. Its trace and what workers logged go to a file."""
    told = _REMOTE_USER_ERROR.search(str(error))
    trace = log if isinstance(error, UserError) else "".join(traceback.format_exception(error)) + log
    if trace:
        with suppress(UserError, OSError):
            out.write(commit.ERROR_LOG, redacted(trace).encode("utf-8", "backslashreplace"))
    if isinstance(error, UserError):
        raise error
    if told:
        raise UserError(redacted(told[1])) from error
    raise UserError(
        f"{what}: {redacted(one_line(error))[:300]}; finished units are kept; the trace is in "
        f"{redacted(out.locate(commit.ERROR_LOG))}; run the same command again once the cause is gone"
    ) from error


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, and SIGHUP when the terminal closes, end the job as Ctrl-C does, unless they are ignored (`nohup`)."""

    def interrupt(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = (number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN)
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
