"""Several processes by torchrun and gloo: the losses of one process, exact resume at other numbers of processes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from schemas.errors import UserError
from trainer.parallel import ALONE, Processes
from trainer.run_log import read_metrics

SAME_DATA = ("symbols", "pairs", "padding", "raw_view_bytes", "comp_view_bytes", "epoch_min", "epoch_mean", "epoch_max")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus under gzip: 576 ids."""
    corpus, out = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("data") / "out"
    rng = random.Random(0)
    words = [f"name_{n} = value[{n}]\n" for n in range(40)] + ["def f(self):\n", "    return None\n"]
    for n in range(60):
        (corpus / f"{n}.py").write_text("".join(rng.choices(words, k=rng.randint(20, 120))))
    preprocess(
        PreprocessOptions(
            corpus=str(corpus), out=str(out), proxy=ProxyOptions(proxy="gzip"), quiet=True,
            row_group_bytes=4096,
        )
    )  # fmt: skip
    return out


def start(world: int, data: Path, run: Path, *options: str) -> subprocess.Popen[bytes]:
    launcher = (
        ["torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "-m", "--"] if world > 1 else []
    )
    command = [sys.executable, "-m", *launcher, "trainer", "train", "--data", str(data), "--run", str(run)]
    command += ["--batch", "4", "--sequence", "512", "--val-fraction", "0.1", "--threads", "1", "--no-tensorboard"]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, start_new_session=True)


def finish(world: int, data: Path, run: Path, *options: str) -> list[dict[str, Any]]:
    process = start(world, data, run, *options)
    errors = process.communicate(timeout=250)[1].decode()
    assert process.returncode == 0, errors
    return read_metrics(run)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=False, text=True).stdout
    return [int(pid) for pid in found.split()]


def kill(process: subprocess.Popen[bytes]) -> None:
    """All at once; the workers of torchrun are in sessions of their own."""
    for pid in [*children(process), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]], *, rtol: float) -> None:
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for name in ("loss", "gradient_norm", "raw_bits_per_byte", "comp_bits_per_byte", "validation_bits_per_byte"):
        values = [line[name] for line in expected if line[name] is not None]
        assert [line[name] for line in found if line[name] is not None] == pytest.approx(values, rel=rtol), name
    for name in SAME_DATA:
        assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], rel=1e-12), name


@pytest.mark.parametrize(
    ("world", "precision", "rtol"), [(2, "fp64", 1e-10), pytest.param(4, "fp32", 1e-5, marks=pytest.mark.slow)]
)
def test_losses_are_those_of_one_process(data: Path, tmp_path: Path, world: int, precision: str, rtol: float) -> None:
    options = ("--steps", "20", "--precision", precision, "--micro-batch", "1", "--peak-rate", "1e-3")
    options += ("--validate-every", "10", "--validate-bytes", "6000")
    alone = finish(1, data, tmp_path / "alone", *options)
    shared = finish(world, data, tmp_path / "shared", *options)
    assert len(alone) == 20
    assert_same(shared, alone, rtol=rtol)


@pytest.mark.slow
def test_killed_on_2_resumed_on_1_and_then_on_4_processes(data: Path, tmp_path: Path) -> None:
    options = ("--steps", "40", "--precision", "fp64", "--checkpoint-every", "5")
    whole = finish(1, data, tmp_path / "whole", *options)
    run = tmp_path / "run"

    def killed_after(world: int, steps: int) -> None:
        process = start(world, data, run, *options)
        deadline = time.monotonic() + 200
        while len(read_metrics(run)) < steps and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        kill(process)

    killed_after(2, 8)
    killed_after(1, 18)
    assert_same(finish(4, data, run, *options), whole, rtol=1e-8)


@pytest.mark.slow
def test_checkpoints_on_an_object_store_go_on_at_another_number_of_processes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a folder by the calls of an object store: no renaming, each process puts its own files
    monkeypatch.setenv("FSSPEC_LOCAL_AUTO_MKDIR", "true")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    options = ("--steps", "60", "--precision", "fp64", "--checkpoint-every", "4")
    whole = finish(1, data, tmp_path / "whole", *options)
    far = ("--checkpoints", f"local://{tmp_path}/far")
    process = start(2, data, tmp_path / "here", *options, *far)
    deadline = time.monotonic() + 200
    while not (tmp_path / "far" / "step-0000000004" / "state.json").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill(process)
    for number, world in enumerate((4, 2)):
        found = finish(world, data, tmp_path / f"there-{number}", *options, *far)
        first = found[0]["step"] if found else 60
        assert (4 <= first < 60 and first % 4 == 0) if number == 0 else first == 60
        assert_same(found, whole[first:], rtol=1e-8)
    left = [path for path in (tmp_path / "scratch").iterdir() if path.name.startswith("proxy-checkpoint-")]
    assert len(left) <= 2  # of the processes that were killed while they wrote


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_ends_all(data: Path, tmp_path: Path) -> None:
    options = ("--steps", "4000", "--checkpoint-every", "1000")
    process = start(2, data, tmp_path, *options)
    deadline = time.monotonic() + 200
    while len(read_metrics(tmp_path)) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(children(process)[-1], signal.SIGTERM)
    errors = process.communicate(timeout=100)[1].decode()
    assert "and saved; the same command goes on from there" in errors
    saved = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in saved] == [f"step-{len(read_metrics(tmp_path)):010d}"]


def test_a_launcher_that_says_nonsense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match="WORLD_SIZE=two"):
        Processes.join("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="take --device cpu"):
            Processes.join("cuda")


def test_one_process_agrees_with_itself() -> None:
    assert ALONE.gather([1.0, 2.0]).tolist() == [[1.0, 2.0]]
    assert ALONE.gather_objects("a") == ["a"]
    ALONE.agree(None)
    with pytest.raises(UserError, match="no"):
        ALONE.agree("no")
