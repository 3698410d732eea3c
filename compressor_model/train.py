"""Training of the `small` byte LM, in torch on a CPU: minutes for a few tens of MB, seeded.

Positions are drawn at random from the documents; for a quarter of them the context is cut to a random length, since
the coders ask for the model in fresh contexts (segments start anew) more often than in long ones. The float
weights are then rounded to the 8-bit form of `model.SmallByteLM`, which is what is scored, stored and used.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressor_model.model import (
    I64,
    MAX_HIDDEN_BIAS,
    MAX_WIDTH,
    ORDERS,
    SmallByteLM,
    context_hashes,
    max_output_bias,
)
from compressor_model.text import Text
from schemas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
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

    rows: int = 1 << 14
    width: int = 64
    steps: int = 3000
    batch: int = 16384
    learning_rate: float = 0.01
    cut_context: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 256 or self.rows & (self.rows - 1):
            raise UserError(f"--rows {self.rows}: give a power of two, at least 256")
        if not 1 <= self.width <= MAX_WIDTH:
            raise UserError(f"--width {self.width}: give 1 to {MAX_WIDTH}; the sums of more units are not exact")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: give at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning-rate {self.learning_rate}: give a positive number")
        if not 0 <= self.cut_context <= 1:
            raise UserError(f"--cut-context {self.cut_context}: give a share from 0 to 1")
        if not 0 <= self.seed < 1 << 64:
            raise UserError(f"--seed {self.seed}: give one from 0 to 2^64 - 1")


Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss in bits per byte)."""


def train_small(text: Text, options: TrainOptions, progress: Progress | None = None) -> SmallByteLM:
    """Train on the text and return the 8-bit model.

    Raises:
        UserError: fewer than 64 KiB of text.
    """
    import torch
    from torch.nn import functional

    if len(text.data) < 1 << 16:
        raise UserError(f"byte LM: {len(text.data):,} bytes of training text; at least 65,536 are needed")
    generator = torch.Generator().manual_seed(options.seed)
    absent = ORDERS * options.rows  # the row of orders without a context: zeros, and no gradient
    table = torch.randn(absent + 1, options.width, generator=generator) * 0.05
    table[absent] = 0
    embeddings = torch.nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum", padding_idx=absent)
    hidden_bias = torch.nn.Parameter(torch.full((options.width,), 0.1))
    output = torch.nn.Parameter(torch.randn(256, options.width, generator=generator) * 0.1)
    output_bias = torch.nn.Parameter(torch.zeros(256))
    parameters = [embeddings.weight, hidden_bias, output, output_bias]
    optimiser = torch.optim.Adam(parameters, lr=options.learning_rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / options.steps))
    )
    rng = np.random.default_rng(options.seed)
    average = 8.0
    for step in range(options.steps):
        rows, targets = _batch(text, options, rng)
        hidden = functional.relu(embeddings(torch.from_numpy(rows)) + hidden_bias)
        logits = functional.linear(hidden, output, output_bias)
        loss = functional.cross_entropy(logits, torch.from_numpy(targets))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        average += (loss.item() / math.log(2) - average) * max(0.02, 1 / (step + 1))
        if progress is not None and ((step + 1) % 25 == 0 or step + 1 == options.steps):
            progress(step + 1, options.steps, average)
    return _quantise(
        embeddings.weight.detach()[:absent].reshape(ORDERS, options.rows, options.width).numpy(),
        hidden_bias.detach().numpy(),
        output.detach().numpy(),
        output_bias.detach().numpy(),
    )


def bits_per_byte(model: SmallByteLM, text: Text, limit: int = 1 << 20) -> float:
    """Mean code length in bits of the text's first `limit` bytes under the model's integer frequencies."""
    total, length = 0.0, min(limit, len(text.data))
    for at in range(0, length, 1 << 16):
        positions = np.arange(at, min(at + (1 << 16), length), dtype=np.int64)
        frequencies = model.frequencies(*text.contexts(positions))
        total += float((16 - np.log2(frequencies[np.arange(len(positions)), text.data[positions]])).sum())
    return total / length


def _batch(text: Text, options: TrainOptions, rng: np.random.Generator) -> tuple[I64, I64]:
    positions = rng.integers(0, len(text.data), options.batch)
    contexts, lengths = text.contexts(positions)
    cut = rng.random(options.batch) < options.cut_context
    lengths = np.where(cut, np.minimum(lengths, rng.integers(0, ORDERS, options.batch)), lengths)
    shift = np.uint64(64 - (options.rows.bit_length() - 1))
    rows = (context_hashes(contexts) >> shift).astype(np.int64) + np.arange(ORDERS) * options.rows
    rows[np.arange(ORDERS)[None, :] >= lengths[:, None]] = ORDERS * options.rows
    return rows, text.data[positions].astype(np.int64)


def _quantise(
    embeddings: npt.NDArray[np.float32],
    hidden_bias: npt.NDArray[np.float32],
    output: npt.NDArray[np.float32],
    output_bias: npt.NDArray[np.float32],
) -> SmallByteLM:
    """Round to 8 bits with one scale per matrix.

    A hidden unit may be scaled by any positive factor if its output column is divided by it (relu is homogeneous).
    That freedom gives each unit's embeddings the same range, so that one scale fits all of them.
    """
    spread = np.quantile(np.abs(embeddings).reshape(-1, embeddings.shape[2]), 0.9995, axis=0)
    spread = np.maximum(spread, 1e-6)
    embeddings, hidden_bias, output = embeddings / spread, hidden_bias / spread, output * spread
    unit_in = 1 / 127
    unit_out = float(np.abs(output).max()) / 127
    unit = unit_in * unit_out
    room = max_output_bias(output.shape[1])
    return SmallByteLM(
        embeddings=np.clip(np.rint(embeddings / unit_in), -127, 127).astype(np.int8),
        hidden_bias=np.clip(np.rint(hidden_bias / unit_in), -MAX_HIDDEN_BIAS, MAX_HIDDEN_BIAS).astype(np.int16),
        output=np.clip(np.rint(output / unit_out), -127, 127).astype(np.int8),
        output_bias=np.clip(np.rint(output_bias / unit), -room, room).astype(np.int32),
        logit_scale=round(unit * 2**32),
    )
