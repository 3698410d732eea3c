"""SIGKILL at 50 random moments, of drivers and of workers, on this machine's pool and on Dask: nothing done is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from test_preprocess import alive, digests, run_job, wait_for_receipts, write_corpus

from schemas.errors import UserError
from schemas.manifest import Receipt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), documents=600, seed=1)


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "out"
    run_job(corpus, out, workers=2)
    return out


def start(corpus: Path, out: Path, runner: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "preprocess", "--corpus", str(corpus), "--out", str(out)]
    command += ["--unit-bytes", "100000", "--workers", "2", "--runner", runner]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def gone(process: subprocess.Popen[str]) -> None:
    """Wait until none of its processes is left."""
    process.communicate(timeout=120)
    deadline = time.monotonic() + 60
    while alive(process.pid):
        assert time.monotonic() < deadline, "processes outlived their driver"
        time.sleep(0.05)


def check_final_names(out: Path, expected: dict[str, str]) -> dict[str, int]:
    """Every file under a final name is whole, which is to say the reference's; when each receipt was written."""
    found = digests(out) if out.exists() else {}
    final = {name: digest for name, digest in found.items() if not name.startswith("meta/")}
    assert final.items() <= expected.items()
    written = {}
    for path in out.glob("receipts/*.json"):
        Receipt.from_bytes(path.read_bytes(), path.name)
        written[path.name] = path.stat().st_mtime_ns
    return written


@pytest.mark.parametrize(
    ("runner", "victim", "kills"),
    [("direct", "driver", 15), ("direct", "worker", 10), ("dask", "driver", 13), ("dask", "worker", 12)],
)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    corpus: Path, reference: Path, tmp_path: Path, runner: str, victim: str, kills: int
) -> None:
    expected = digests(reference)
    rng = random.Random(f"{runner} {victim}")
    units = len(list(reference.glob("receipts/*")))
    killed = at_work = jobs = 0
    while killed < kills:
        jobs += 1
        out = tmp_path / f"out-{jobs}"
        written: dict[str, int] = {}
        for _ in range(5):  # at most so many in one job
            if len(written) == units:
                break
            process = start(corpus, out, runner)
            wait_for_receipts(out, rng.randint(len(written), units), process)
            time.sleep(rng.uniform(0, 0.5) if rng.random() < 0.5 else 0)
            victims = [process.pid] if victim == "driver" else workers_of(process)[:1]
            if process.poll() is not None or not victims:
                gone(process)
                continue
            for pid in victims:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed += 1
            if victim == "driver" and rng.random() < 0.3:
                process.wait()  # but not for its workers: the next one starts while they may still run
                continue
            gone(process)
            assert victim == "driver" or process.returncode == 0
            now = check_final_names(out, expected)
            at_work += 0 < len(now) < units
            assert written.items() <= now.items(), "a finished unit was done again"
            written = now
        process = start(corpus, out, runner)
        gone(process)
        assert process.returncode == 0
        assert digests(out) == expected
        assert written.items() <= check_final_names(out, expected).items(), "a finished unit was done again"
        assert not list((out / "meta" / "tmp").iterdir())
    assert victim == "worker" or at_work >= kills // 5, "most kills came before or after the work"


@pytest.mark.parametrize("runner", ["direct", "dask"])
def test_of_two_jobs_on_one_folder_one_goes_on_and_the_other_says_so(
    corpus: Path, reference: Path, tmp_path: Path, runner: str
) -> None:
    out = tmp_path / "out"
    both = [start(corpus, out, runner), start(corpus, out, runner)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1], errors
    assert "another preprocess is writing there" in errors[codes.index(1)]
    assert digests(out) == digests(reference)


def test_a_job_goes_on_on_another_runner_and_another_one_is_refused_meanwhile(
    corpus: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(corpus, out, "dask")
    wait_for_receipts(out, 3, process)
    with pytest.raises(UserError, match="another preprocess is writing there"):
        run_job(corpus, out)
    os.killpg(process.pid, signal.SIGINT)
    gone(process)
    assert process.returncode == 130
    written = check_final_names(out, digests(reference))
    assert len(written) >= 3
    run_job(corpus, out, workers=2)
    assert written.items() <= check_final_names(out, digests(reference)).items()
    assert digests(out) == digests(reference)
