"""Worker processes on one machine, under Beam's local runner.

Beam's own multi-processing mode hangs when a worker is killed. So its local runner runs n threads, and each
thread hands its unit to a process of this pool and waits. A worker that dies takes the pool with it; the units
in flight are then run again in a new one, which is harmless, since a unit writes the same bytes however often it
runs. A worker whose driver is gone ends itself.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from pipelines.plan import Unit
from pipelines.shard import Outcome
from schemas.errors import UserError

ATTEMPTS = 4
"""Runs of a unit before its workers' deaths are taken to be its own fault (out of memory, say)."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
"""Processes are the parallelism: libraries with threads of their own would fight over the cores."""


class LocalPool:
    """Runs units in processes.

    Args:
        workers: processes.
    """

    def __init__(self, workers: int) -> None:
        use_one_thread()
        self._workers = workers
        self._lock = threading.Lock()
        self._executor = self._start()
        self._killed = False
        self.failure: Exception | None = None

    def run(self, work: Callable[[Unit], Outcome], unit: Unit) -> Outcome | None:
        """Do the work for a unit in a worker process and wait for it; called from many threads.

        Returns:
            The outcome; None if this unit or one before it failed. The first error is kept in `failure` and not
            raised here: Beam would print its trace from five layers down.
        """
        # Ctrl-C reaches the whole process group, and the driver decides what it means: workers are started from
        # this thread and inherit its mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        for _ in range(ATTEMPTS):
            if self.failure is not None:
                return None
            executor = self._executor
            try:
                return executor.submit(work, unit).result()
            except BrokenProcessPool:
                self._replace(executor)
            except Exception as error:  # noqa: BLE001 - raised in the main thread
                self.failure = self.failure or error
                return None
        self.failure = self.failure or UserError(
            f"unit {unit.index}: worker processes died {ATTEMPTS} times while it ran (out of memory, or killed?); "
            "use fewer WORKERS or smaller --unit-bytes, and run the same command again: finished units are kept"
        )
        return None

    def kill(self) -> None:
        """End all workers now, for good; what they had not committed is lost and will be redone."""
        with self._lock:
            self._killed = True
        for process in list((self._executor._processes or {}).values()):
            process.kill()

    def close(self) -> None:
        """End the workers when they are idle."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=end_with_driver)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._executor is broken and not self._killed:
                broken.shutdown(wait=False, cancel_futures=True)
                self._executor = self._start()
        if self._killed:
            threading.Event().wait()  # for the end of the process


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
