"""`python -m trainer plan`: what a run of any size takes, on GPUs that need not be there.

Parameters, memory of a GPU by part, operations, time, GPU-hours, cost. The model is built on the meta device and shared
out among as many processes as there are GPUs by a process group that only pretends, so sizes of parts are FSDP's own;
memory is that of `memory.py`. Seconds on one core, whatever the size. See docs/plan.md for how each number is made.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist

from schemas.errors import UserError
from schemas.vocabulary import COMP_OFFSET
from trainer.config import BYTES_HEADS
from trainer.data.dataset import Dataset
from trainer.data.views import COMP_RATE
from trainer.model.evabyte import EvaByte, ModelConfig, Recompute, parameters
from trainer.parallel import Processes, shard
from trainer.planning.budget import Budget, raw_share, steps_for, text_share
from trainer.planning.limits import (
    GPU_MEMORY,
    PEAK_FLOPS,
    describe,
    executed_flops_per_symbol,
    flops_per_symbol,
    steps_that_fit,
)
from trainer.planning.memory import RECOMPUTES, Memory, Share, StepShape, at_once, predict
from trainer.scales import Scale, scale_named

DEFAULT_VOCABULARY = COMP_OFFSET + (1 << 16)
"""Of the shipped compressor with 16 bits, whose symbols stand for this many bytes of its own kind of text:"""

DEFAULT_BYTES_PER_SYMBOL = 2.69

RESERVE = 3 << 30
"""Bytes of a GPU that are not the step's: the CUDA context, buffers of nccl, gaps of the allocator."""

