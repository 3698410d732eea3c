"""The table of scales: a model's sizes and the batch and peak rate that belong to them.

Nothing else in the trainer states a width or a depth. The published sizes are those of the paper's configurations;
`tiny` runs on one CPU core with every mechanism in use (four windows, so chunk summaries too), `100m` is for
studies. Vocabulary and number of heads belong to the run, not to the scale.
"""

from dataclasses import dataclass

from schemas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Init:
    """Standard deviations of the normals that parameters are drawn from; the defaults are the published ones.

    Attributes:
        inner: of the matrices that read the residual stream: q, k, v, gate, up.
        embedding: of the embedding.
    """

    inner: float = 0.02
    embedding: float = 1.0


PUBLISHED_INIT = Init()


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size of model with the batch it is trained on.

    Attributes:
        name: as in SCALE=name.
        dim: width of the residual stream.
        ffn: width of the gated feed-forward layer.
        layers: number of blocks.
        heads: attention heads, each dim / heads wide (128, but 64 at tiny).
        window: ids that attend to each other exactly.
        chunk: ids that one summary stands for.
        sequence: ids of a packed sequence (T).
        batch: sequences of an optimiser step over all ranks and micro-batches (B).
        steps: optimiser steps of a run, unless it says otherwise; the published sizes' are the paper's.
        peak_rate: highest learning rate of the schedule.
        init: how parameters are drawn. At `tiny` 0.02 would leave a layer's output at a fifth of its input (it grows
            with the root of the width), and steps of the peak rate would hardly move an embedding of 1: after 0.6 M
            ids the published one is 0.4 bits per byte behind (docs/LOG.md).
    """

    name: str
    dim: int
    ffn: int
    layers: int
    heads: int
    window: int
    chunk: int
    sequence: int
    batch: int
    steps: int
    peak_rate: float
    init: Init = PUBLISHED_INIT


def _published(name: str, dim: int, ffn: int, layers: int, heads: int, peak_rate: float) -> Scale:
    """A size of the paper: 64 sequences of 32,768 ids make its 2,097,152 ids a step."""
    return Scale(
        name=name, dim=dim, ffn=ffn, layers=layers, heads=heads, peak_rate=peak_rate,
        window=2048, chunk=8, sequence=32768, batch=64, steps=50_000,
    )  # fmt: skip


SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            name="tiny", dim=128, ffn=384, layers=4, heads=2, peak_rate=3e-3,
            window=256, chunk=8, sequence=1024, batch=8, steps=2000, init=Init(inner=0.06, embedding=0.2),
        ),
        Scale(
            name="100m", dim=768, ffn=3072, layers=12, heads=6, peak_rate=1.5e-3,
            window=1024, chunk=8, sequence=8192, batch=32, steps=20_000,
        ),
        _published("0.5b", 1024, 4096, 28, 8, 1.2e-3),
        _published("1.5b", 2048, 8192, 20, 16, 9e-4),
        _published("4b", 3072, 9216, 32, 24, 7e-4),
        _published("7b", 4096, 12288, 32, 32, 5e-4),
        _published("14b", 5120, 16384, 40, 40, 5e-4),
    )
}  # fmt: skip
"""All scales by name, smallest first."""


def scale_named(name: str) -> Scale:
    """The scale of that name.

    Raises:
        UserError: there is none; the text lists those there are.
    """
    if name not in SCALES:
        raise UserError(f"scale {name!r} is unknown; choose one of {', '.join(SCALES)}")
    return SCALES[name]
