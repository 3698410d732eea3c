"""Runs a command to its end, or to a kill -9 in its middle, and watches time and memory of all its processes.

The command gets a session of its own, so every process it starts is found, whoever adopts it later. Linux only: all
figures are the kernel's, from /proc. Costs: about a millisecond a process and look.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipelines.runners.local_pool import ONE_THREAD

LOOK_SECONDS = 0.1
"""Between looks at peaks, which only ever grow: what is missed is what a process took in its last tenth of a second."""

SUM_LOOKS = 5
"""Looks per look at the sum, which takes the kernel a walk over every page table."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a command did.

    Attributes:
        seconds: wall time.
        status: exit status, negative for a signal.
        output: what it wrote to stdout.
        errors: what it wrote to stderr.
        first_bytes: peak resident memory (VmHWM) of the process that was started.
        other_bytes: the largest peak of one of the processes it started; 0 without any.
        sum_bytes: the largest sum over all at one moment, shared pages divided among those that share them (PSS).
    """

    seconds: float
    status: int
    output: str
    errors: str
    first_bytes: int
    other_bytes: int
    sum_bytes: int


def watch(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    kill_when: Callable[[float], bool] | None = None,
) -> Watched:
    """Run a command, every library in it held to one thread a process.

    Args:
        command: program and arguments.
        environment: beside that of this process.
        kill_when: asked with the seconds so far at each look; once true, all processes are killed by SIGKILL.
    """
    variables = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), **(environment or {})}
    peaks: dict[int, int] = {}
    sum_bytes = 0
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=errors, env=variables, start_new_session=True
        )
        looks = 0
        while True:
            try:
                process.wait(LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                pass
            members = _members(process.pid)
            for member in members:
                peaks[member] = max(peaks.get(member, 0), _kib(f"/proc/{member}/status", "VmHWM:"))
            if looks % SUM_LOOKS == 0:
                sum_bytes = max(sum_bytes, sum(_kib(f"/proc/{member}/smaps_rollup", "Pss:") for member in members))
            looks += 1
            if kill_when is not None and kill_when(time.perf_counter() - start):
                _kill(process.pid)
        seconds = time.perf_counter() - start
        _kill(process.pid)  # what a command leaves running would slow the next
        return Watched(
            seconds=seconds,
            status=process.returncode,
            output=_text(output),
            errors=_text(errors),
            first_bytes=peaks.pop(process.pid, 0),
            other_bytes=max(peaks.values(), default=0),
            sum_bytes=sum_bytes,
        )


def last_line(text: str) -> str:
    """The last line that says something: of a trace the error."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _members(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # has ended meanwhile
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def _kill(session: int) -> None:
    """Until none is left: one may start another while it is looked for."""
    while members := _members(session):
        for member in members:
            try:
                os.kill(member, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def _kib(path: str, name: str) -> int:
    """A figure of /proc in bytes; 0 if its process has ended."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
