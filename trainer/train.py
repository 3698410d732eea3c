"""`python -m trainer train`: build the run, train, and say how it ended."""

import sys

from trainer.config import TrainOptions
from trainer.parallel import Processes
from trainer.trainer import Trainer


def train(options: TrainOptions) -> None:
    """Train, or resume and train.

    Raises:
        UserError: see `Trainer`.
        SystemExit: 128 + n after signal n, with a checkpoint written.
    """
    processes = Processes.join(options.device)
    try:
        trainer = Trainer(options, processes)
        say = sys.stderr.write if processes.is_first else lambda _: None
        for note in trainer.notes():
            say(f"{note}\n")
        trainer.train()
        if trainer.stopped_by is not None:
            say(f"stopped after step {trainer.step:,} and saved; the same command goes on from there\n")
            raise SystemExit(128 + trainer.stopped_by)
        say(f"{options.folder}: done, {trainer.step:,} steps\n")
    finally:
        processes.leave()
