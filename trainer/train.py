"""`python -m trainer train`: build the run, train, and say how it ended."""

import sys

from trainer.config import TrainOptions
from trainer.trainer import Trainer


def train(options: TrainOptions) -> None:
    """Train, or resume and train.

    Raises:
        UserError: see `Trainer`.
        SystemExit: 128 + n after signal n, with a checkpoint written.
    """
    trainer = Trainer(options)
    for note in trainer.notes():
        sys.stderr.write(f"{note}\n")
    trainer.train()
    if trainer.stopped_by is not None:
        sys.stderr.write(f"stopped after step {trainer.step:,} and saved; the same command goes on from there\n")
        raise SystemExit(128 + trainer.stopped_by)
    sys.stderr.write(f"{options.folder}: done, {trainer.steps:,} steps\n")
