"""Runs that end by a budget, and runs that are too large for the machine."""

from pathlib import Path
from typing import Any

import pytest
from data_fixtures import made_dataset

from schemas.errors import UserError
from trainer.config import TrainOptions
from trainer.planning import limits
from trainer.run_log import read_metrics
from trainer.trainer import Trainer


def options_for(run: Path, **changes: Any) -> TrainOptions:
    given: dict[str, Any] = {
        "data": (str(made_dataset("neural")),), "run": str(run), "batch": 4, "sequence": 256, "val_fraction": 0.02,
        "validate_every": 0, "tensorboard": False, "threads": 1, "prefetch": 0,
    }  # fmt: skip
    return TrainOptions(**{**given, **changes})


def test_a_run_ends_at_the_step_that_shows_its_raw_bytes_and_goes_on_with_more(tmp_path: Path) -> None:
    def run(raw_bytes: int | None, checkpoint_every: int = 100) -> list[int]:
        options = options_for(tmp_path / "run", steps=8, raw_bytes=raw_bytes, checkpoint_every=checkpoint_every)
        trainer = Trainer(options)
        trainer.train()
        return [int(metrics["raw_view_bytes"]) for metrics in read_metrics(tmp_path / "run")]

    whole = options_for(tmp_path / "whole", steps=8)
    Trainer(whole).train()
    shown = [int(metrics["raw_view_bytes"]) for metrics in read_metrics(tmp_path / "whole")]
    assert min(shown) > 0
    assert run(sum(shown[:3])) == shown[:3]
    assert run(sum(shown[:3])) == shown[:3]  # it is over
    assert run(sum(shown[:5]) - 1) == shown[:5]  # what was shown before counts
    assert run(None) == shown


def test_a_budget_of_operations_is_a_number_of_steps_at_the_vocabulary_of_the_data(tmp_path: Path) -> None:
    trainer = Trainer(options_for(tmp_path, flops=1e12))
    per_step = 4 * 256 * limits.flops_per_symbol(trainer.model_config, 256)
    assert trainer.model_config.vocabulary_size == 320 + 4096
    assert (trainer.steps - 1) * per_step < 1e12 <= trainer.steps * per_step


def test_a_step_that_cannot_fit_is_refused_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "available_bytes", lambda device: 200_000_000)
    with pytest.raises(UserError, match=r"SCALE=tiny: a step of --micro-batch 4 .* would fit: --micro-batch"):
        Trainer(options_for(tmp_path, sequence=2048))
    monkeypatch.setattr(limits, "available_bytes", lambda device: 20_000_000)
    with pytest.raises(UserError, match=r"SCALE=tiny: .* parameters need .* too few; no scale would fit"):
        Trainer(options_for(tmp_path))
