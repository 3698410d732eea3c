"""Units on every runner: none is lost or done twice, a failure is one line, dead workers never hang a job."""

import os
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam
import pytest
from job_runners import (
    RUNNERS,
    Files,
    crash,
    die,
    die_once,
    forget,
    job_service,
    leave,
    linger,
    refuse,
    runner,
    scheduler,
    units,
    wait_for,
    worker,
)

from pipelines.reading.plan import Unit
from pipelines.runners import beam
from pipelines.runners.environment import environment
from pipelines.runners.local_pool import LocalPool
from pipelines.runners.running import RunnerOptions, run_units
from pipelines.shard import Outcome
from pipelines.storage import Folder
from schemas.errors import UserError

COUNT = 9


def run(work: Callable[[str, Unit], Outcome], out: Path, options: RunnerOptions, count: int = COUNT) -> None:
    out.mkdir(exist_ok=True)
    folder = Folder(str(out))
    run_units(partial(work, str(out)), units(count), folder, Files(folder, count), options)  # type: ignore[arg-type]


def children() -> set[str]:
    listed = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "spawn_main"], capture_output=True, text=True)
    return set(listed.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNERS)
def test_each_unit_is_done_once_and_the_servers_serve_job_after_job(tmp_path: Path, name: str) -> None:
    with runner(name, tmp_path / "servers") as options:
        for job in ("first", "second"):
            run(leave, tmp_path / job, options, 40)
            done = {path.name: path.read_text() for path in (tmp_path / job / "done").iterdir()}
            assert done == {str(index): "ran\n" for index in range(40)}
        assert not children()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNERS)
