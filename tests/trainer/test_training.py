"""Training end to end at the smallest size: every mode, exact resume, checkpoints that survive anything."""

import dataclasses
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_runs import losses, options_for

from schemas.command_line import BAD_OPTIONS, FAILED, Command
from schemas.command_line import run as run_command
from schemas.errors import UserError
from schemas.vocabulary import BYTE_OFFSET
from trainer import optim
from trainer.checkpoints import saving
from trainer.checkpoints.restore import restore
from trainer.checkpoints.stores import store_at
from trainer.data.dataset import Dataset
from trainer.data.rows import RowGroup
from trainer.data.views import Mode
from trainer.evaluate.blocks import blocks_of
from trainer.evaluate.bpb import BpbOptions, code_length, evaluate
from trainer.evaluate.markov import MarkovModel
from trainer.inference.decoding import Generator
from trainer.inference.generate import GenerateOptions, generate
from trainer.model.evabyte import EvaByte, ModelConfig
from trainer.plot import PlotOptions, plot
from trainer.run_log import read_metrics, summary
from trainer.trainer import Trainer


@pytest.mark.parametrize(
    ("proxy", "mode"),
    [*(("neural", mode) for mode in Mode), ("bpe", Mode.PROXY), ("gzip", Mode.PROXY), ("identity", Mode.BYTES)],
)
def test_every_proxy_and_mode_trains(datasets: dict[str, Path], tmp_path: Path, proxy: str, mode: Mode) -> None:
    trainer = Trainer(options_for(datasets[proxy], tmp_path, mode=mode, steps=3))
    assert trainer.model_config.vocabulary_size == (320 if mode is Mode.BYTES else trainer.loader.vocabulary.size)
    trainer.train()
    values = losses(tmp_path)
    assert len(values) == 3
    assert all(math.isfinite(value) for value in values)
    restored = restore(str(tmp_path))
    assert len(Generator(restored.model).generate([b"def "], max_bytes=5)[0].data) <= 5