MOST_GPUS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Say what a run takes: memory of each GPU, operations, days, GPU-hours, price.

    Attributes:
        scale: tiny, 100m, 0.5b, 1.5b, 4b, 7b or 14b.
        gpus: number of them; each has a process.
        replicas: copies of the model (HSDP); 1 shares one copy among all (FSDP).
        sequence: T, ids a sequence; default the scale's.
        batch: B, sequences a step; default the scale's.
        micro_batch: sequences of a forward pass; default all of a GPU's.
        recompute: none, selective or full.
        precision: bf16 or fp32.
        vocabulary: ids; default those of the shipped 16-bit neural proxy, 320 is bytes alone.
        data: a dataset, to take vocabulary and bytes per symbol from.
        main_heads: P; default 1, of bytes alone 8.
        raw_heads: R; default 1, of bytes alone 0.
        gpu: h100, h200, a100 (80 GB) or b200.
        peak_tflops: of a GPU, instead of the table's bf16 figure.
        gpu_memory: of a GPU in GB (1e9 bytes), instead of the table's.
        mfu: share of the peak that the model's operations reach.
        steps: of the run; default the scale's.
        symbols: budget of ids.
        raw_bytes: budget of bytes shown raw.
        flops: budget of operations.
        bytes_per_symbol: of the comp view.
        price: of a GPU for an hour, in any currency.
        json: print one JSON object.
    """

    scale: str = "7b"
    gpus: int = 1
    replicas: int = 1
    sequence: int | None = None
    batch: int | None = None
    micro_batch: int | None = None
    recompute: Recompute = "none"
    precision: Literal["bf16", "fp32"] = "bf16"
    vocabulary: int | None = None
    data: str | None = None
    main_heads: int | None = None
    raw_heads: int | None = None
    gpu: Literal["h100", "h200", "a100", "b200"] = "h100"
    peak_tflops: float | None = None
    gpu_memory: float | None = None
    mfu: float = 0.4
    steps: int | None = None
    symbols: int | None = None
    raw_bytes: int | None = None
    flops: float | None = None
    bytes_per_symbol: float | None = None
    price: float | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.gpus <= MOST_GPUS:
            raise UserError(f"--gpus {self.gpus}: give 1 to {MOST_GPUS:,}")
        if self.replicas < 1 or self.gpus % self.replicas:
            raise UserError(f"--replicas {self.replicas}: give a divisor of --gpus {self.gpus}")
        if not 0 < self.mfu <= 1:
            raise UserError(f"--mfu {self.mfu}: give a share above 0, at most 1; 0.4 is usual")
        for name in ("sequence", "batch", "micro_batch", "peak_tflops", "gpu_memory", "bytes_per_symbol", "price"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name.replace('_', '-')} {value}: give a number above 0")
        if self.precision == "fp32" and self.peak_tflops is None:
            raise UserError("--precision fp32: give --peak-tflops too, the table has the peaks of bf16")
        if self.vocabulary is not None and self.data is not None:
            raise UserError(f"--vocabulary {self.vocabulary} and --data {self.data}: give one of them")
        if self.raw_bytes is not None and (self.symbols is not None or self.flops is not None):
            raise UserError("--raw-bytes: give it alone or with --steps")
        self.budget.is_spent(0)  # checks it

    @property
    def budget(self) -> Budget:
        """Of steps; raw bytes are estimated, so they need none."""
        if self.raw_bytes is not None and self.raw_bytes < 1:
            raise UserError(f"--raw-bytes {self.raw_bytes}: give 1 or more")
        return Budget(steps=self.steps, symbols=self.symbols, flops=self.flops)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run to plan: sizes resolved and checked.

    Attributes:
        scale: its name.
        model: its sizes.
        gpus: number of processes.
        replicas: copies of the model.
        batch: B.
        step: how a process makes its part of a step.
        bytes_per_symbol: of comp symbols; None: unknown. Of bytes alone 1.
        rate: r after the ramp; 0 for bytes alone.
    """

    scale: Scale
    model: ModelConfig
    gpus: int
    replicas: int
    batch: int
    step: StepShape
    bytes_per_symbol: float | None
    rate: float

    @classmethod
    def of(cls, options: PlanOptions) -> "Run":
        """From options.

        Raises:
            UserError: sizes that cannot be, no dataset.
        """
        scale = scale_named(options.scale)
        size, bytes_per_symbol = options.vocabulary or DEFAULT_VOCABULARY, options.bytes_per_symbol
        if options.data is not None:
            dataset = Dataset(options.data)
            size, totals = dataset.vocabulary.size, dataset.manifest.totals
            bytes_per_symbol = bytes_per_symbol or (
                totals.raw_bytes / totals.comp_symbols if totals.comp_symbols else 1
            )
        elif size == DEFAULT_VOCABULARY:
            bytes_per_symbol = bytes_per_symbol or DEFAULT_BYTES_PER_SYMBOL
        bytes_only = size == COMP_OFFSET
        main_heads, raw_heads = (BYTES_HEADS, 0) if bytes_only else (1, 1)
        batch, sequence = options.batch or scale.batch, options.sequence or scale.sequence
        if batch % options.gpus:
            raise UserError(f"--batch {batch}: --gpus {options.gpus} must divide it")
        if sequence % scale.window:
            raise UserError(f"--sequence {sequence}: expected a multiple of the window of {scale.window} ids")
        own = batch // options.gpus
        micro_batch = options.micro_batch or own
        if own % micro_batch:
            raise UserError(f"--micro-batch {micro_batch}: it must divide the {own} sequences of a GPU")
        return cls(
            scale=scale,
            model=ModelConfig.of(
                scale,
                vocabulary_size=size,
                main_heads=main_heads if options.main_heads is None else options.main_heads,
                raw_heads=raw_heads if options.raw_heads is None else options.raw_heads,
            ),
            gpus=options.gpus,
            replicas=options.replicas,
            batch=batch,
            step=StepShape(
                sequence=sequence,
                micro_batch=micro_batch,
                micro_batches=own // micro_batch,
                recompute=options.recompute,
                precision=options.precision,
                shared=True,
                gpu=True,
            ),
            bytes_per_symbol=1.0 if bytes_only else bytes_per_symbol,
            rate=0.0 if bytes_only else COMP_RATE,
        )

    @property
    def symbols_per_step(self) -> int:
        """B T."""
        return self.batch * self.step.sequence


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the steps of a run take.

    Attributes:
        flops_per_symbol: as the published trainer counts them; MFU and budgets do too.
        executed_flops_per_symbol: those really done.
        flops_per_step: for a whole batch.
        step_seconds: at the given MFU.
        symbols_per_second: of all GPUs.
        steps: of the run.
        symbols: ids of the run, padding included.
        text_bytes: that both views stand for, after the ramp's rate; None: bytes per symbol are not known.
        raw_bytes: of them in raw views.
        flops: of the run.
        days: of the run, without stops.
        gpu_hours: of all GPUs.
        price: of them; None: not asked.
    """

    flops_per_symbol: int
    executed_flops_per_symbol: float
    flops_per_step: int
    step_seconds: float
    symbols_per_second: float
    steps: int
    symbols: int
    text_bytes: float | None
    raw_bytes: float | None
    flops: int
    days: float
    gpu_hours: float
    price: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run and all that it takes.

    Attributes:
        run: it.
        share: parameters that the first GPU stores; no other stores more.
        memory: of that GPU at its fullest moment.
        at_once: bytes that the loss and a block's backward pass take when it is their turn.
        by_recompute: total bytes of the same step under each way to recompute.
        capacity: bytes of a GPU that a step may take.
        cost: of the run.
        checkpoint_bytes: of one: parameters and AdamW's moments.
        fitting: settings that fit instead, with their bytes; empty if this one does, or none was found.
    """

    run: Run
    share: Share
    memory: Memory
    at_once: dict[str, int]
    by_recompute: dict[str, int]
    capacity: int
    cost: Cost
    checkpoint_bytes: int
    fitting: dict[str, int]

    @property
    def fits(self) -> bool:
        """Whether the step fits in a GPU."""
        return self.memory.total <= self.capacity


