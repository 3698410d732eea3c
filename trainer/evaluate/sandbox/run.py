"""Runs programs that nobody has read: each alone, with limits, no network, and nothing of this machine to harm.

A program is confined by Linux namespaces (user, process, mount, network, IPC, host name) without privileges, in a file
system that holds an interpreter and one small tmpfs, under limits of time, memory, processes, files and output
(`supervisor.py`). When it ends, or is ended, everything it started or wrote is gone. What that protects from
and what not is in docs/evaluating-programs.md. About 0.1 s of a core a program.

"Passed" means that the last line of the text was reached, which the program that executes it says with a nonce: not
that the process ended with status 0.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from schemas.errors import UserError

EXCERPT = 4096
"""Bytes of a program's output that are kept."""

LATER = 4
"""Times the limits of time for the later programs of a series: EvalPlus' further tests are many, and compute what is
expected beside what was written, while a program that never ends does not get to them."""

_GRACE_SECONDS = 30.0
"""After its time limit, until a supervisor that does not answer is killed."""

_RUNNER = Path(__file__).with_name("inside.py")
_START = "import sys; sys.path.insert(0, sys.argv[1]); from trainer.evaluate.sandbox.supervisor import main; main()"


class Status(StrEnum):
    """How a program ended."""

    PASSED = "passed"
    """Its last line was reached."""
    FAILED = "failed"
    """It raised an exception, or is no Python."""
    TIMEOUT = "timeout"
    """Its time or its processor time was used up."""
    CRASHED = "crashed"
    """It left or was ended by a signal before its last line."""
    KILLED = "killed"
    """It held too much memory, had too many processes or wrote too much."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: from its start.
        cpu_seconds: of processor time, each of its processes; decides before `seconds` does on a busy machine.
        memory: bytes of address space of each process, and of memory of all of them together.
        files: bytes that all its files together may hold, in memory.
        processes: and threads at once, its first one included.
        output: bytes on standard output and error together.
    """

    seconds: float = 40.0
    cpu_seconds: int = 10
    memory: int = 1 << 30
    files: int = 16 << 20
    processes: int = 16
    output: int = 16 << 20

    def __post_init__(self) -> None:
        if not 0 < self.seconds < 1e6 or not 1 <= self.cpu_seconds < 1e6:
            raise UserError("--seconds must be more than 0, --cpu-seconds 1 or more")
        if self.memory < 64 << 20:
            raise UserError(f"--memory is {self.memory}; an interpreter alone needs {64 << 20} bytes")
        if self.files < 1 << 16 or self.processes < 1 or self.output < 1:
            raise UserError("--files must be 65536 or more, --processes and --output 1 or more")


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: see `Status`.
        detail: one line: the exception and its line, the limit, the signal; empty if it passed.
        output: the first 4 KiB of what it wrote to standard output and error, what is no UTF-8 replaced.
    """

    status: Status
    detail: str = ""
    output: str = ""

    @property
    def passed(self) -> bool:
        """Whether its last line was reached."""
        return self.status is Status.PASSED


@functools.cache
def refusal() -> str | None:
    """Why programs cannot be confined on this machine; None: they can. Tried once a process, with an empty program."""
    if sys.platform != "linux":
        return f"namespaces are of Linux, this is {sys.platform}"
    answer = _ask(b"", Limits(), namespaces=True, running=_Running())
    if "refused" in answer:
        return str(answer["refused"])
    if answer["status"] != Status.PASSED:
        return f"an empty program does not run: {answer['detail']} {answer['output'][:200]}".strip()
    return None


def require_confinement(unsafe: bool) -> None:
    """Go on only where programs can be confined, or the user wants to run them anyway.

    Raises:
        UserError: they cannot, with the reason.
    """
    if not unsafe and (reason := refusal()) is not None:
        raise UserError(
            f"programs cannot be confined here ({' '.join(reason.split())}); --unsafe runs them with limits of memory "
            "and time alone, so only do that on a machine that may be lost (docs/evaluating-programs.md)"
        )


def run_program(text: str, limits: Limits, *, unsafe: bool = False) -> Outcome:
    """Run one program.

    Args:
        text: Python; half surrogate pairs, which no file can hold, fail as any other error of syntax.
        limits: of it.
        unsafe: no namespaces: limits on each process alone, and its group is killed at the end.

    Returns:
        How it ended. The same each time, but for programs whose own doing differs or that come close to a limit.

    Raises:
        UserError: it cannot be confined here.
    """
    require_confinement(unsafe)
    return _outcome(text, limits, unsafe, _Running())


def run_programs(
    texts: Iterable[str], limits: Limits, workers: int, *, unsafe: bool = False
) -> Generator[Outcome, None, None]:
    """Run programs, several at once.

    Args:
        texts: taken as they are needed, at most `2 * workers` ahead.
        limits: of each.
        workers: programs at once, 1 or more.
        unsafe: see `run_program`.

    Yields:
        Their outcomes, in order. If the iterator is closed, programs that still run are killed.

    Raises:
        UserError: they cannot be confined here, or no worker.
    """
    for outcomes in run_in_turn(([text] for text in texts), limits, workers, unsafe=unsafe):
        yield outcomes[0]


def run_in_turn(
    series: Iterable[Sequence[str]], limits: Limits, workers: int, *, unsafe: bool = False
) -> Generator[list[Outcome], None, None]:
    """As `run_programs`, but for series of programs: each runs only if the one before it passed.

    Args:
        series: one program or more in each.
        limits: of the first program of each; later ones, which few get to, have LATER times its times.
        workers: programs at once, 1 or more.
        unsafe: see `run_program`.

    Yields:
        The outcomes of each series, in order: of its programs up to the first that did not pass.

    Raises:
        UserError: they cannot be confined here, or no worker.
    """
    if workers < 1:
        raise UserError(f"--workers is {workers}; expected 1 or more")
    require_confinement(unsafe)
    running = _Running()
    later = replace(limits, seconds=LATER * limits.seconds, cpu_seconds=LATER * limits.cpu_seconds)

    def work(texts: Sequence[str]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for text in texts:
            outcomes.append(_outcome(text, later if outcomes else limits, unsafe, running))
            if not outcomes[-1].passed:
                break
        return outcomes

    waiting: deque[Future[list[Outcome]]] = deque()
    with ThreadPoolExecutor(workers, "program") as pool:
        try:
            for texts in series:
                waiting.append(pool.submit(work, texts))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()


class _Running:
    """Supervisors at work, so that they can be ended together; their programs end with them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.add(process)
            if self._ended:
                process.kill()

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.discard(process)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._processes:
                process.kill()