def test_what_goes_wrong_in_a_unit_is_one_line(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with runner(name, tmp_path / "servers") as options:
        capfd.readouterr()
        with pytest.raises(UserError) as refused:
            run(refuse, tmp_path / "refused", options)
        assert str(refused.value) == "unit 3: the disk is full; free some space"
        with pytest.raises(UserError, match=r"a unit failed: .*finished units are kept; the trace is in") as crashed:
            run(crash, tmp_path / "crashed", options)
        assert "unit 3 came across something new" in str(crashed.value) or name == "portable"
        assert "\n" not in str(crashed.value)
        log = (tmp_path / "crashed" / "meta" / "error.log").read_text()
        assert "something new" in log
        assert "in crash" in log
        if name.startswith("dask"):
            assert log.count("tcp://127.0.0.1") >= 1, "no worker's log"
        with pytest.raises(UserError, match=f"ended well, but 1 of {COUNT} units are not in"):
            run(forget, tmp_path / "forgotten", options)
        assert not children()
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert "distributed" not in said
    assert "WARNING" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direct-2", "dask", "dask-scheduler"])
def test_a_dead_workers_units_run_again_but_not_for_ever(tmp_path: Path, name: str) -> None:
    with runner(name, tmp_path / "servers") as options:
        run(die_once, tmp_path / "once", options)
        assert len(list((tmp_path / "once" / "done").iterdir())) == COUNT
        with pytest.raises(UserError, match=r"died 4 times while .* finished units are kept"):
            run(die, tmp_path / "always", options)
        assert not children()


@pytest.mark.slow
def test_a_scheduler_that_loses_all_workers_or_dies_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lonely, headless = tmp_path / "lonely", tmp_path / "headless"
    with scheduler(tmp_path / "one") as (address, _), monkeypatch.context() as patch:
        patch.setattr("pipelines.runners.dask_cluster.NO_WORKERS_SECONDS", 3)
        options = RunnerOptions(runner="dask", scheduler=address)
        with pytest.raises(UserError, match=r"tcp://\S+ has no workers; start some"):
            run(leave, lonely, options)
        patch.setattr("pipelines.runners.dask_cluster.NO_WORKERS_SECONDS", 20)
        with worker(address, tmp_path, nanny=False) as lone:
            _when(lambda: list(lonely.glob("began-*")), lone.kill)
            with pytest.raises(UserError, match="has had no workers for 20 seconds"):
                run(linger, lonely, options)
    with scheduler(tmp_path / "two") as (address, process), worker(address, tmp_path):
        _when(lambda: list(headless.glob("began-*")), process.kill)
        with pytest.raises(UserError, match="the connection is lost"):
            run(linger, headless, RunnerOptions(runner="dask", scheduler=address))


def _when(seen: Callable[[], object], act: Callable[[], object]) -> None:
    """Do it in the background, once it is seen."""

    def wait() -> None:
        wait_for(seen)
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.slow
def test_workers_of_another_environment_are_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "pipelines"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('this is another pipelines')")
    with scheduler(tmp_path) as (address, _):
        options = RunnerOptions(runner="dask", scheduler=address)
        with worker(address, tmp_path), monkeypatch.context() as patch:
            expected = environment() | {"pyarrow": "1.0"}
            patch.setattr("pipelines.runners.dask_cluster.environment", lambda: expected)
            with pytest.raises(UserError, match=r"Dask worker tcp://\S+: has pyarrow \S+ instead of 1\.0; give all"):
                run(leave, tmp_path / "out", options)
        with (
            worker(address, tmp_path, tmp_path / "other"),
            pytest.raises(UserError, match=r"Dask worker tcp://\S+: cannot run this program \(.*another pipelines"),
        ):
            run(leave, tmp_path / "out", options)
    with runner("portable", tmp_path / "servers") as options, monkeypatch.context() as patch:
        patch.setattr("pipelines.runners.beam.environment", lambda: expected)
        with pytest.raises(UserError, match=r"^worker on \S+: has pyarrow \S+ instead of 1\.0; give all"):
            run(leave, tmp_path / "out", options)
    assert not (tmp_path / "out" / "done").exists()


@pytest.mark.slow
def test_portable_runners_count_in_beams_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Any] = []
    original = apache_beam.Pipeline.run

    def kept(self: Any, *rest: Any) -> Any:
        results.append(original(self, *rest))
        return results[-1]

    monkeypatch.setattr(apache_beam.Pipeline, "run", kept)
    with job_service(tmp_path / "servers") as options:
        run(leave, tmp_path / "out", RunnerOptions(runner="portable", beam_options=options))
        metrics = results[-1].metrics().query()
    counters = {metric.key.metric.name: metric.committed for metric in metrics["counters"]}
    assert counters == {"done": COUNT, "documents": 2 * COUNT, "raw_bytes": 10 * COUNT, "rejects": COUNT}
    (seconds,) = metrics["distributions"]
    assert (seconds.key.metric.name, seconds.committed.count, seconds.committed.sum) == (
        "milliseconds", COUNT, 500 * COUNT,
    )  # fmt: skip


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.runners.dask_cluster.CONNECT_SECONDS", 0.5)
    options = RunnerOptions(runner="dask", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(UserError, match=r"--scheduler tcp://127\.0\.0\.1:9: nothing answers there; give"):
        run(leave, tmp_path / "out", options)
    with pytest.raises(UserError, match=r"--scheduler nonsense://x: .*give"):
        run(leave, tmp_path / "out", RunnerOptions(runner="dask", scheduler="nonsense://x"))


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"--scheduler tcp://x: RUNNER=direct has none; give RUNNER=dask"):
        RunnerOptions(scheduler="tcp://x")
    with pytest.raises(UserError, match=r"RUNNER=portable: give the job server, --beam-options"):
        RunnerOptions(runner="portable")


def test_no_process_of_the_pool_waits_while_a_unit_does(tmp_path: Path) -> None:
    """Units are taken in order by whoever is free: of one long and eight short ones, one process does the eight."""
    pool = LocalPool(2)
    try:
        beam.run(partial(one_long, str(tmp_path)), units(COUNT), Folder(str(tmp_path)), "direct", [], pool)
        assert pool.failure is None
    finally:
        pool.close()
    by_process = [path.read_text() for path in tmp_path.iterdir()]
    assert len(by_process) == COUNT
    assert by_process.count((tmp_path / "0").read_text()) == 1


def one_long(out: str, unit: Unit) -> Outcome:
    """The first unit lasts until the others are done."""
    if unit.index == 0:
        wait_for(lambda: len(list(Path(out).iterdir())) == COUNT - 1)
    (Path(out) / str(unit.index)).write_text(str(os.getpid()))
    return Outcome(str(unit.index), False)


def test_a_killed_pool_process_is_replaced(tmp_path: Path) -> None:
    run(die_once, tmp_path / "out", RunnerOptions(workers=2))
    assert len(list((tmp_path / "out" / "done").iterdir())) == COUNT
    assert not children()
