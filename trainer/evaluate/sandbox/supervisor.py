"""The process beside a confined program: it sets limits, watches, kills, and says how the program ended.

    trainer --stdin, stdout--> supervisor --fork--> keeper --fork, exec--> program
                               outside              process 1 of the new namespaces

The supervisor reads a job, makes namespaces, keeps the time and takes in what the program writes. The keeper makes the
new root, gives up its privileges, starts the program and counts processes and memory of the whole namespace every 20
ms; when it ends, for whatever reason, the kernel kills all that is left in it. If the trainer ends, the supervisor's
input does, and it kills the keeper; if the supervisor is killed, the keeper is with it. Without namespaces the keeper
is told to end instead, and kills and deletes what it can find.

Started for each program by `run.py`, as `python -I -S`: only the standard library's few modules are loaded.
"""

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any, NoReturn

from trainer.evaluate.sandbox import kernel, root

NOBODY = 65534
_WATCH_SECONDS = 0.02
_ENDING_SECONDS = 2.0
"""Until a keeper that was told to end, and whom a program without namespaces may have stopped, is killed."""
_OUTPUT, _REPORT, _NOTE, _TRAINER = "output", "report", "note", "trainer"
_REPORT_BYTES = 1 << 16
_DETAIL = 400
"""Characters."""
_NAMESPACES = kernel.NEW_USER | kernel.NEW_MOUNT | kernel.NEW_PID | kernel.NEW_NET | kernel.NEW_IPC | kernel.NEW_UTS


def main() -> None:
    """Read a job from standard input, do it, write the outcome to standard output."""
    data = sys.stdin.buffer
    job = json.loads(data.readline())
    program = data.read(job["program_bytes"])
    if len(program) < job["program_bytes"]:  # the trainer has gone
        return
    try:
        job["root"] = os.geteuid() == 0
        if job["namespaces"]:
            _separate(job["root"])
        answer = _supervise(job, program)
    except OSError as error:
        answer = {"refused": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


def _separate(as_root: bool) -> None:
    """Into new namespaces, where user 65534 is nobody outside, or the caller if the caller may not be others.

    Root outside is root there, too, until the keeper has built the new root: it alone may look below its own folders.
    """
    user, group = os.geteuid(), os.getegid()
    done_read, done_write = os.pipe()
    failed_read, failed_write = os.pipe()
    this = os.getpid()
    mapper = os.fork() if as_root else None
    if mapper == 0:
        # only who stayed outside may map to another user
        os.close(done_write)
        os.close(failed_read)
        try:
            if os.read(done_read, 1):
                for name in ("uid_map", "gid_map"):
                    _write(f"/proc/{this}/{name}", f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        except OSError as error:
            os.write(failed_write, str(error).encode())
        os._exit(0)
    try:
        kernel.unshare(_NAMESPACES)
        if mapper is None:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{NOBODY} {user} 1\n")
            _write("/proc/self/gid_map", f"{NOBODY} {group} 1\n")
        else:
            os.write(done_write, b"x")
    finally:
        os.close(done_write)
        os.close(failed_write)
        if mapper is not None:
            os.waitpid(mapper, 0)
    if failure := os.read(failed_read, 1000):
        raise OSError(failure.decode())
    os.close(done_read)
    os.close(failed_read)


def _supervise(job: dict[str, Any], program: bytes) -> dict[str, Any]:
    nonce = os.urandom(16).hex().encode()
    pipes = {name: os.pipe() for name in (_OUTPUT, _REPORT, _NOTE)}
    with contextlib.ExitStack() as stack:
        folder = None
        if not job["namespaces"]:
            import tempfile  # 5 ms that confined programs do without

            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True))
        keeper = os.fork()
        if keeper == 0:
            _keep(
                job, nonce + b"\n" + program, {name: end for name, (_, end) in pipes.items()}, pipes[_NOTE][0], folder
            )
        for _, end in pipes.values():
            os.close(end)
        taken, stopped = _take(job, keeper, {pipe: name for name, (pipe, _) in pipes.items()})
    return _answer(taken, stopped, nonce)


class _Taken:
    """What came through a pipe: its first bytes, and how many."""

    def __init__(self, keep: int) -> None:
        self.data, self.size, self._keep = bytearray(), 0, keep

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.data += data[: max(0, self._keep - len(self.data))]