def plan(options: PlanOptions) -> None:
    """Print the plan of a run.

    Raises:
        UserError: options that cannot be, no dataset.
    """
    made = make_plan(options)
    text = json.dumps(to_json(made), indent=1) if options.json else "\n".join(lines(made, options))
    sys.stdout.write(text + "\n")


def make_plan(options: PlanOptions) -> Plan:
    """The plan of a run; ends with no process group, as it began.

    Raises:
        UserError: options that cannot be, no dataset, a process group.
    """
    run = Run.of(options)
    share = share_of_first(run.model, run.gpus, run.replicas)
    memory = predict(run.model, run.step, share)
    table = GPU_MEMORY[options.gpu.upper()]
    capacity = (round(options.gpu_memory * 1e9) if options.gpu_memory else table) - RESERVE
    return Plan(
        run=run,
        share=share,
        memory=memory,
        at_once=at_once(run.model, run.step),
        by_recompute={way: predict(run.model, replace(run.step, recompute=way), share).total for way in RECOMPUTES},
        capacity=capacity,
        cost=cost_of(run, options),
        checkpoint_bytes=3 * run.step.stored_bytes * parameters(run.model),
        fitting={} if memory.total <= capacity else settings_that_fit(run, share, capacity),
    )


def share_of_first(model: ModelConfig, processes: int, replicas: int) -> Share:
    """Parameters that the first of some processes stores, as FSDP shares them out, which rounds up for it.

    Raises:
        UserError: this process is one of a group already.
    """
    # registers the group that only pretends
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise UserError("plan: run it as one process, not by torchrun")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        with torch.device("meta"):
            shared = EvaByte(model)
        shard(shared, Processes(0, processes, torch.device("cpu")), replicas=replicas, precision=None)
        return Share.of(shared)
    finally:
        dist.destroy_process_group()


def cost_of(run: Run, options: PlanOptions) -> Cost:
    """Operations and time of a run.

    Raises:
        UserError: a budget of raw bytes without bytes per symbol.
    """
    per_symbol = flops_per_symbol(run.model, run.step.sequence)
    per_step = per_symbol * run.symbols_per_step
    steps = options.budget.resolve(run.scale.steps, run.symbols_per_step, per_step)
    shares = None
    if run.bytes_per_symbol is not None:
        shares = text_share(run.bytes_per_symbol, run.rate), raw_share(run.bytes_per_symbol, run.rate)
    if options.raw_bytes is not None:
        if shares is None:
            raise UserError(f"--raw-bytes {options.raw_bytes:,}: give --bytes-per-symbol too, or --data for them")
        until = steps_for(options.raw_bytes / shares[1], run.symbols_per_step)
        steps = until if options.steps is None else min(steps, until)
    peak = options.peak_tflops * 1e12 if options.peak_tflops else PEAK_FLOPS[options.gpu.upper()]
    step_seconds = per_step / (run.gpus * peak * options.mfu)
    symbols, hours = steps * run.symbols_per_step, steps * step_seconds / 3600
    return Cost(
        flops_per_symbol=per_symbol,
        executed_flops_per_symbol=executed_flops_per_symbol(run.model, run.step),
        flops_per_step=per_step,
        step_seconds=step_seconds,
        symbols_per_second=run.symbols_per_step / step_seconds,
        steps=steps,
        symbols=symbols,
        text_bytes=None if shares is None else symbols * shares[0],
        raw_bytes=None if shares is None else symbols * shares[1],
        flops=steps * per_step,
        days=hours / 24,
        gpu_hours=hours * run.gpus,
        price=None if options.price is None else hours * run.gpus * options.price,
    )


