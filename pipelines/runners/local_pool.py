"""Worker processes on one machine, under Beam's local runner.

Beam's own multi-processing mode hangs when a worker is killed, and both its modes give each worker a fixed share
of the units. So its local runner queues all units here: n threads take them in order, and each hands its unit to a
process and waits, so that no process is idle while a unit waits. A worker that dies takes the pool with it, and which
unit was its own cannot be told; so those in flight are run again in a new pool, each alone, and only a death then is
counted against a unit. That is harmless, since a unit writes the same bytes however often it runs. A worker whose
driver is gone ends itself.
"""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess

from pipelines.reading.plan import Unit
from pipelines.runners.place import Place
from pipelines.shard import Outcome
from schemas.errors import UserError, one_line

ATTEMPTS = 4
"""Runs of a unit, here alone, before its workers' deaths are taken to be its own fault (out of memory, say)."""

END_SECONDS = 10.0
"""For idle workers to end by themselves."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
"""Processes are the parallelism: libraries with threads of their own would fight over the cores."""


class LocalPool(Place):
    """Runs units in processes.

    Args:
        workers: processes.
    """

    def __init__(self, workers: int) -> None:
        use_one_thread()
        self._workers = workers
        self._changed = threading.Condition()  # of what follows
        self._running = 0
        self._wants_alone = 0
        self._executor = self._start()
        # Ctrl-C reaches the whole process group, and the driver decides what it means: workers are started from
        # these threads and inherit their mask.
        self._threads = ThreadPoolExecutor(workers, initializer=_block_interrupts)

    def submit(self, work: Callable[[Unit], Outcome], unit: Unit) -> "Future[None]":
        """Queue a unit. The first error of any is kept in `failure` and is not the future's; the rest is not done then.

        Args:
            work: for the unit, in a worker process.
            unit: to do.
        """
        return self._threads.submit(self._run, work, unit)

    def _run(self, work: Callable[[Unit], Outcome], unit: Unit) -> None:
        with self._beside_others():
            ended = self._ended(work, unit)
        for _ in range(ATTEMPTS):
            if ended:
                return
            with self._alone():
                ended = self._ended(work, unit)
        if not ended:
            self.failure = self.failure or UserError(
                f"unit {unit.index}: worker processes died {ATTEMPTS} times while it ran alone (out of memory, or "
                "killed?); use smaller --unit-bytes, and run the same command again: finished units are kept"
            )

    def _ended(self, work: Callable[[Unit], Outcome], unit: Unit) -> bool:
        """Run a unit, unless another failed; False: a worker died."""
        if self.failure is not None:
            return True
        executor = self._executor
        try:
            executor.submit(partial(_done, work), unit).result()
        except BrokenProcessPool:
            self._replace(executor)
            return False
        except Exception as error:  # noqa: BLE001 - raised in the main thread
            self.failure = self.failure or error
        return True

    @contextmanager
    def _beside_others(self) -> Iterator[None]:
        """A turn that waits for those who want to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wants_alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A turn in which no other unit runs."""
        with self._changed:
            self._wants_alone += 1
            self._changed.wait_for(lambda: not self._running)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._wants_alone -= 1
                self._changed.notify_all()

    def kill(self) -> None:
        """End all workers now, for good; what they had not committed is lost and will be redone."""
        self.failure = self.failure or UserError("worker processes were ended; finished units are kept")
        _kill(self._processes())

    def close(self) -> None:
        """End the workers when they are idle; those that then do not (a filter's thread runs on) are killed."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        too_late = threading.Timer(END_SECONDS, _kill, [self._processes()])
        too_late.start()
        self._executor.shutdown(wait=True, cancel_futures=True)
        too_late.cancel()

    def _processes(self) -> list[BaseProcess]:
        return list((self._executor._processes or {}).values())

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=end_with_driver)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._changed:
            if self._executor is broken and self.failure is None:
                broken.shutdown(wait=False, cancel_futures=True)
                self._executor = self._start()


def _kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()


def _done(work: Callable[[Unit], Outcome], unit: Unit) -> Outcome:
    """Do a unit in a worker; an error that would not come through to the driver, and break the pool, in words."""
    try:
        return work(unit)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - whatever its class does when it is rebuilt
            raise RuntimeError(one_line(error)) from error
        raise


def _block_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def use_one_thread() -> None:
    """Set the environment that worker processes inherit."""
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def end_with_driver() -> None:
    """Have this worker process end when the process that started it is gone, however that ended."""
    threading.Thread(target=_wait_for_driver, daemon=True).start()


def _wait_for_driver() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
