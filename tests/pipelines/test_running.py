"""Options of runners, signals, and errors of a place itself: one line each; a unit answers for its own deaths only."""

import os
import signal
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest
from job_runners import Files, leave, units, wait_for

from pipelines import cli
from pipelines.reading.plan import Unit
from pipelines.runners import beam, running
from pipelines.runners.local_pool import ATTEMPTS, LocalPool
from pipelines.runners.place import Place
from pipelines.runners.running import RunnerOptions, run_units
from pipelines.storage import Folder
from schemas.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "--runner portable --workers 3 --beam-options=--job_endpoint=h:1",
            "WORKERS=3: the workers of RUNNER=portable",
        ),
        ("--runner flink --workers 3", "WORKERS=3: the workers of RUNNER=flink are started there"),
        ("--runner dask --workers 3 --scheduler tcp://h:1", "WORKERS=3: the workers of --scheduler tcp://h:1"),
        ("--beam-options=--region=x", "--beam-options --region=x: RUNNER=direct takes none"),
        ('--runner flink --beam-options="open', '--beam-options "open: No closing quotation'),
    ],
)
def test_options_that_another_would_ignore_are_refused(
    arguments: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--corpus", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert cli.run(["preprocess", *places, *arguments.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("runner", "options", "expected"),
    [
        ("dask", "--nonsense=3", "--beam-options: Beam has no option --nonsense for RUNNER=dask"),
        ("dataflow", "--regoin x", "--beam-options: Beam has no option --regoin"),
        ("dataflow", "region=x", "--beam-options: 'region=x' is no option; write --name=value"),
        ("dask", "--dask_npartitions=many", "--beam-options: argument --dask_npartitions: invalid int value: 'many'"),
        ("flink", "--parallelism=lots", "--beam-options: argument --parallelism: invalid int value: 'lots'"),
    ],
)
def test_options_that_beam_would_drop_or_end_for_are_one_line(
    runner: str,
    options: str,
    expected: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beam, "run", lambda work, units, *_: [work(unit) for unit in units])
    out = Folder(str(tmp_path))
    given = RunnerOptions(runner=runner, beam_options=options)  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        run_units(partial(leave, str(tmp_path)), units(2), out, Files(out, 2), given)  # type: ignore[arg-type]
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == "", "usage of Beam"


def test_options_that_are_known_or_a_job_servers_pass() -> None:
    beam.check("dask", ["--dask_npartitions=7"])
    beam.check("dataflow", ["--project", "p", "--region=r", "--experiments=use_runner_v2", "--streaming"])
    beam.check("flink", ["--flink_master=h:1", "--known_to_its_server_alone=1"])


def test_beam_ending_the_process_is_no_good_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object) -> None:
        raise SystemExit(2)

    monkeypatch.setattr(beam, "run", end)
    out = Folder(str(tmp_path))
    options = RunnerOptions(runner="flink", beam_options="--of_its_server=x")
    with pytest.raises(UserError, match=r"^RUNNER=flink does not take these options: --of_its_server=x$"):
        run_units(partial(leave, str(tmp_path)), units(2), out, Files(out, 2), options)  # type: ignore[arg-type]


def test_options_that_a_runner_needs_are_named() -> None:
    with pytest.raises(UserError, match=r"^RUNNER=dataflow: .*Missing required option: region\. See --beam-options$"):
        beam.run(partial(leave, ""), units(1), Folder("/nowhere"), "dataflow", ["--project=p"], None)


class Broken(Place):
    """Fails when it is looked at."""

    def check(self) -> None:
        raise RuntimeError("scheduler said\nnonsense")

    def explained(self, error: Exception) -> Exception:
        return UserError("the place in words") if "known" in str(error) else error

    def logs(self) -> str:
        return "what a worker logged\n"


