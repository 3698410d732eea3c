"""Runs that start from a model in a folder instead of one drawn from the seed."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from training_runs import losses, options_for

from schemas.errors import UserError
from schemas.vocabulary import BYTES
from trainer.data.views import Mode
from trainer.huggingface.export import ExportOptions, export, write
from trainer.huggingface.reading import Info
from trainer.model.evabyte import EvaByte, ModelConfig
from trainer.trainer import Trainer


def test_a_run_goes_on_from_an_exported_model(datasets: dict[str, Path], tmp_path: Path) -> None:
    first = Trainer(options_for(datasets["neural"], tmp_path / "first", steps=3))
    first.train()
    export(ExportOptions(run=str(tmp_path / "first"), out=str(tmp_path / "folder"), kind="full"))
    options = options_for(datasets["neural"], tmp_path / "second", init_from=str(tmp_path / "folder"), steps=4)
    second = Trainer(options)
    assert second.step == 0
    for name, parameter in second.model.named_parameters():
        assert torch.equal(parameter, first.model.get_parameter(name))
    second.train()
    whole = losses(tmp_path / "second")

    # a resume needs the folder no more, and does not take its parameters again
    cut = Trainer(replace(options, run=str(tmp_path / "cut")))
    cut.train_step()
    cut.save()
    cut.saver.wait()
    shutil.rmtree(tmp_path / "folder")
    again = Trainer(replace(options, run=str(tmp_path / "cut")))
    assert again.step == 1
    again.train()
    assert losses(tmp_path / "cut") == whole[1:]
    with pytest.raises(UserError, match="folder"):
        Trainer(replace(options, run=str(tmp_path / "third")))


def test_sizes_are_those_of_the_folder(datasets: dict[str, Path], tmp_path: Path) -> None:
    config = ModelConfig(
        dim=64, ffn=96, layers=2, heads=1, window=128, chunk=16, vocabulary_size=320, main_heads=8, raw_heads=0,
        eps=1e-5,
    )  # fmt: skip
    model = EvaByte(config)
    model.init_weights(torch.Generator().manual_seed(5))
    about = {"mode": "bytes", "sequence": 256, "val_fraction": 0.1, "data": [], "model": asdict(config)}
    info = Info(vocabulary=BYTES, fingerprint=None, step=7, config=about)
    folder = tmp_path / "folder"
    write(model, info, ExportOptions(run="", out=str(folder), kind="full"))
    options = options_for(datasets["neural"], tmp_path / "run", mode=Mode.BYTES, init_from=str(folder), steps=2)
    trainer = Trainer(options)
    assert trainer.model_config == config
    trainer.train()
    assert Trainer(options).step == 2
    with pytest.raises(UserError, match=r"another model than this run's.*proxy"):  # its symbols are bytes alone
        Trainer(options_for(datasets["neural"], tmp_path / "b", init_from=str(folder)))
    with pytest.raises(UserError, match="--flops"):
        options_for(datasets["neural"], tmp_path / "c", init_from=str(folder), steps=None, flops=1e12)
