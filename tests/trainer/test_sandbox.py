"""The sandbox: how programs end, what they see, what they may write, and that several run in order."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import UserError
from trainer.evaluate.sandbox import run as sandbox
from trainer.evaluate.sandbox.run import EXCERPT, Limits, Status, refusal, run_in_turn, run_program, run_programs

LIMITS = Limits(seconds=60, cpu_seconds=1)


@pytest.fixture(autouse=True)
def _needs_namespaces(request: pytest.FixtureRequest) -> None:
    if "anywhere" not in request.keywords and (reason := refusal()) is not None:
        pytest.skip(f"no namespaces here: {reason}")


def descendants(of: int) -> dict[int, str]:
    """Processes below one, each with the time at which it started."""
    parents: dict[int, tuple[int, str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = (int(words[1]), words[19])
    found = {of}
    for _ in parents:
        found |= {pid for pid, (parent, _) in parents.items() if parent in found}
    return {pid: parents[pid][1] for pid in found if pid != of and pid in parents}


def alive(pid: int, started: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return words[19] == started and words[0] != "Z"


def until(true: object, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("text", "status", "detail"),
    [
        ("", Status.PASSED, ""),
        ("print('x')\nassert 1 + 1 == 2", Status.PASSED, ""),
        ("x = 1\nassert x == 2, 'one\\ntwo'", Status.FAILED, "line 2: AssertionError: one two"),
        ("def f():\n    raise KeyError(3)\n\nf()", Status.FAILED, "line 2: KeyError: 3"),
        ("def f(:", Status.FAILED, "line 1: SyntaxError: invalid syntax (<program>, line 1)"),
        ("x = '\ud800'", Status.FAILED, "line 1: SyntaxError: "),
        ("x = '\0'", Status.FAILED, "SyntaxError: "),
        ("input()", Status.FAILED, "line 1: EOFError: "),
        ("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})", Status.FAILED, "line 1: E"),
        ("raise KeyboardInterrupt", Status.FAILED, "line 1: KeyboardInterrupt"),
        ("exit(0)", Status.CRASHED, "left by SystemExit"),
        ("import os; os._exit(0)", Status.CRASHED, "exit status 0 before"),
        ("import os; os.kill(os.getpid(), 11)", Status.CRASHED, "ended by SIGSEGV"),
        ("while True: pass", Status.TIMEOUT, "1 s of processor time"),
        ("x = bytearray(100 << 30)", Status.FAILED, "line 1: MemoryError"),
    ],
)
def test_how_it_ended(text: str, status: Status, detail: str) -> None:
    outcome = run_program(text, LIMITS)
    assert outcome.status is status
    assert outcome.detail.startswith(detail)
    assert bool(outcome.detail) == (status is not Status.PASSED)
    assert outcome.passed == (status is Status.PASSED)
    assert len(outcome.detail.splitlines()) <= 1


def test_a_program_that_waits_is_ended() -> None:
    outcome = run_program("import time\ntime.sleep(1000)", Limits(seconds=1))
    assert (outcome.status, outcome.detail) == (Status.TIMEOUT, "1 s of time")


def test_a_program_is_a_main_module_of_its_own() -> None:
    text = """
        import sys, pickle
        class Thing: pass
        assert __name__ == "__main__" and sys.modules["__main__"].Thing is Thing
        assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
        assert not any(name.startswith("trainer") for name in sys.modules)
        assert set(globals()) - {"Thing", "sys", "pickle"} <= set(vars(type(sys)("empty"))) | {"__builtins__"}
    """
    assert run_program(textwrap.dedent(text), LIMITS).detail == ""


def test_what_it_writes_is_kept_in_part() -> None:
    outcome = run_program("import sys\nprint('a\u00e9')\nsys.stdout.flush()\nsys.stderr.write('b')", LIMITS)
    assert outcome.output == "a\u00e9\nb"
    outcome = run_program("import os\nos.write(1, b'\\xff' + b'x' * 100000)\nassert 0", LIMITS)
    assert outcome.output == "\ufffd" + "x" * (EXCERPT - 1)
    assert outcome.status is Status.FAILED


def test_two_runs_are_the_same() -> None:
    text = "import random\nprint(hash('a'), random.random(), id(object()), list({'a', 'b', 'c'}), object())"
    first = run_program(text, LIMITS)
    assert first.passed
    assert first.output
    assert run_program(text, LIMITS) == first


SHOWN = {place.parts[2] for place in (Path(sys.prefix), Path(sys.base_prefix)) if place.is_relative_to("/tmp")}
"""What an interpreter that lies in /tmp leaves to see there."""


def test_it_is_nobody_and_sees_nothing_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_KEY", "hidden")
    (tmp_path / "file").write_text("hidden")
    text = f"""
        import os
        assert (os.getuid(), os.geteuid(), os.getgid()) == (65534,) * 3
        assert "SECRET_KEY" not in os.environ and os.environ["HOME"] == os.getcwd() == "/tmp"
        assert set(os.listdir("/tmp")) == {SHOWN!r}
        for path in ({str(tmp_path)!r}, {str(Path.home() / ".bashrc")!r}, {__file__!r}, "/etc/passwd", "/proc/1",
                     "/sys/kernel", "/run", "/var", "/dev/mem", "/dev/vda", "/dev/pts"):
            assert not os.path.exists(path), path
        found = []
        for number in range(1024):
            try:
                os.fstat(number)
                found.append(number)
            except OSError:
                pass
        assert found == [0, 1, 2, 4], found
        assert os.getpid() < 10 and os.uname().nodename
    """
    assert run_program(textwrap.dedent(text), LIMITS).detail == ""


@pytest.mark.parametrize("path", ["/x", "/usr/x", "/dev/x", str(Path(sys.prefix) / "x"), str(Path(os.__file__))])
def test_only_its_own_folder_can_be_written(path: str) -> None:
    before = Path(path).read_bytes() if Path(path).is_file() else None
    outcome = run_program(f"open({path!r}, 'w').write('x')", LIMITS)
    assert outcome.status is Status.FAILED
    assert "OSError: [Errno 30]" in outcome.detail or "PermissionError" in outcome.detail
    assert (Path(path).read_bytes() if Path(path).is_file() else None) == before


def test_files_are_its_own_and_bounded() -> None:
    keeps = "open('a', 'w').write('x' * 1000)\nopen('/dev/null', 'w').write('x')\nassert len(open('a').read()) == 1000"
    assert run_program(keeps, LIMITS).passed
    assert run_program(f"import os\nassert set(os.listdir('.')) == {SHOWN!r}", LIMITS).passed
    many = "for n in range(100):\n    open(str(n), 'wb').write(bytes(1 << 20))"
    assert "No space left" in run_program(many, LIMITS).detail


def test_programs_come_in_order_and_are_taken_as_needed() -> None:
    taken: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(12):
            taken.append(number)
            yield f"import time\ntime.sleep({0.2 if number % 3 == 0 else 0})\nprint({number})\nassert {number} % 2"

    found = run_programs(texts(), LIMITS, 2)
    first = next(found)
    assert len(taken) <= 4
    outcomes = [first, *found]
    assert [outcome.output for outcome in outcomes] == [f"{number}\n" for number in range(12)]
    assert [outcome.passed for outcome in outcomes] == [number % 2 == 1 for number in range(12)]


def test_a_series_ends_where_a_program_does_not_pass() -> None:
    series = [["", "1/0", ""], ["", ""], ["exit()", ""]]
    found = list(run_in_turn(series, LIMITS, 2))
    assert [[outcome.status.value for outcome in outcomes] for outcomes in found] == [
        ["passed", "failed"],
        ["passed", "passed"],
        ["crashed"],
    ]


def test_later_programs_of_a_series_have_more_time() -> None:
    text = "import time\nend = time.process_time() + 2.5\nwhile time.process_time() < end: pass"
    (first,), (_, second) = run_in_turn([[text], ["", text]], LIMITS, 1)
    assert (first.status, second.status) == (Status.TIMEOUT, Status.PASSED)


def test_closing_the_iterator_ends_programs() -> None:
    others = descendants(os.getpid())  # of tests before
    found = run_programs(["", *["import time\ntime.sleep(1000)"] * 3], Limits(seconds=100), 2)
    assert next(found).passed
    assert until(lambda: len(descendants(os.getpid()).keys() - others.keys()) >= 3)
    below = {process: start for process, start in descendants(os.getpid()).items() if process not in others}
    found.close()
    assert until(lambda: not any(alive(*process) for process in below.items()))


@pytest.mark.parametrize("unsafe", [False, pytest.param(True, marks=pytest.mark.anywhere)])
@pytest.mark.parametrize("victim", ["trainer", "supervisor"])
def test_nothing_outlives_who_started_it(victim: str, unsafe: bool) -> None:
    code = (
        "from trainer.evaluate.sandbox.run import *\n"
        "text = 'import os, time\\nif os.fork() == 0: os.setsid()\\ntime.sleep(1000)'\n"
        f"run_program(text, Limits(seconds=300), unsafe={unsafe})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    try:
        # supervisor, keeper, the program and its fork
        assert until(lambda: len(descendants(process.pid)) == 4)
        below = descendants(process.pid)
        folders = {str(Path(f"/proc/{pid}/cwd").readlink()) for pid in below} - {"/"} if unsafe else set()
        assert len(folders) == unsafe
        (supervisor,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid if victim == "trainer" else int(supervisor), 9)
        assert until(lambda: not any(alive(*one) for one in below.items()))
        assert until(lambda: not any(Path(folder).exists() for folder in folders))
    finally:
        process.kill()
        process.wait()


@pytest.mark.anywhere
def test_without_namespaces_it_refuses_and_unsafe_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "refusal", lambda: "Operation not permitted")
    for call in (lambda: run_program("", LIMITS), lambda: list(run_programs([""], LIMITS, 1))):
        with pytest.raises(UserError, match=r"cannot be confined here \(Operation not permitted\); --unsafe"):
            call()
    assert run_program("assert 2 > 1", LIMITS, unsafe=True).passed
    assert run_program("while True: pass", LIMITS, unsafe=True).detail == "1 s of processor time"
    outcome = run_program("import time\ntime.sleep(1000)", Limits(seconds=1), unsafe=True)
    assert (outcome.status, outcome.detail) == (Status.TIMEOUT, "1 s of time")
    stopping = "import os, signal, time\nwhile True: os.kill(os.getppid(), signal.SIGSTOP)"
    assert run_program(stopping, Limits(seconds=1), unsafe=True).status is Status.TIMEOUT
    text = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                print(os.getcwd(), os.getpid(), flush=True)
                time.sleep(1000)
            os._exit(0)
        os.wait()
        time.sleep(0.5)
    """
    folder, pid = run_program(textwrap.dedent(text), LIMITS, unsafe=True).output.split()
    assert not Path(folder).exists()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.anywhere
def test_a_supervisor_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_START", "raise SystemError('no\\nsuch thing')")
    with pytest.raises(UserError, match=r"^a program could not be confined: "):
        run_program("", LIMITS)


@pytest.mark.anywhere
@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 0}, {"seconds": float("nan")}, {"cpu_seconds": 0}, {"memory": 1 << 20}, {"files": 0},
        {"processes": 0}, {"output": 0},
    ],
)  # fmt: skip
def test_limits_make_sense(changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(changes)).replace('_', '-')}"):
        Limits(**changes)  # type: ignore[arg-type]


@pytest.mark.anywhere
def test_no_worker_is_no_run() -> None:
    with pytest.raises(UserError, match="--workers is 0"):
        list(run_programs([""], LIMITS, 0))
