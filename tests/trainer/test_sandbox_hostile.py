"""Programs that mean harm or do some: each is ended, and leaves no process and no file."""

import itertools
import os
import shutil
import socket
import textwrap
from pathlib import Path

import pytest

from trainer.evaluate.sandbox.run import EXCERPT, Limits, Status, refusal, run_program

MARKS = itertools.count(os.getpid() % 1000)


@pytest.fixture(autouse=True)
def _needs_namespaces() -> None:
    if (reason := refusal()) is not None:
        pytest.skip(f"no namespaces here: {reason}")


def processes_with(file_limit: int) -> list[str]:
    """Processes of the machine with this limit on files: those of one sandbox, if the limit is odd enough."""
    found = []
    for path in Path("/proc").glob("[0-9]*/limits"):
        try:
            if f" {file_limit} " in path.read_text():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


HOSTILE = {
    "fork bomb": ("import os\nwhile True: os.fork()", Status.FAILED, "Resource temporarily unavailable"),
    "fork bomb that goes on": (
        """
        import os
        while True:
            try: os.fork()
            except OSError: pass
        """,
        Status.TIMEOUT, "2 s of time",
    ),
    "threads": (
        "import threading, time\nfor n in range(500): threading.Thread(target=time.sleep, args=(1000,)).start()",
        Status.FAILED, "can't start new thread",
    ),
    "100 GB": ("x = bytearray(100 << 30)", Status.FAILED, "MemoryError"),
    "memory of many processes": (
        """
        import os, time
        os.fork(), os.fork()
        x = bytearray(b"x" * (100 << 20))
        time.sleep(1000)
        """,
        Status.KILLED, "bytes of memory",
    ),
    "memory of no process": ("import os\nos.memfd_create('x')", Status.FAILED, "PermissionError"),
    "memory in no process's tables": (
        "import mmap\nx = mmap.mmap(-1, 64 << 20)\nx.madvise(mmap.MADV_DONTNEED)", Status.FAILED, "PermissionError",
    ),
    "memory of a device": ("open('/dev/zero', 'r+b')", Status.FAILED, "FileNotFoundError"),
    "endless output": ("while True: print('x' * 10000)", Status.KILLED, "16,777,216 bytes of output"),
    "10 GB of a file": ("f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))", Status.FAILED, "File too large"),
    "10 GB of files": (
        "for n in range(10000): open(str(n), 'wb').write(bytes(1 << 20))", Status.FAILED, "No space left on device",
    ),
    "files without content": (
        "import os\nfor n in range(10**6): os.mkdir(str(n))", Status.FAILED, "No space left on device",
    ),
    "killing all": ("import os\nos.kill(-1, 9)", Status.FAILED, "ProcessLookupError"),
    "killing the keeper": ("import os\nos.kill(1, 9)\nassert os.getppid() == 1", Status.PASSED, ""),
    "stopping the keeper": (
        "import os, time\nfor n in (15, 2, 17, 19, 40): os.kill(1, n)\ntime.sleep(0.3)", Status.PASSED, "",
    ),
    "a keeper without files": (
        "import resource, time\nresource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))\ntime.sleep(60)",
        Status.CRASHED, "its keeper failed: ",
    ),
    "a signal without a name": ("import os\nos.kill(os.getpid(), 40)", Status.CRASHED, "ended by signal 40"),
    "killing its group": ("import os\nos.killpg(0, 9)", Status.CRASHED, "ended by SIGKILL"),
    "no way to stop it": (
        """
        import signal
        for number in set(range(1, 65)) - {9, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True:
            try: raise SystemExit
            except BaseException: pass
        """,
        Status.TIMEOUT, " s of ",
    ),
    "asleep for ever": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nsignal.sigwait([10])",
        Status.TIMEOUT, "2 s of time",
    ),
    "a daemon": (
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 100)
                time.sleep(1000)
            os._exit(0)
        os.wait()
        """,
        Status.PASSED, "",
    ),
    "closed output": ("import os\nos.closerange(0, 3)", Status.PASSED, ""),
    "closed report": ("import os\nos.closerange(3, 100)", Status.CRASHED, "before its tests were through"),
    "a full report": ("import os\nwhile True: os.write(4, b'x' * 65536)", Status.TIMEOUT, "2 s of time"),
    "a made-up report": (
        """
        import os
        os.write(4, b'0' * 32 + b'{"status": "passed", "detail": ""}\\n')
        os._exit(0)
        """,
        Status.CRASHED, "exit status 0",
    ),
    "nonsense with the right nonce": (
        """
        import os, sys
        frame = sys._getframe()
        while "nonce" not in frame.f_locals:
            frame = frame.f_back
        os.write(4, frame.f_locals["nonce"] + b'[1, {"status": 3}]\\n')
        os._exit(0)
        """,
        Status.CRASHED, "exit status 0",
    ),
    "a fork that speaks for it": (
        "import os\nif os.fork():\n    os.wait()\n    assert False", Status.FAILED, "AssertionError",
    ),
    "no network": ("import socket\nsocket.create_connection(('1.1.1.1', 80), 1)", Status.FAILED, "unreachable"),
    "no sockets to the host": ("import socket\nsocket.socket(40)", Status.FAILED, "PermissionError"),
    "root again": ("import os\nos.setuid(0)", Status.FAILED, "PermissionError"),
    "a namespace of its own": (
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        # CLONE_NEWUSER by clone, which no filter of calls forbids
        assert libc.syscall(56 if os.uname().machine == "x86_64" else 220, 0x10000011, 0, 0, 0, 0) >= 0
        """,
        Status.FAILED, "AssertionError",
    ),
    "another root": (
        "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, b'') == 0",
        Status.FAILED, "AssertionError",
    ),
    "a crash of the interpreter": ("import ctypes\nctypes.string_at(0)", Status.CRASHED, "SIGSEGV"),
    "an overflow of the stack": (
        "x = ()\nfor n in range(10**6): x = (x,)\nhash(x)",
        Status.CRASHED, "SIGSEGV",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_contained(name: str) -> None:
    text, status, detail = HOSTILE[name]
    # what is to come before the time is up must come on a busy machine, too
    seconds = 2 if status is Status.TIMEOUT else 60
    limits = Limits(seconds=seconds, cpu_seconds=3, memory=256 << 20, files=(16 << 20) + 1 + next(MARKS))
    outcome = run_program(textwrap.dedent(text), limits)
    assert outcome.status is status, outcome
    assert detail in outcome.detail
    assert len(outcome.output.encode()) <= EXCERPT
    assert processes_with(limits.files) == []


def test_deleting_everything_deletes_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    before = shutil.disk_usage(tmp_path).total
    text = f"""
        import os, shutil
        for path in ("/tmp", {str(tmp_path)!r}, "/etc", "/dev", os.path.dirname(os.__file__)):
            shutil.rmtree(path, ignore_errors=True)
        assert os.path.exists(os.__file__) and os.path.exists("/usr")
    """
    assert run_program(textwrap.dedent(text), Limits()).detail == ""
    assert (tmp_path / "kept").read_text() == "x"
    assert shutil.disk_usage(tmp_path).total == before
    assert run_program("import json, shutil, os\nassert os.path.exists('/dev/null')", Limits()).passed


def test_a_listener_of_this_machine_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0sandbox-test-{os.getpid()}")
        local.listen()
        text = f"""
            import socket
            for address in ({server.getsockname()!r}, {local.getsockname()!r}):
                try:
                    socket.socket(socket.AF_INET if type(address) is tuple else socket.AF_UNIX).connect(address)
                except OSError:
                    continue
                assert False, address
        """
        assert run_program(textwrap.dedent(text), Limits()).detail == ""