def test_identity_data_takes_only_bytes(datasets: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bytes"):
        Trainer(options_for(datasets["identity"], tmp_path))


def test_resume_gives_the_same_losses_to_the_last_bit(datasets: dict[str, Path], tmp_path: Path) -> None:
    Trainer(options_for(datasets["neural"], tmp_path / "whole")).train()
    for stop in (2, 4):
        trainer = Trainer(options_for(datasets["neural"], tmp_path / "cut"))
        while trainer.step < stop:
            trainer.train_step()
        trainer.save()
        trainer.saver.wait()
    last = Trainer(options_for(datasets["neural"], tmp_path / "cut", prefetch=3, checkpoint_every=1))
    assert last.step == 4
    last.train()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")[4:]
    whole, cut = (restore(str(tmp_path / name)).model.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_killed_run_goes_on_with_the_same_losses(
    datasets: dict[str, Path], tmp_path: Path, how: signal.Signals
) -> None:
    whole = tmp_path / "whole"
    arguments = ["--data", str(datasets["neural"]), "--steps", "40", "--batch", "2", "--sequence", "256"]
    arguments += ["--val-fraction", "0.1", "--checkpoint-every", "5", "--threads", "1", "--no-tensorboard"]

    def start(run: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "trainer", "train", "--run", str(run), *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE)

    assert start(whole).wait(timeout=200) == 0
    run = tmp_path / "run"
    process = start(run)
    deadline = time.monotonic() + 100
    while len(read_metrics(run)) < 8 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    errors = process.communicate(timeout=100)[1]
    if how is not signal.SIGKILL:
        assert process.returncode == 128 + how
        assert b"saved" in errors
    assert start(run).wait(timeout=200) == 0
    assert losses(run) == losses(whole)


def test_another_configuration_is_refused_with_the_difference(datasets: dict[str, Path], tmp_path: Path) -> None:
    Trainer(options_for(datasets["neural"], tmp_path, steps=2)).train()
    with pytest.raises(UserError, match=r"is another run: .*steps 2 -> 6"):
        Trainer(options_for(datasets["neural"], tmp_path))
    with pytest.raises(UserError, match="vocabulary"):
        Trainer(options_for(datasets["bpe"], tmp_path, steps=2))
    with pytest.raises(UserError, match="seed"):
        Trainer(options_for(datasets["neural"], tmp_path, steps=2, seed=1))
    assert Trainer(options_for(datasets["neural"], tmp_path, afresh=True)).step == 0


def test_a_dataset_may_move_between_two_parts_of_a_run(datasets: dict[str, Path], tmp_path: Path) -> None:
    trainer = Trainer(options_for(datasets["neural"], tmp_path / "run"))
    trainer.train_step()
    trainer.save()
    trainer.saver.wait()
    shutil.copytree(datasets["neural"], tmp_path / "moved")
    assert Trainer(options_for(tmp_path / "moved", tmp_path / "run")).step == 1


def test_checkpoints_on_an_object_store_resume_and_restore(datasets: dict[str, Path], tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/far"
    Trainer(options_for(datasets["neural"], tmp_path / "whole")).train()
    trainer = Trainer(options_for(datasets["neural"], tmp_path / "run", checkpoints=url, checkpoint_every=2))
    for _ in range(3):
        trainer.train_step()
    trainer.save()
    trainer.saver.wait()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)  # the machine is gone
    again = Trainer(options_for(datasets["neural"], tmp_path / "run", checkpoints=url, checkpoint_every=2))
    assert again.step == 3
    again.train()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")[3:]
    assert not (tmp_path / "run" / "checkpoints").exists()
    there, here, whole = restore(url), restore(str(tmp_path / "run")), restore(str(tmp_path / "whole"))
    assert there.step == here.step == whole.step
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(there.model.get_parameter(name), parameter)
        assert torch.equal(here.model.get_parameter(name), parameter)


@pytest.mark.parametrize("damage", ["flip", "truncate", "no state", "left over"])
def test_the_last_whole_checkpoint_resumes(datasets: dict[str, Path], tmp_path: Path, damage: str) -> None:
    Trainer(options_for(datasets["neural"], tmp_path, steps=6, keep=2)).train()
    folders = sorted((tmp_path / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step-0000000004", "step-0000000006"]
    data = next(folders[1].glob("*.distcp"))
    if damage == "flip":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "truncate":
        data.write_bytes(data.read_bytes()[:100])
    elif damage == "no state":
        (folders[1] / "state.json").unlink()
    else:
        (tmp_path / "checkpoints" / ".tmp-1-step-0000000008").mkdir()
    found = saving.newest(store_at(tmp_path / "checkpoints"))
    assert found is not None
    assert found.step == (6 if damage == "left over" else 4)
    assert bool(list((tmp_path / "checkpoints").glob(".tmp-*"))) == (damage == "left over")  # may be under way
    Trainer(options_for(datasets["neural"], tmp_path, steps=6, keep=2))
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("unexpected pos 704 vs 598")]
)
def test_a_full_disk_keeps_the_checkpoints_there_are(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    trainer = Trainer(options_for(datasets["neural"], tmp_path))
    trainer.train_step()
    trainer.save()
    trainer.saver.wait()

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(saving.dcp, "save", full)
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    trainer.train_step()
    trainer.save()
    trainer.saver._thread.join()
    with pytest.raises(UserError, match=r"step-0000000002: checkpoint not written: no space left.*start the same run"):
        trainer.train_step()
    found = saving.newest(store_at(tmp_path / "checkpoints"))
    assert found is not None
    assert found.step == 1


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew_silently(
    datasets: dict[str, Path], tmp_path: Path
) -> None:
    Trainer(options_for(datasets["neural"], tmp_path, steps=2)).train()
    for state in (tmp_path / "checkpoints").glob("*/state.json"):
        state.unlink()
    with pytest.raises(UserError, match=r"all 1 checkpoints are damaged; --afresh"):
        Trainer(options_for(datasets["neural"], tmp_path, steps=2))
    assert Trainer(options_for(datasets["neural"], tmp_path, steps=2, afresh=True)).step == 0


def test_a_dataset_found_damaged_on_the_way_costs_no_step(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(datasets["neural"], tmp_path / "run", checkpoint_every=100)
    Trainer(options_for(datasets["neural"], tmp_path / "whole")).train()
    trainer = Trainer(options)
    read = Dataset.read

    def damaged(self: Dataset, ordinal: int, columns: tuple[str, ...] = ()) -> RowGroup:
        if trainer.step == 3 and columns:
            raise UserError("part-00000.parquet: row group 0: damaged")
        return read(self, ordinal, columns)

    monkeypatch.setattr(Dataset, "read", damaged)
    for step in range(3):
        assert trainer.step == step
        trainer.train_step()
    for lane in trainer.loader._producer._lanes:  # so that the next batch reads
        lane.restore(lane.state)
    with pytest.raises(UserError, match="row group 0"):
        trainer.train_step()
    monkeypatch.undo()
    again = Trainer(options)
    assert again.step == 3
    again.train()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")[3:]


@pytest.mark.parametrize("mode", list(Mode))
def test_modes_are_given_as_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: Mode) -> None:
    arguments = ["train", "--data", str(tmp_path / "none"), "--steps", "1", "--mode", mode.value]
    command = Command("trainer.train", "TrainOptions", "train", "")
    assert run_command("trainer", {"train": command}, arguments) == FAILED
    assert "no dataset there" in capsys.readouterr().err
    assert run_command("trainer", {"train": command}, [*arguments[:-1], "half"]) == BAD_OPTIONS
    assert "'never-pair'" in capsys.readouterr().err


def test_micro_batches_change_rounding_only(datasets: dict[str, Path], tmp_path: Path) -> None:
    Trainer(options_for(datasets["neural"], tmp_path / "a", steps=3)).train()
    Trainer(options_for(datasets["neural"], tmp_path / "b", steps=3, micro_batch=1)).train()
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symbols": 5}, "--steps 6 and --symbols 5: give one"),
        ({"raw_heads": 8}, "--raw-heads 8"),
        ({"peak_rate": 0.0}, "--peak-rate"),
        ({"threads": 0}, "--threads 0"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options_for(tmp_path, tmp_path, **changes)


def test_bad_sizes_and_places_are_named(datasets: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="multiple of the window"):
        Trainer(options_for(datasets["neural"], tmp_path, sequence=300))
    with pytest.raises(UserError, match="tiny, 100m"):
        Trainer(options_for(datasets["neural"], tmp_path, scale="huge"))
    with pytest.raises(UserError, match="make preprocess"):
        Trainer(options_for(tmp_path / "none", tmp_path))
    with pytest.raises(UserError, match="no checkpoint there"):
        restore(str(tmp_path / "none"))
    options = options_for(datasets["neural"], tmp_path, steps=None, symbols=5000)
    assert options.loader().steps == math.ceil(5000 / 512)
    assert options_for(datasets["neural"], tmp_path, steps=None).loader().steps == 2000


def test_rate_rises_from_0_and_falls_to_a_tenth() -> None:
    factors = [optim.rate_factor(step, 1000, 100) for step in range(1001)]
    assert factors[0] == 0
    assert factors[50] == 0.5
    assert factors[100] == 1
    assert factors[1000] == pytest.approx(0.1)
    assert factors[550] == pytest.approx(0.55)
    assert [optim.warmup_steps(steps) for steps in (5, 100, 5000, 50_000)] == [0, 10, 500, 500]
    assert optim.rate_factor(0, 5, 0) == 1


@pytest.fixture(scope="module")
def model() -> EvaByte:
    config = ModelConfig(
        dim=32, ffn=48, layers=2, heads=2, window=16, chunk=4, vocabulary_size=400, main_heads=1, raw_heads=1
    )
    built = EvaByte(config)
    built.init_weights(torch.Generator().manual_seed(0))
    return built


def test_generate_command_takes_any_bytes(
    datasets: dict[str, Path], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    Trainer(options_for(datasets["neural"], tmp_path, steps=2)).train()
    (tmp_path / "prompt").write_bytes(b"\xff\xfe\x00")
    for options in ({"prompt_file": str(tmp_path / "prompt")}, {"prompt": ""}, {"prompt": "\udcff"}):
        generate(GenerateOptions(run=str(tmp_path), max_bytes=4, **options))
        assert len(capfdbinary.readouterr().out) >= 1
    with pytest.raises(UserError, match="cannot be read"):
        generate(GenerateOptions(run=str(tmp_path), prompt_file=str(tmp_path / "none")))


@given(st.binary(min_size=1, max_size=200), st.integers(8, 40), st.booleans())
def test_blocks_hold_every_byte_once_as_a_label(raw: bytes, context: int, sentinels: bool) -> None:
    blocks = blocks_of(raw, context, sentinels)
    labels = [int(id_) - BYTE_OFFSET for block in blocks for id_ in block.ids[1:] if id_ >= BYTE_OFFSET]
    assert bytes(labels) == raw
    assert all(len(block) <= context + 1 for block in blocks)


def test_score_of_a_uniform_model_is_log_of_the_vocabulary(model: EvaByte) -> None:
    flat = EvaByte(dataclasses.replace(model.config))
    flat.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        flat.lm_head.weight.zero_()
    documents = [b"anything at all", b"\0" * 50]
    bits = [code_length(flat, blocks_of(raw, 16, sentinels=True), 16) for raw in documents]
    assert sum(bits) == pytest.approx(65 * math.log2(400), rel=1e-5)


def test_evaluation_and_plot_of_a_run(
    datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(options_for(datasets["neural"], tmp_path, steps=2)).train()
    result = evaluate(BpbOptions(run=str(tmp_path), json=True))
    assert json.loads(capsys.readouterr().out) == result
    assert 4 < result["bits_per_byte"] < 20
    assert result["markov"]["2"] < result["markov"]["1"] < 6
    plot(PlotOptions(run=(str(tmp_path),)))
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_summary_weighs_steps_by_their_bytes_and_seconds() -> None:
    step = {
        "comp_bits_per_byte": 2.0,
        "comp_view_bytes": 10,
        "symbols": 100,
        "symbols_per_second": 50,
        "data_wait": 0.1,
    }
    lines = [
        {**step, "raw_bits_per_byte": 4.0, "raw_view_bytes": 10},
        {**step, "raw_bits_per_byte": 1.0, "raw_view_bytes": 30, "symbols": 300, "data_wait": 0.2},
        {**step, "raw_bits_per_byte": None, "raw_view_bytes": 0, "data_wait": 0.0},
    ]
    assert summary(lines) == (
        "raw view 1.750 and comp view 2.000 bits per byte over the last 3 steps, 50 symbols/s, "
        "14.00% of the time waiting for data"
    )


def test_markov_model_is_its_formula() -> None:
    model = MarkovModel(1, [b"abab", b"b"])
    # order 0: a 2, b 3; kinds 2, total 5. order 1 after a: b 2 of 2, one kind
    b0 = (3 + 2 / 256) / 7
    expected = -math.log2((2 + 2 * (1 / 256)) / 7) - math.log2((2 + b0) / 3)
    assert model.bits(b"ab") == pytest.approx(expected)
    assert np.isnan(model.bits_per_byte([]))