@pytest.mark.parametrize("when", ["opened", "watched"])
def test_an_error_of_the_place_itself_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def opened(*_: object) -> Place:
        if when == "opened":
            raise RuntimeError("scheduler said\nnonsense")
        return Broken()

    monkeypatch.setattr(running, "_open", opened)
    monkeypatch.setattr(beam, "run", lambda *_: time.sleep(0.2))
    out = Folder(str(tmp_path))
    with pytest.raises(UserError) as error:
        run_units(
            partial(leave, str(tmp_path)),
            units(2),
            out,
            Files(out, 2),
            RunnerOptions(runner="dask"),  # type: ignore[arg-type]
        )
    assert str(error.value).startswith("RUNNER=dask failed: RuntimeError: scheduler said nonsense; finished units are")
    log = (tmp_path / "meta" / "error.log").read_text()
    assert "Traceback" in log
    assert ("what a worker logged" in log) == (when == "watched")


def test_what_the_place_knows_of_its_errors_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Broken()
    monkeypatch.setattr(place, "check", partial(_fail, "known"))
    monkeypatch.setattr(running, "_open", lambda *_: place)
    monkeypatch.setattr(beam, "run", lambda *_: time.sleep(0.2))
    out = Folder(str(tmp_path))
    with pytest.raises(UserError, match=r"^the place in words$"):
        run_units(
            partial(leave, str(tmp_path)),
            units(2),
            out,
            Files(out, 2),
            RunnerOptions(runner="dask"),  # type: ignore[arg-type]
        )


def _fail(text: str) -> None:
    raise RuntimeError(text)


def test_all_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(running, "LocalPool", asked.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    running._open(RunnerOptions(), 100)
    running._open(RunnerOptions(), 2)
    running._open(RunnerOptions(workers=9), 100)
    assert asked == [3, 2, 9]


def test_an_ignored_signal_stays_ignored_and_others_interrupt() -> None:
    """As `nohup` starts a program: SIGHUP, which would end it, is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running.interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with running.interruptible(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


class Pool:
    """A process pool in this process: a death breaks it for all units in flight, as it does for real ones.

    Unit 0 is long: beside others it lasts until a death or until no other will come. Any other unit kills its process
    as often as `deaths` says, and then ends.
    """

    def __init__(self, deaths: dict[int, int]) -> None:
        self.deaths = deaths
        self.flying: dict[int, Future[None]] = {}
        self.broken = False
        self.lock = threading.Lock()
        self._processes: dict[int, object] = {}

    def submit(self, work: object, unit: Unit) -> "Future[None]":
        future: Future[None] = Future()
        with self.lock:
            if self.broken:
                raise BrokenProcessPool
            self.flying[unit.index] = future
        threading.Thread(target=self._do, args=(unit.index, future)).start()
        return future

    def _do(self, index: int, future: "Future[None]") -> None:
        time.sleep(0.05 if index == 0 else 0.1)  # what is begun together is in flight together
        if index == 0 and len(self.flying) > 1:
            wait_for(lambda: future.done() or not any(self.deaths.values()))
        with self.lock:
            if future.done():
                return
            del self.flying[index]
            if not self.deaths.get(index, 0):
                future.set_result(None)
                return
            self.deaths[index] -= 1
            self.broken = True
            for each in (future, *self.flying.values()):
                each.set_exception(BrokenProcessPool())
            self.flying.clear()

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        pass


def failure_of(monkeypatch: pytest.MonkeyPatch, deaths: dict[int, int]) -> Exception | None:
    monkeypatch.setattr(LocalPool, "_start", lambda self: Pool(deaths))
    pool = LocalPool(2)
    for future in [pool.submit(partial(leave, ""), unit) for unit in units(9)]:
        future.result()
    pool.close()
    return pool.failure


def test_unrelated_deaths_are_no_units_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = dict.fromkeys(range(1, 8), 1)
    assert failure_of(monkeypatch, deaths) is None
    assert not any(deaths.values())


def test_the_unit_that_kills_its_process_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = failure_of(monkeypatch, {3: 99})
    assert str(failure).startswith("unit 3: worker processes died 4 times while it ran alone")


def test_a_unit_may_die_as_often_as_it_is_allowed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure_of(monkeypatch, {3: ATTEMPTS}) is None
