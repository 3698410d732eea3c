"""Every runner that can be had on one machine, for tests: what to give to preprocess, and the servers it needs.

Workers that no driver starts find the repository, this folder and what a test installs through PYTHONPATH.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.reading.plan import TextBlock, Unit
from pipelines.runners.running import RunnerOptions
from pipelines.shard import Outcome
from pipelines.storage import Folder
from schemas.errors import UserError

ROOT = Path(__file__).parents[2]
_POOL_PORT = 20_000 + os.getpid() % 12_000
"""Below the ports that Linux gives to whoever asks for any."""

RUNNERS = ["direct-1", "direct-2", "dask", "dask-scheduler", "portable"]


@contextmanager
def runner(name: str, folder: Path, *packages: Path) -> Iterator[RunnerOptions]:
    """The options for a runner whose servers run meanwhile.

    Args:
        name: of `RUNNERS`.
        folder: for the servers' files and logs.
        packages: folders on the workers' path.
    """
    with ExitStack() as servers:
        if name == "dask-scheduler":
            address, _ = servers.enter_context(scheduler(folder, *packages))
            for _ in range(2):
                servers.enter_context(worker(address, folder, *packages))
            yield RunnerOptions(runner="dask", scheduler=address)
        elif name == "portable":
            yield RunnerOptions(runner="portable", beam_options=servers.enter_context(job_service(folder, *packages)))
        elif name == "dask":
            yield RunnerOptions(runner="dask", workers=2)
        else:
            yield RunnerOptions(runner="direct", workers=int(name[-1]))


@contextmanager
def server(folder: Path, *arguments: str, packages: tuple[Path, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module that runs until the block ends; all its processes end then."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(map(str, [*packages, ROOT, Path(__file__).parent]))
    # Beam's worker pool starts its workers as `python`.
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": path, "PATH": programs, "OMP_NUM_THREADS": "1"}
    with (folder / "servers.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def scheduler(folder: Path, *packages: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Dask scheduler's address and process."""
    file = folder / "scheduler.json"
    command = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with server(folder, *command, "--scheduler-file", str(file), packages=packages) as process:
        wait_for(lambda: file.exists() and '"address"' in file.read_text())
        yield file.read_text().split('"address": "')[1].split('"')[0], process


@contextmanager
def worker(address: str, folder: Path, *packages: Path, nanny: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A Dask worker of one thread, as its own command line starts it."""
    command = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    options = [] if nanny else ["--no-nanny"]
    with server(folder, *command, *options, "--local-directory", str(folder), packages=packages) as process:
        yield process


@contextmanager
def job_service(folder: Path, *packages: Path) -> Iterator[str]:
    """Beam's options for its own portable job server, with workers in processes of their own."""
    port_file = folder / "port"
    service = "apache_beam.runners.portability.local_job_service_main"
    pool = "apache_beam.runners.worker.worker_pool_main"
    with (
        server(folder, service, "--port_file", str(port_file), "--staging_dir", str(folder / "staging")),
        # Any free port would do, but the pool does not say which one it took.
        server(folder, pool, "--service_port", str(_POOL_PORT), packages=packages),
    ):
        wait_for(port_file.exists)
        wait_for(lambda: f"port: localhost:{_POOL_PORT}" in (folder / "servers.log").read_text())
        yield (
            f"--job_endpoint=localhost:{port_file.read_text()} --environment_type=EXTERNAL "
            f"--environment_config=localhost:{_POOL_PORT}"
        )


def wait_for(seen: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a call returns something true."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "what was waited for has not come"
        time.sleep(0.05)


def units(count: int) -> list[Unit]:
    """Units of nothing, for work that does not look at them."""
    return [Unit(index=index, count=count, blocks=(TextBlock(files=()),), input_bytes=0) for index in range(count)]


class Files:
    """Progress by the files that units leave: what `run_units` needs of a report."""

    interval = 0.05

    def __init__(self, out: Folder, count: int) -> None:
        self.out = out
        self.names = [f"done/{index}" for index in range(count)]
        self.before: frozenset[str] = frozenset()

    @property
    def done(self) -> int:
        return len(self.out.sizes("done"))

    def update(self) -> None:
        pass

    def close(self) -> None:
        pass


def leave(out: str, unit: Unit) -> Outcome:
    """Leave a file, and a line in it for each time that the unit runs."""
    path = Path(out) / "done" / str(unit.index)
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("ran\n")
    return Outcome(path.name, False, documents=2, raw_bytes=10, rejects=1, seconds=0.5)


def refuse(out: str, unit: Unit) -> Outcome:
    if unit.index == 3:
        raise UserError("unit 3: the disk is full; free some space")
    return leave(out, unit)


def crash(out: str, unit: Unit) -> Outcome:
    if unit.index == 3:
        raise RuntimeError("unit 3 came\nacross something new")
    return leave(out, unit)


def forget(out: str, unit: Unit) -> Outcome:
    return Outcome("3", False) if unit.index == 3 else leave(out, unit)


def die_once(out: str, unit: Unit) -> Outcome:
    mark = Path(out) / "died"
    if unit.index == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return leave(out, unit)


def die(out: str, unit: Unit) -> Outcome:
    if unit.index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return leave(out, unit)


def linger(out: str, unit: Unit) -> Outcome:
    """A unit that outlasts the test."""
    (Path(out) / f"began-{unit.index}").touch()
    time.sleep(120)
    return leave(out, unit)