def _take(job: dict[str, Any], keeper: int, names: dict[int, str]) -> tuple[dict[str, _Taken], dict[str, str] | None]:
    """Read until the keeper and all it kept are gone; kill them when time or output is used up.

    Returns:
        What came, by pipe; and why it was stopped, if it was.
    """
    taken = {_OUTPUT: _Taken(job["excerpt"]), _REPORT: _Taken(_REPORT_BYTES), _NOTE: _Taken(_REPORT_BYTES)}
    end = time.monotonic() + job["seconds"]
    stopped: dict[str, str] | None = None
    poll = select.poll()
    for pipe in names:
        poll.register(pipe, select.POLLIN)
    trainer = sys.stdin.fileno()
    poll.register(trainer, select.POLLIN)
    done = False
    while not done:
        found = poll.poll(max(0.0, end - time.monotonic()) * 1000 if stopped is None else 1000)
        reason = None
        for pipe, _ in found:
            if pipe == trainer:  # nothing more is ever sent: it has gone
                _end(keeper, job)
                os._exit(0)
            data = os.read(pipe, 1 << 16)
            taken[names[pipe]].add(data)
            if not data:
                poll.unregister(pipe)
                os.close(pipe)
                if names.pop(pipe) == _NOTE:  # only the keeper holds it: it has ended
                    done = True
        if taken[_OUTPUT].size > job["output"]:
            reason = {"status": "killed", "detail": f"more than {job['output']:,} bytes of output"}
        elif time.monotonic() > end:
            reason = {"status": "timeout", "detail": f"{job['seconds']:g} s of time"}
        if reason is not None and stopped is None:
            stopped, end = reason, time.monotonic() + _ENDING_SECONDS
            _end(keeper, job)
        elif stopped is not None and not done and time.monotonic() > end:
            os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
    for pipe, name in names.items():  # what is still in them; no namespace: somebody may hold one open for ever
        os.set_blocking(pipe, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(pipe, 1 << 16):
                taken[name].add(data)
    return taken, stopped


def _end(keeper: int, job: dict[str, Any]) -> None:
    # without namespaces the keeper has to kill the others itself, and its program may have stopped it
    with contextlib.suppress(ProcessLookupError):
        for number in (signal.SIGKILL,) if job["namespaces"] else (signal.SIGTERM, signal.SIGCONT):
            os.kill(keeper, number)


def _answer(taken: dict[str, _Taken], stopped: dict[str, str] | None, nonce: bytes) -> dict[str, Any]:
    output = bytes(taken[_OUTPUT].data).decode("utf-8", "replace")
    note = json.loads(taken[_NOTE].data or b"{}")
    if "refused" in note:
        return note
    _, found, report = bytes(taken[_REPORT].data).partition(nonce)
    if note.get("status") == "killed":
        verdict = note
    elif stopped is not None:
        verdict = stopped
    else:
        verdict = _reported(report) if found else None
        verdict = verdict or note or {"status": "crashed", "detail": "the keeper was killed"}
    return {"status": verdict["status"], "detail": verdict["detail"][:_DETAIL], "output": output}


def _reported(report: bytes) -> dict[str, str] | None:
    """What stands behind the nonce, if it is a report: a program that found the nonce may have written anything."""
    try:
        found = json.loads(report.partition(b"\n")[0])
        if found["status"] in ("passed", "failed", "crashed"):
            return {"status": found["status"], "detail": " ".join(str(found["detail"]).split())}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


def _keep(job: dict[str, Any], text: bytes, pipes: dict[str, int], supervisor: int, folder: str | None) -> NoReturn:
    """The keeper: never returns, and lets no exception out."""
    started = False
    note: dict[str, str] = {"status": "crashed", "detail": "the keeper failed"}
    try:
        # the first process of a namespace gets no signal from within that it neither handles nor waits for
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        waited = {signal.SIGCHLD} if folder is None else {signal.SIGCHLD, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, waited)
        os.close(supervisor)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):  # the trainer waits until nobody holds the supervisor's
            os.dup2(nothing, number)
        os.close(nothing)
        processes = _confine(job) if folder is None else None
        kernel.die_with_parent(signal.SIGKILL if folder is None else signal.SIGTERM)
        watch = select.poll()
        watch.register(pipes[_NOTE], select.POLLERR)
        if watch.poll(0):  # the supervisor went before that could be known
            os._exit(1)
        if folder is not None:
            kernel.adopt_orphans()
        source = os.memfd_create("program")
        with open(source, "r+b", closefd=False) as file:
            file.write(text)
        os.lseek(source, 0, os.SEEK_SET)
        if folder is None:
            kernel.restrict_calls()
        program = _start(job, source, pipes, folder)
        started = True
        note = _watch(job, program, processes, waited)
    except Exception as error:  # noqa: BLE001 - there is nobody above to raise to
        reason = " ".join(str(error).split())
        # what comes after the start may be the program's doing, and is no reason to run no other
        note = {"status": "crashed", "detail": f"its keeper failed: {reason}"} if started else {"refused": reason}
    finally:
        if folder is not None:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)  # the supervisor may be gone
        with contextlib.suppress(OSError):
            os.write(pipes[_NOTE], json.dumps(note).encode())
        os._exit(0)


def _confine(job: dict[str, Any]) -> int:
    """Everything a program must not have goes away; a descriptor of /proc for the watch."""
    _write("/proc/self/oom_score_adj", "1000")  # a machine short of memory kills here first
    processes = root.enter(job["readable"], job["files"])
    _write_in(processes, "sys/user/max_user_namespaces", "0")  # no privileges of a further namespace
    kernel.drop_privileges(NOBODY if job["root"] else None)
    kernel.hide_memory()
    return processes


