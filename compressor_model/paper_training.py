"""Training of the `paper` byte LM: AdamW, bf16 and compiled on a GPU, fp32 on a CPU.

A step has long rows at drawn positions, as the model is run over documents, and for a quarter of its bytes short rows
that begin afresh anywhere, as codebook and coders ask. A row goes on over documents' ends, so that no place in it is
wasted on corpora of short ones; a mask keeps each byte's context to its own document, and BEGIN stands in for the byte
before a document's first.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from compressor_model.model import F32, I64
from compressor_model.sizes import BEGIN, Sizes
from compressor_model.small_training import check_common
from compressor_model.text import Text
from compressor_model.train import cosine, resolve_device
from compressor_model.trainee import Trainee
from compressor_model.transformer import precision
from schemas.errors import UserError

SHORT_ROW = 32

_HELD_OUT_ROWS = 32  # 64 KiB of the longest


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """How the Transformer is trained.

    Attributes:
        layers: see `Sizes`.
        width: see `Sizes`.
        heads: see `Sizes`.
        hidden: see `Sizes`.
        row: see `Sizes`.
        context: see `Sizes`.
        steps: optimiser steps.
        batch: bytes per step, at least a row.
        learning_rate: peak; a line up to it over the first tenth of the steps, at most 500, then a cosine to 10 %.
        cut_context: share of the bytes of a step in short rows that begin afresh anywhere.
        seed: of initialisation and row draws.
        device: auto (a GPU if there is one), cpu or cuda.
    """

    kind: ClassVar[str] = "paper"

    layers: int = Sizes.layers
    width: int = Sizes.width
    heads: int = Sizes.heads
    hidden: int = Sizes.hidden
    row: int = Sizes.row
    context: int = Sizes.context
    steps: int = 5000
    batch: int = 65536
    learning_rate: float = 0.001
    cut_context: float = 0.25
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_common(self)
        if self.batch < self.sizes.row:
            raise UserError(f"--batch {self.batch}: give at least --row bytes ({self.row})")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {self.device}: give auto, cpu or cuda")

    @property
    def sizes(self) -> Sizes:
        """Of the network."""
        names = ("layers", "width", "heads", "hidden", "row", "context")
        return Sizes(**{name: getattr(self, name) for name in names})


def trainee(text: Text, held_out: Text, options: PaperOptions) -> Trainee:
    """The model before its first step.

    Args:
        text: to train on, at least a row.
        held_out: not empty; some rows of it are tried now and then.
        options: see `PaperOptions`.

    Raises:
        UserError: no GPU where one is asked for.
    """
    import torch

    from compressor_model.network import ByteTransformer

    device = resolve_device(options.device)
    module = ByteTransformer(options.sizes, options.seed).to(device)
    network = torch.compile(module, dynamic=False) if device == "cuda" else module

    def loss(step: int) -> Any:
        long, short = drawn(text, options, step)
        parts = [(long, options.row, False), (short, SHORT_ROW, True)]
        sums = [loss_of(network, text, rows, length, begin=begin) for rows, length, begin in parts if len(rows)]
        return sum(sums) / (len(long) * options.row + len(short) * SHORT_ROW)

    def held_out_bits() -> float:
        length = min(options.row, len(held_out.data))
        count = min(len(held_out.data) // length, _HELD_OUT_ROWS)
        starts: I64 = np.arange(count, dtype=np.int64) * (len(held_out.data) - length) // max(count - 1, 1)
        with torch.no_grad():
            nats = sum(float(loss_of(network, held_out, start[None], length, begin=False)) for start in starts)
        return nats / (len(starts) * length) / math.log(2)

    matrices = [parameter for parameter in module.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in module.parameters() if parameter.ndim != 2]
    return Trainee(
        module=module,
        optimiser=torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
            betas=(0.9, 0.95),
            fused=True,
        ),
        loss=loss,
        rate=lambda step: (
            options.learning_rate * cosine(step, options.steps, warm_up=min(500, options.steps // 10), last=0.1)
        ),
        held_out=held_out_bits,
        steps=options.steps,
        batch=options.batch,
        clip=1.0,
        device=device,
    )


def weights_of(module: Any) -> dict[str, F32]:
    """The weights by name."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def drawn(text: Text, options: PaperOptions, step: int) -> tuple[I64, I64]:
    """First positions of a step's long and short rows; together `batch` bytes, or less than a short row fewer."""
    rng = np.random.default_rng([options.seed, step])
    long = int(options.batch * (1 - options.cut_context)) // options.row
    if options.cut_context < 1:
        long = max(1, long)
    short = (options.batch - long * options.row) // SHORT_ROW if options.cut_context else 0
    rows = rng.integers(0, len(text.data) - options.row + 1, long)
    return rows, rng.integers(0, len(text.data) - SHORT_ROW + 1, short)


def loss_of(network: Any, text: Text, positions: I64, length: int, *, begin: bool) -> Any:
    """Sum of the nats of the bytes in rows, a scalar tensor; arguments as of `rows_at`."""
    import torch
    from torch.nn import functional

    device = next(network.parameters()).device
    symbols, targets, starts = (
        torch.from_numpy(array).to(device) for array in rows_at(text, positions, length, begin=begin)
    )
    before = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    allowed = (starts[:, None, :, None] == starts[:, None, None, :]) & before
    with precision(device.type):
        logits = network(symbols, allowed)
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")


def rows_at(text: Text, positions: I64, length: int, *, begin: bool) -> tuple[I64, I64, I64]:
    """Rows of the text, each `length` bytes of it.

    Args:
        text: long enough that every row ends in it.
        positions: int64 [B], of the first byte predicted.
        length: T.
        begin: BEGIN stands before the first byte of a row wherever that is.

    Returns:
        Symbols, target bytes, and where each target's document starts, int64 [B, T] each.
    """
    places = positions[:, None] + np.arange(length)
    starts = text.start[places]
    fresh = places == starts
    if begin:
        fresh[:, 0] = True
    symbols = text.data[np.maximum(places - 1, 0)].astype(np.int64)
    symbols[fresh] = BEGIN
    return symbols, text.data[places].astype(np.int64), starts
