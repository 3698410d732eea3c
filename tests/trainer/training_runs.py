"""Short runs for tests."""

from pathlib import Path

from trainer.config import TrainOptions
from trainer.run_log import read_metrics


def options_for(data: Path, run: Path, **changes: object) -> TrainOptions:
    return TrainOptions(
        **{
            "data": (str(data),), "run": str(run), "steps": 6, "batch": 2, "sequence": 256, "val_fraction": 0.1,
            "checkpoint_every": 2, "tensorboard": False, "prefetch": 0, **changes,
        }
    )  # fmt: skip


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run)]
