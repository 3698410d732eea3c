"""The Dask cluster of a job: processes of our own on this machine, or a scheduler that is already there.

Beam's Dask runner opens a client and forgets it, checks nothing, and leaves errors and logs where they fall. So the
cluster is ours: opened and checked before work, watched during it, and closed after it, however it ended. Workers
of our own end with the driver's process, even a killed one; they take 2 seconds to start.
"""

import logging
import signal
import time
import warnings
from contextlib import suppress
from typing import Any

import dask
import distributed
from distributed.comm.core import CommClosedError

from pipelines.runners.environment import difference, environment
from pipelines.runners.local_pool import ATTEMPTS, use_one_thread
from pipelines.runners.place import Place
from schemas.errors import UserError

CONNECT_SECONDS = 5
NO_WORKERS_SECONDS = 120
"""A scheduler without workers is waited for that long: elastic clusters may lose all and get others."""

_CLOSE_SECONDS = 10
_LOG_LINES = 50
"""Of each worker, kept when a job fails."""


class DaskCluster(Place):
    """An open connection to a cluster.

    Args:
        workers: processes to start on this machine, of one thread each; of no meaning with `scheduler`.
        scheduler: address of a running one; None: start our own.

    Raises:
        UserError: no scheduler there, no workers, or workers of another environment.
    """

    def __init__(self, workers: int, scheduler: str | None) -> None:
        _silence()
        self._cluster: Any = None
        self._client: Any = None
        self._alone_since: float | None = None
        try:
            if scheduler is None:
                self._cluster = _local_cluster(workers)
            self.address = scheduler or str(self._cluster.scheduler_address)
            self._client = _connect(self.address)
            if scheduler is None:
                self._client.register_plugin(_AtTheTerminal())
            self._check_workers()
        except BaseException:
            self.close()
            raise

    def options(self, units: int) -> list[str]:
        """Beam's options: a Dask partition is a task, and a unit must be one."""
        return [f"--dask_client_address={self.address}", f"--dask_npartitions={units}"]

    def check(self) -> None:
        """See that somebody is still there to work.

        Raises:
            UserError: no workers for `NO_WORKERS_SECONDS`, or no scheduler, whose end Beam takes for that of the work.
        """
        workers = self._client.scheduler_info(n_workers=1)["n_workers"]  # the last answer, if there is none now
        if self._client.status != "running":
            raise self._lost()
        if workers:
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if now - self._alone_since > NO_WORKERS_SECONDS:
            raise UserError(
                f"Dask scheduler {self.address} has had no workers for {NO_WORKERS_SECONDS} seconds; start some and "
                "run the same command again: finished units are kept"
            )

    def explained(self, error: Exception) -> Exception:
        """An error of Dask's own in words; any other as it is."""
        if isinstance(error, distributed.KilledWorker):
            return UserError(
                f"Dask workers died {error.allowed_failures + 1} times while they ran one unit (out of memory, or "
                "killed?); use fewer workers a machine or smaller --unit-bytes, and run the same command again: "
                "finished units are kept"
            )
        if isinstance(error, distributed.client.FuturesCancelledError | CommClosedError):
            return self._lost()
        return error

    def logs(self) -> str:
        """The last lines that the workers logged, oldest first."""
        found: dict[str, Any] = {}
        with suppress(Exception):  # a cluster that failed may not answer; the error itself is known
            found = self._client.get_worker_logs(n=_LOG_LINES)
        return "".join(f"{worker}: {line}\n" for worker, lines in found.items() for _, line in reversed(lines))

    def close(self) -> None:
        """End the connections and, if they are ours, the processes."""
        with suppress(ValueError):  # Beam's client, which Beam does not close
            distributed.default_client().close(_CLOSE_SECONDS)  # type: ignore[no-untyped-call]
        for opened in (self._client, self._cluster):
            if opened is not None:
                with suppress(
                    Exception
                ):  # of a cluster that is already broken; ours ends with this process at the latest
                    opened.close(_CLOSE_SECONDS)

    def kill(self) -> None:
        """The same: no unit is waited for."""
        self.close()

    def _lost(self) -> UserError:
        return UserError(
            f"Dask scheduler {self.address}: the connection is lost; see that it runs, and run the same command again: "
            "finished units are kept"
        )

    def _check_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=NO_WORKERS_SECONDS)
        except TimeoutError:
            raise UserError(f"Dask scheduler {self.address} has no workers; start some (dask worker ...)") from None
        # A worker without this package, or with another Beam, fails to read the question.
        answers = self._client.run(difference, environment(), on_error="return")
        for worker, answer in sorted(answers.items()):
            if answer:
                raise UserError(
                    f"Dask worker {worker}: "
                    + (f"cannot run this program ({answer})" if isinstance(answer, Exception) else f"has {answer}")
                    + "; give all workers the same environment (docs/runners.md)"
                )


class _AtTheTerminal(distributed.WorkerPlugin):
    """Our own workers share the driver's terminal: they are quiet there, and the driver decides what Ctrl-C means."""

    def setup(self, worker: Any) -> None:
        """Called when a worker starts, or starts again."""
        logging.getLogger().setLevel(logging.ERROR)  # Beam's; what Dask logs is kept in memory all the same
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _local_cluster(workers: int) -> Any:
    use_one_thread()
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
            # Dask has workers give freed memory back at once, and samples their stacks 100 times a second: a third
            # more time for a unit, whose memory is bounded and whose stages are timed.
            "distributed.nanny.pre-spawn-environ": {},
            "distributed.worker.profile.enabled": False,
        }
    )
    # No limit of memory: Dask would pause its workers near one, and a job that waits says nothing.
    return distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )


def _connect(address: str) -> Any:
    try:
        return distributed.Client(  # type: ignore[no-untyped-call]
            address, timeout=CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError) as error:
        reason = "nothing answers there" if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        raise UserError(
            f"--scheduler {address}: {reason}; give a running Dask scheduler's address, tcp://host:8786, say"
        ) from None


def _silence() -> None:
    """Keep what this process's Dask says off the terminal: a failure is told in one line, workers' logs in a file."""
    warnings.filterwarnings("ignore", "Sending large graph")  # of ten thousands of tasks, some 5 kB each
    # some below have levels of their own
    below = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    for name in ("distributed", "asyncio", "tornado", *below):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        logging.getLogger(name).propagate = False
