"""Training of the `small` byte LM, in torch on a CPU: minutes for a few tens of MB, seeded.

Positions are drawn at random from the documents; for a quarter of them the context is cut to a random length, since
the coders ask for the model in fresh contexts (segments start anew) more often than in long ones. The float
weights are then rounded to the 8-bit form of `small.SmallByteLM`, which is what is scored, stored and used.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from compressor_model.model import I64, U8
from compressor_model.small import MAX_WIDTH, ORDERS, SmallByteLM, context_hashes, contexts, quantised
from compressor_model.text import Text
from compressor_model.train import cosine
from compressor_model.trainee import Trainee
from schemas.errors import UserError

_HELD_OUT_POSITIONS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class SmallOptions:
    """How the small LM is trained.

    Attributes:
        rows: hash rows per order, a power of two; 2^14 makes 6.3M parameters, 6.3 MB stored.
        width: hidden units, at most 70.
        steps: optimiser steps.
        batch: positions per step.
        learning_rate: peak; it falls as a cosine to 2 %.
        cut_context: share of positions whose context is cut to a random length.
        seed: of initialisation and position draws.
    """

    kind: ClassVar[str] = "small"

    rows: int = 1 << 14
    width: int = 64
    steps: int = 3000
    batch: int = 16384
    learning_rate: float = 0.01
    cut_context: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not 256 <= self.rows <= 1 << 22 or self.rows & (self.rows - 1):
            raise UserError(f"--rows {self.rows}: give a power of two from 256 to 4,194,304")
        if not 1 <= self.width <= MAX_WIDTH:
            raise UserError(f"--width {self.width}: give 1 to {MAX_WIDTH}; the sums of more units are not exact")
        check_common(self)


def check_common(options: Any) -> None:
    """Check the options that both LMs have.

    Raises:
        UserError: one is out of range; the text names it.
    """
    for name in ("steps", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: give at least 1")
    if not 0 < options.learning_rate < math.inf:
        raise UserError(f"--learning-rate {options.learning_rate}: give a positive number")
    if not 0 <= options.cut_context <= 1:
        raise UserError(f"--cut-context {options.cut_context}: give a share from 0 to 1")
    if not 0 <= options.seed < 1 << 64:
        raise UserError(f"--seed {options.seed}: give one from 0 to 2^64 - 1")


def trainee(text: Text, held_out: Text, options: SmallOptions) -> Trainee:
    """The model before its first step.

    Args:
        text: to train on, not empty.
        held_out: not empty; 64 Ki bytes spread over it are tried now and then, in floating point.
        options: see `SmallOptions`.
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(options.seed)
    absent = ORDERS * options.rows  # the row of orders without a context: zeros, and no gradient
    table = torch.randn(absent + 1, options.width, generator=generator) * 0.05
    table[absent] = 0
    module = torch.nn.Module()
    module.embeddings = torch.nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum", padding_idx=absent)
    module.hidden_bias = torch.nn.Parameter(torch.full((options.width,), 0.1))
    module.output = torch.nn.Parameter(torch.randn(256, options.width, generator=generator) * 0.1)
    module.output_bias = torch.nn.Parameter(torch.zeros(256))

    def loss_of(rows: I64, targets: I64) -> Any:
        hidden = functional.relu(module.embeddings(torch.from_numpy(rows)) + module.hidden_bias)
        logits = functional.linear(hidden, module.output, module.output_bias)
        return functional.cross_entropy(logits, torch.from_numpy(targets))

    def held_out_bits() -> float:
        count = min(len(held_out.data), _HELD_OUT_POSITIONS)
        positions = np.arange(count, dtype=np.int64) * len(held_out.data) // count
        rows = hash_rows(*contexts(held_out, positions), options.rows)
        with torch.no_grad():
            return float(loss_of(rows, held_out.data[positions].astype(np.int64))) / math.log(2)

    return Trainee(
        module=module,
        optimiser=torch.optim.Adam(module.parameters(), betas=(0.9, 0.99), fused=True),
        loss=lambda step: loss_of(*drawn(text, options, step)),
        rate=lambda step: options.learning_rate * cosine(step, options.steps, warm_up=0, last=0.02),
        held_out=held_out_bits,
        steps=options.steps,
        batch=options.batch,
        clip=None,
        device="cpu",
    )


def finished(module: Any, options: SmallOptions) -> SmallByteLM:
    """The 8-bit model of trained weights."""
    table = module.embeddings.weight.detach()[:-1]
    return quantised(
        table.reshape(ORDERS, options.rows, options.width).numpy(),
        module.hidden_bias.detach().numpy(),
        module.output.detach().numpy(),
        module.output_bias.detach().numpy(),
    )


def drawn(text: Text, options: SmallOptions, step: int) -> tuple[I64, I64]:
    """A step's batch: embedding rows int64 [batch, ORDERS], and target bytes int64 [batch]."""
    rng = np.random.default_rng([options.seed, step])
    positions = rng.integers(0, len(text.data), options.batch)
    context, lengths = contexts(text, positions)
    cut = rng.random(options.batch) < options.cut_context
    lengths = np.where(cut, np.minimum(lengths, rng.integers(0, ORDERS, options.batch)), lengths)
    return hash_rows(context, lengths, options.rows), text.data[positions].astype(np.int64)


def hash_rows(context: U8, lengths: I64, rows: int) -> I64:
    """Row of each order in the table of all orders, the last row for an absent one: int64 [n, ORDERS]."""
    shift = np.uint64(64 - (rows.bit_length() - 1))
    index = (context_hashes(context) >> shift).astype(np.int64) + np.arange(ORDERS) * rows
    index[np.arange(ORDERS)[None, :] >= lengths[:, None]] = ORDERS * rows
    return index