def _outcome(text: str, limits: Limits, unsafe: bool, running: _Running) -> Outcome:
    answer = _ask(text.encode("utf-8", "surrogatepass"), limits, namespaces=not unsafe, running=running)
    if "refused" in answer:
        raise UserError(f"a program could not be confined: {answer['refused']}")
    return Outcome(Status(answer["status"]), answer["detail"], answer["output"])


def _ask(program: bytes, limits: Limits, *, namespaces: bool, running: _Running) -> dict[str, Any]:
    """Start a supervisor, give it a job and wait for its answer."""
    job = {
        **vars(limits), "program_bytes": len(program), "namespaces": namespaces, "excerpt": EXCERPT,
        "interpreter": sys.executable, "readable": _readable(), "runner": _RUNNER.read_text(),
        "environment": _environment(),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _START, str(Path(__file__).resolve().parents[3])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd="/", env=_library_path(), start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    alarm = threading.Timer(limits.seconds + _GRACE_SECONDS, process.kill)
    alarm.daemon = True
    alarm.start()
    running.add(process)
    try:
        with contextlib.suppress(BrokenPipeError):  # it ended at once, and says why below
            process.stdin.write(json.dumps(job).encode() + b"\n" + program)
            process.stdin.flush()
        # its input stays open: that it closes means that we have gone
        answer, errors = process.stdout.read(), process.stderr.read()
        process.wait()
    finally:
        alarm.cancel()
        running.remove(process)
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        found = {"refused": lines[-1] if lines else f"its supervisor ended with status {process.returncode}"}
    return found


def _environment() -> dict[str, str]:
    """Of the program: nothing of ours, and what makes two runs the same."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        **_library_path(),
    }  # fmt: skip


def _library_path() -> dict[str, str]:
    found = os.environ.get("LD_LIBRARY_PATH")
    return {} if not found else {"LD_LIBRARY_PATH": found}


def _readable() -> list[str]:
    """Absolute directories that the interpreter needs: its own, its environment's, its libraries'."""
    libraries = _library_path().get("LD_LIBRARY_PATH", "").split(":")
    found = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *libraries}
    real = {os.path.realpath(path) for path in found if path}
    return sorted({path for path in found | real if path.startswith("/") and path != "/" and Path(path).is_dir()})
