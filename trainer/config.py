"""Options of a training run: frozen, checked, saved with the run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.errors import UserError
from schemas.vocabulary import COMP_OFFSET
from trainer.data.options import LoaderOptions
from trainer.data.views import COMP_RATE, Mode
from trainer.model.evabyte import ModelConfig, Recompute
from trainer.planning.budget import Budget
from trainer.planning.limits import flops_per_symbol
from trainer.scales import Scale, scale_named

RUN_CONFIG = "config.json"
"""In a run's folder: what the run is, for people and `restore`."""

CHECKPOINTS = "checkpoints"
"""In a run's folder, unless `--checkpoints` says otherwise."""

BYTES_HEADS = 8
"""Heads of a bytes-only model over 320 ids, as published."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a model on datasets of `make preprocess`; the same command resumes.

    Attributes:
        data: dataset folders or URLs.
        weights: of the datasets; equal ones if none.
        run: folder of the run; default runs/<dataset>-<scale>-<mode>.
        scale: tiny, 100m, 0.5b, 1.5b, 4b, 7b or 14b.
        mode: proxy, never-pair, always-pair, comp-only, bytes or no-sentinels.
        steps: optimiser steps N; default the scale's.
        symbols: budget of ids: N = ceil(symbols / (B T)).
        flops: budget of operations, as `make plan` counts them: N = ceil(flops / those of a step).
        raw_bytes: end the run when its raw views have shown so many bytes; needs steps.
        batch: B, sequences a step; default the scale's.
        sequence: T, ids a sequence; default the scale's.
        micro_batch: sequences of a forward pass; default all.
        peak_rate: of the learning rate; default the scale's.
        main_heads: P, 1 to 8; default 1, of bytes alone 8.
        raw_heads: R of a model with comp symbols, 0 to 7.
        loss: design (its weights) or reference (as published).
        head_weights: weight of each head in the loss, main ones first; default all the same.
        val_fraction: share of documents held out.
        ramp: steps over which r rises and pairs occur; default min(10,000, N // 5).
        pair_symbols: longest aligned part of a pair; default T // 2.
        comp_rate: r after the ramp, the share of comp among views.
        raw_fraction: share of the training documents, or of their pieces, that raw views and pairs are of, again and
            again, while comp views are of all: raw text starved, comp text not; drawn by the seed. With MODE=bytes
            the run has these alone.
        validate_every: steps between two figures on held-out raw documents; the last step gives one too; 0: none.
        validate_bytes: of those documents.
        seed: of the run.
        spike_factor: a gradient norm above so many times the median of the last 128 is logged as a spike.
        skip_spikes: leave out the update of a spike (one that is not finite is always left out; three in a row end the
            run).
        checkpoint_every: steps between checkpoints; the last step and an interruption save too.
        keep: checkpoints to keep; 0 keeps all.
        checkpoints: folder or URL of the checkpoints; default RUN/checkpoints.
        background_checkpoints: write them while training goes on, from a copy in main memory.
        init_from: folder of `export`, or of a published model, to start from instead of drawing one.
        afresh: start from nothing even if the run has checkpoints.
        threads: of torch; default all cores.
        device: cpu or cuda; default cuda if there is one.
        precision: fp32, bf16 or fp64 of the computation; default bf16 on a GPU, fp32 on a CPU.
        recompute: activations to make anew in the backward pass, for less memory: none, selective or full.
        compile: each block by torch.compile; default on a GPU.
        replicas: copies of the model among the processes (HSDP); 1 shares one copy among all (FSDP).
        prefetch: batches made ahead.
        tensorboard: write event files.
        profile_steps: of which each process writes a trace into RUN/traces, from the sixth step on; 0: none.
    """

    data: tuple[str, ...] = ("data/stdlib-neural",)
    weights: tuple[float, ...] = ()
    run: str | None = None
    scale: str = "tiny"
    mode: Mode = Mode.PROXY
    steps: int | None = None
    symbols: int | None = None
    flops: float | None = None
    raw_bytes: int | None = None
    batch: int | None = None
    sequence: int | None = None
    micro_batch: int | None = None
    peak_rate: float | None = None
    main_heads: int | None = None
    raw_heads: int = 1
    loss: Literal["design", "reference"] = "design"
    head_weights: tuple[float, ...] = ()
    val_fraction: float = 0.005
    ramp: int | None = None
    pair_symbols: int | None = None
    comp_rate: float = COMP_RATE
    raw_fraction: float = 1.0
    validate_every: int = 500
    validate_bytes: int = 1 << 17
    seed: int = 0
    spike_factor: float = 10.0
    skip_spikes: bool = False
    checkpoint_every: int = 500
    keep: int = 3
    checkpoints: str | None = None
    background_checkpoints: bool = True
    init_from: str | None = None
    afresh: bool = False
    threads: int | None = None
    device: Literal["cpu", "cuda"] | None = None
    precision: Literal["fp32", "bf16", "fp64"] | None = None
    recompute: Recompute = "none"
    compile: bool | None = None
    replicas: int = 1
    prefetch: int = 2
    tensorboard: bool = True
    profile_steps: int = 0

    def __post_init__(self) -> None:
        self.budget.is_spent(0)  # making it checks it
        if self.flops is not None and self.init_from is not None:
            raise UserError(
                f"--flops {self.flops:g} counts the scale's sizes; with --init-from give --steps or --symbols"
            )
        if self.main_heads is not None and not 1 <= self.main_heads <= BYTES_HEADS:
            raise UserError(f"--main-heads {self.main_heads}: give 1 to {BYTES_HEADS}")
        if not 0 <= self.raw_heads <= 7:
            raise UserError(f"--raw-heads {self.raw_heads}: give 0 to 7")
        if self.checkpoint_every < 1 or self.keep < 0:
            raise UserError("--checkpoint-every must be 1 or more, --keep 0 or more")
        if self.validate_every < 0 or self.validate_bytes < 1 or self.profile_steps < 0:
            raise UserError("--validate-every and --profile-steps must be 0 or more, --validate-bytes 1 or more")
        if not self.spike_factor > 1:
            raise UserError(f"--spike-factor {self.spike_factor}: give a number above 1")
        if self.peak_rate is not None and not self.peak_rate > 0:
            raise UserError(f"--peak-rate {self.peak_rate}: give a number above 0")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"--threads {self.threads}: give 1 or more")

    @property
    def sizes(self) -> Scale:
        """The scale's sizes."""
        return scale_named(self.scale)

    @property
    def budget(self) -> Budget:
        """How long the run is.

        Raises:
            UserError: two lengths, or one of nothing.
        """
        return Budget(steps=self.steps, symbols=self.symbols, flops=self.flops, raw_bytes=self.raw_bytes)

    @property
    def folder(self) -> Path:
        """Of the run."""
        if self.run is not None:
            return Path(self.run)
        dataset = self.data[0].rstrip("/").rsplit("/", 1)[-1]
        return Path("runs") / f"{dataset}-{self.scale}-{self.mode.value}"

    @property
    def checkpoint_place(self) -> str:
        """Folder or URL of the checkpoints."""
        return self.checkpoints or str(self.folder / CHECKPOINTS)

    def model(self, vocabulary_size: int) -> ModelConfig:
        """The model of the scale with the heads of the mode."""
        main_heads, raw_heads = (BYTES_HEADS, 0) if self.mode is Mode.BYTES else (1, self.raw_heads)
        return ModelConfig.of(
            self.sizes, vocabulary_size=vocabulary_size, main_heads=self.main_heads or main_heads, raw_heads=raw_heads
        )  # fmt: skip

    def loader(self, vocabulary_size: int = COMP_OFFSET) -> LoaderOptions:
        """The options of the loader.

        Args:
            vocabulary_size: of the model; only a budget of operations depends on it.

        Raises:
            UserError: sizes that cannot be.
        """
        scale = self.sizes
        batch, sequence = self.batch or scale.batch, self.sequence or scale.sequence
        if sequence % scale.window:
            raise UserError(f"--sequence {sequence}: expected a multiple of the window of {scale.window} ids")
        model = self.model(vocabulary_size)
        symbols = batch * sequence
        steps = self.budget.resolve(scale.steps, symbols, symbols * flops_per_symbol(model, sequence))
        heads, given = model.main_heads + model.raw_heads, self.head_weights
        if given and (len(given) != heads or min(given) < 0 or given[0] == 0):
            raise UserError(
                f"--head-weights {' '.join(map(str, given))}: give {heads} numbers, one a head, none below 0 and the "
                "first above it"
            )
        return LoaderOptions(
            data=self.data,
            weights=self.weights,
            batch=batch,
            sequence=sequence,
            steps=steps,
            seed=self.seed,
            val_fraction=self.val_fraction,
            mode=self.mode,
            ramp=self.ramp,
            pair_symbols=self.pair_symbols,
            comp_rate=self.comp_rate,
            raw_fraction=self.raw_fraction,
            main_heads=model.main_heads,
            raw_heads=model.raw_heads,
            reference_loss=self.loss == "reference",
            micro_batch=self.micro_batch,
            prefetch=self.prefetch,
        )