def _start(job: dict[str, Any], source: int, pipes: dict[str, int], folder: str | None) -> int:
    """Fork and become the program's interpreter: its process."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        kernel.die_with_parent(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        kernel.fix_addresses()
        for signal_ in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signal_, signal.SIG_DFL)
        nothing = os.open("/dev/null", os.O_RDONLY)
        wanted = (nothing, pipes[_OUTPUT], pipes[_OUTPUT], source, pipes[_REPORT])
        # first above what is overwritten, then each to its place
        for number, end in enumerate([fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, len(wanted)) for end in wanted]):
            os.dup2(end, number, inheritable=True)
        os.closerange(len(wanted), 1 << 16)
        place = root.WORK if folder is None else folder
        os.chdir(place)
        os.umask(0o022)
        for name, value in _limits(job).items():
            most = resource.getrlimit(name)[1]
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            # a program that ignores the signal has a second more of the processor
            more = 1 if name == resource.RLIMIT_CPU and most == resource.RLIM_INFINITY else 0
            resource.setrlimit(name, (value, value + more))
        environment = {**job["environment"], "HOME": place, "TMPDIR": place}
        os.execve(job["interpreter"], [job["interpreter"], "-s", "-P", "-B", "-c", job["runner"]], environment)
    except Exception as error:  # noqa: BLE001 - there is nobody above to raise to
        os.write(2, f"cannot start: {error}".encode())
    finally:
        os._exit(127)


def _limits(job: dict[str, Any]) -> dict[int, int]:
    found = {
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_CPU: job["cpu_seconds"],
        resource.RLIMIT_FSIZE: job["files"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if job["namespaces"]:
        # threads and processes of this user in this user namespace (Linux 5.14): the keeper is one, and the supervisor
        # if it could not become another; where this counts more widely, no further one may be had
        found[resource.RLIMIT_NPROC] = job["processes"] + (1 if job["root"] else 2)
    return found


def _watch(job: dict[str, Any], program: int, processes: int | None, waited: set[signal.Signals]) -> dict[str, str]:
    """Until the program ends or there is too much of it: how it ended, if it has not said so itself."""
    while True:
        found = signal.sigtimedwait(waited, _WATCH_SECONDS)
        if found is not None and found.si_signo == signal.SIGTERM:
            _end_all(program)
            return {"status": "timeout", "detail": "stopped"}
        while True:
            try:
                ended, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                ended = 0
            if ended == program:
                if processes is None:
                    _end_all(None)
                return _ended(job, status, used.ru_utime + used.ru_stime)
            if ended == 0:
                break
        if processes is not None and (reason := _too_much(job, processes)):
            return {"status": "killed", "detail": reason}


def _ended(job: dict[str, Any], status: int, seconds: float) -> dict[str, str]:
    code = os.waitstatus_to_exitcode(status)
    if code == 127:
        return {"status": "crashed", "detail": "its interpreter did not start"}
    # a program that ignores the signal is killed; the kernel limits what it counted by ticks, which can be off
    if -code == signal.SIGXCPU or (-code == signal.SIGKILL and seconds >= job["cpu_seconds"] / 2):
        return {"status": "timeout", "detail": f"{job['cpu_seconds']} s of processor time"}
    if code < 0:
        return {"status": "crashed", "detail": f"ended by {_signal_name(-code)}"}
    return {"status": "crashed", "detail": f"exit status {code} before its tests were through"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # of those for applications only the first and the last have a name
        return f"signal {number}"


def _too_much(job: dict[str, Any], processes: int) -> str | None:
    """Why all processes of the namespace have to go, from their number and the memory they hold together."""
    count = pages = 0
    for name in os.listdir(processes):
        if name.isdecimal() and name != "1":
            count += 1
            with contextlib.suppress(OSError):  # it has ended
                file = os.open(f"{name}/statm", os.O_RDONLY, dir_fd=processes)
                try:
                    pages += int(os.read(file, 100).split()[1])
                finally:
                    os.close(file)
    if count > job["processes"]:
        return f"more than {job['processes']} processes"
    if pages * resource.getpagesize() > job["memory"]:
        return f"more than {job['memory']:,} bytes of memory"
    return None


def _end_all(program: int | None) -> None:
    """Kill the program and what it left, as far as it can be found without a namespace: its group, adopted orphans."""
    if program is not None:
        with contextlib.suppress(OSError):
            os.killpg(program, signal.SIGKILL)
    this = os.getpid()
    for _ in range(1000):  # each round kills a generation
        try:
            with open(f"/proc/{this}/task/{this}/children") as file:  # noqa: PTH123
                children = [int(word) for word in file.read().split()]
        except OSError:
            return
        if not children:
            return
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _write(path: str, text: str) -> None:
    _write_in(None, path, text)


def _write_in(folder: int | None, path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
