"""`python -m benchmarks.trainer`: a training step beside that of plain trunks, and the share of it that waits for data.

The plain trunks have the same parameters, heads and loss, but `scaled_dot_product_attention(is_causal=True)`, over the
whole sequence or inside each window alone: no summaries, no documents. All take turns on the same batches of a real
dataset; the median of the rounds counts. Waits are those that a run logs.
"""

import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from benchmarks.preprocess import machine
from schemas.errors import UserError
from trainer.config import TrainOptions
from trainer.data.batch import Batch
from trainer.model.evabyte import Attend, EvaByte
from trainer.model.heads import loss_sum
from trainer.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class TrainerBenchOptions:
    """The trainer's figures.

    Attributes:
        data: a dataset; the demo's is made by `make demo`.
        scale: of the model.
        rounds: of which the median counts.
        steps: of the run whose waits are counted.
    """

    data: str = "data/demo"
    scale: str = "tiny"
    rounds: int = 15
    steps: int = 60

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < 1:
            raise UserError("--rounds and --steps must be 1 or more")


SHAPES = [(16, 256), (4, 512), (8, 1024), (1, 16_384)]
"""Batches and sequences: one window of `tiny`, the demo's, the scale's own, and a long one."""


def main(options: TrainerBenchOptions) -> None:
    """Print the tables."""
    machine()
    print(f"{torch.get_num_threads()} threads, scale {options.scale}, {options.data}\n")
    print("| batch | T | symbols/s | of causal attention | of causal windows | data wait, share of the steps |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for batch, sequence in SHAPES:
            trainer = Trainer(
                TrainOptions(
                    data=(options.data,), run=f"{folder}/{batch}-{sequence}", scale=options.scale, batch=batch,
                    sequence=sequence, steps=options.steps, val_fraction=0.05, tensorboard=False,
                )
            )  # fmt: skip
            ours, whole, windows = step_seconds(trainer, options.rounds)
            trainer.train()
            lines = (trainer.options.folder / "metrics.jsonl").read_text().splitlines()
            metrics = [record for record in map(json.loads, lines) if "data_wait" in record]
            waits = sum(record["data_wait"] * record["symbols"] / record["symbols_per_second"] for record in metrics)
            seconds = sum(record["symbols"] / record["symbols_per_second"] for record in metrics)
            print(
                f"| {batch} | {sequence:,} | {batch * sequence / ours:,.0f} | {whole / ours:.2f} | {windows / ours:.2f} "
                f"| {waits / seconds:.2%} |",
                flush=True,
            )


def step_seconds(trainer: Trainer, rounds: int) -> tuple[float, ...]:
    """Median seconds of forward and backward pass, in turns: ours, causal attention, causal attention in windows."""
    window = trainer.model_config.window
    ways = (None, causal, partial(causal_windows, window=window))
    seconds: tuple[list[float], ...] = ([], [], [])
    for index in range(rounds + 2):
        batch = next(trainer.loader)
        for way, times in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            _step(trainer.model, batch, way)
            if index >= 2:
                times.append(time.perf_counter() - start)
    trainer.loader.close()
    return tuple(map(statistics.median, seconds))


def _step(model: EvaByte, batch: Batch, attend: Attend | None) -> None:
    arrays = batch.arrays
    ids, doc, position = (torch.from_numpy(array) for array in (arrays.ids, arrays.doc, arrays.position))
    if attend is None:
        hidden = model(ids, doc, position)
    else:
        hidden = model.run(model.embed_tokens(ids), position, [attend] * model.config.layers)
    loss = loss_sum(model, hidden, torch.from_numpy(arrays.labels), torch.from_numpy(arrays.weights))
    (loss.total / batch.counts.targets).backward()
    model.zero_grad(set_to_none=True)


def causal(q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor) -> Tensor:
    """Plain causal attention over the whole sequence: [B, h, T, d] -> [B, h, T, d]."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def causal_windows(q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, window: int) -> Tensor:
    """Attention inside each window and nothing else: [B, h, T, d] -> [B, h, T, d]."""
    q, k, v = (x.unflatten(2, (-1, window)) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True).flatten(2, 3)


if __name__ == "__main__":
    main(tyro.cli(TrainerBenchOptions, description=TrainerBenchOptions.__doc__))