def settings_that_fit(run: Run, share: Share, capacity: int) -> dict[str, int]:
    """Settings that fit where the run's does not: with its GPUs, else the fewest more of them; bytes by options."""
    found = {describe(step): memory.total for step, memory in steps_that_fit(run.model, run.step, share, capacity)}
    gpus = 2 * run.gpus
    while not found and run.batch % gpus == 0:
        own = run.batch // gpus
        micro_batch = min(run.step.micro_batch, own)
        step = replace(run.step, micro_batch=micro_batch, micro_batches=own // micro_batch)
        more = Share.whole(run.model).over(gpus // run.replicas)
        for other, memory in steps_that_fit(run.model, step, more, capacity):
            found[f"--gpus {gpus} {describe(other)}"] = memory.total
        gpus *= 2
    return found


def to_json(made: Plan) -> dict[str, Any]:
    """All numbers of a plan; sizes in bytes, times in seconds unless they are named otherwise."""
    run, whole = made.run, Share.whole(made.run.model)
    return {
        "scale": run.scale.name,
        "model": asdict(run.model),
        "gpus": run.gpus,
        "replicas": run.replicas,
        "batch": run.batch,
        "step": asdict(run.step),
        "parameters": {**asdict(whole), "total": whole.total, "on_a_gpu": made.share.total},
        "memory": {"moment": made.memory.moment, **made.memory.parts, "total": made.memory.total},
        "at_once": made.at_once,
        "by_recompute": made.by_recompute,
        "capacity": made.capacity,
        "fits": made.fits,
        "would_fit": made.fitting,
        "cost": asdict(made.cost),
        "checkpoint_bytes": made.checkpoint_bytes,
    }


_PARTS = {
    "parameters": "fp32, of which a GPU stores its share",
    "moments": "AdamW's two, fp32, likewise",
    "gradients": "there at that moment",
    "gathered": "embedding, heads and two blocks whole, for the work",
    "reduction": "gradients on their way to other GPUs, fp32",
    "activations": "kept for the backward pass",
    "working": "logits and heads' gradient, or a block's backward pass",
    "batch": "ids, documents, positions, labels, weights",
}


def lines(made: Plan, options: PlanOptions) -> list[str]:
    """A plan to read."""
    run, cost, whole = made.run, made.cost, Share.whole(made.run.model)
    step = run.step
    kind = f"{options.gpu_memory:g} GB" if options.gpu_memory else options.gpu
    copies = f" in {run.replicas} copies" if run.replicas > 1 else ""
    passes = f"{step.micro_batches} {'pass' if step.micro_batches == 1 else 'passes'} of {step.micro_batch}"
    text = [
        f"SCALE={run.scale.name}: {whole.total:,} parameters (trunk {whole.trunk:,}, embedding {whole.embedding:,}, "
        f"heads {whole.heads:,}); vocabulary {run.model.vocabulary_size:,}, "
        f"{run.model.main_heads} + {run.model.raw_heads} heads",
        f"{run.gpus:,} {'GPU' if run.gpus == 1 else 'GPUs'} ({kind}){copies}: {run.batch} sequences of "
        f"{step.sequence:,} ids a step, on each GPU {passes}, {step.precision}, recompute {step.recompute}",
        "",
        f"memory of a GPU at its fullest, {made.memory.moment}:",
    ]
    text += [f"  {part:<12}{size / 1e9:>10,.2f} GB  {_PARTS[part]}" for part, size in made.memory.parts.items()]
    left = made.capacity - made.memory.total
    verdict = (
        f"fits, {left / 1e9:,.1f} GB to spare" if made.fits else f"does not fit, {-left / 1e9:,.1f} GB are missing"
    )
    text.append(f"  {'total':<12}{made.memory.total / 1e9:>10,.2f} GB  of {made.capacity / 1e9:,.1f}: {verdict}")
    ways = ", ".join(f"{way} {size / 1e9:,.1f} GB" for way, size in made.by_recompute.items())
    text += [
        f"  the loss takes {made.at_once['loss'] / 1e9:,.2f} GB, a block's backward pass "
        f"{made.at_once['block'] / 1e9:,.2f} GB, one after the other",
        f"  total by recompute: {ways}",
    ]
    if not made.fits:
        text += [f"  would fit: {setting} ({size / 1e9:,.1f} GB)" for setting, size in made.fitting.items()]
    if not made.fits and not made.fitting:
        text.append("  no setting would fit: take more --batch and --gpus, a shorter --sequence or a smaller --scale")
    text += [
        f"  {'checkpoint':<12}{made.checkpoint_bytes / 1e9:>10,.2f} GB  on disk",
        "",
        f"operations: {cost.flops_per_symbol:.4g} an id by the published formula "
        f"({cost.executed_flops_per_symbol:.4g} are done), {cost.flops_per_step:.3g} a step",
        f"time at MFU {options.mfu:g}: {_seconds(cost.step_seconds)} a step, {cost.symbols_per_second:,.0f} ids/s",
        f"run: {cost.steps:,} steps, {cost.symbols:,} ids, {cost.flops:.3g} operations, {_days(cost.days)}, "
        f"{cost.gpu_hours:,.1f} GPU-hours" + ("" if cost.price is None else f", price {cost.price:,.0f}"),
    ]
    if cost.text_bytes is not None and cost.raw_bytes is not None:
        text.append(
            f"text: {cost.text_bytes / 1e9:,.1f} GB by both views, {cost.raw_bytes / 1e9:,.1f} GB of them raw "
            f"({run.bytes_per_symbol:.2f} bytes a symbol, r = {run.rate:g})"
        )
    return text


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1e3:,.2f} ms"


def _days(value: float) -> str:
    return f"{value:,.2f} days" if value >= 1 else f"{value * 24:,.2f} hours"
