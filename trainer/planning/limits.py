"""What a run costs and what a device can do: memory before it starts, operations an id, peaks.

A run is refused only where it is sure to fail: what is certain, weights, gradients and the two moments of AdamW, does
not fit, or the predicted memory of a step (`memory.py`) is so far above what is free that its error cannot be why.
The refusal names what would fit, found by trying settings in the same prediction.
"""

import math
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from schemas.errors import UserError
from trainer.model.evabyte import ModelConfig, Recompute, parameters
from trainer.planning.memory import RECOMPUTES, Memory, Share, StepShape, predict
from trainer.scales import SCALES

NUMBERS_PER_PARAMETER = 4
"""Weight, gradient and AdamW's two moments."""

PREDICTED_WITHIN = 0.1
"""Share by which a predicted step may be wrong (tests/trainer/test_memory_plan.py holds it to that)."""

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bf16 operations a second by the vendor's data sheets (SXM boards), by a part of the device's name."""

GPU_MEMORY = {"H100": 79 << 30, "H200": 139 << 30, "A100": 79 << 30, "B200": 178 << 30}
"""Bytes that programs find on those boards (of the 80 GB model of A100), a little below the name's."""

_CGROUP = Path("/sys/fs/cgroup")


def state_bytes(config: ModelConfig, number_bytes: int = 4) -> int:
    """Bytes of weights, gradients and optimiser, with numbers of 4 bytes or 8."""
    return NUMBERS_PER_PARAMETER * number_bytes * parameters(config)


def flops_per_symbol(config: ModelConfig, sequence: int) -> int:
    """Operations of a training step for each id, as the published trainer counts them.

    6 (parameters - V D) + 14 L D (T / 2 c + w): two for each weight forward, four backward; attention over a whole
    window and over the mean number of summaries. What is recomputed does not count (model specification, section 5).

    Args:
        config: sizes.
        sequence: T.
    """
    products = parameters(config) - config.vocabulary_size * config.dim
    attention = config.layers * config.dim * (sequence // (2 * config.chunk) + config.window)
    return 6 * products + 14 * attention


def executed_flops_per_symbol(config: ModelConfig, step: StepShape) -> float:
    """Operations that are really done for each id of one long document, in matrix products and attention.

    The published formula counts a whole window of keys: a causal mask leaves half of it on average. It leaves out
    what is recomputed: with `full` the blocks' forward pass but its last product.

    Args:
        config: sizes.
        step: how it is made.
    """
    in_blocks = config.layers * (4 * config.dim**2 + 3 * config.dim * config.ffn)
    heads = Share.whole(config).heads
    keys = (config.window + 1) / 2 + (step.sequence - config.window) / (2 * config.chunk)
    attention = config.layers * config.dim * keys
    last = config.layers * config.dim * config.ffn  # of its result nothing depends but what is kept
    again = 2 * (in_blocks - last) + 4 * attention if step.recompute == "full" else 0.0
    return 6 * (in_blocks + heads) + 14 * attention + again


def peak_flops(device: torch.device) -> float | None:
    """Operations a second that the device can do in bf16; None if it is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held so far, on the GPU if it has one."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_bytes(device: torch.device | None = None) -> int | None:
    """Memory free for this process: its GPU's, or its part of this machine's or its control group's; None: unknown.

    Args:
        device: that the process computes on; None: a CPU, shared with the other processes of the launcher.
    """
    if device is not None and device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        return None
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            found.append(int((_CGROUP / limit).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    together = os.environ.get("LOCAL_WORLD_SIZE", "1")  # of torchrun
    return min(found) // max(int(together) if together.isdecimal() else 1, 1) if found else None


def check_fits(
    scale: str, config: ModelConfig, available: int | None, processes: int = 1, *, step: StepShape | None = None
) -> None:
    """Refuse a model that cannot be trained on this machine.

    Args:
        scale: its name.
        config: its sizes.
        available: bytes free for one process; None: unknown, and nothing is refused.
        processes: that share one copy of the model, on machines like this one or on this one: the whole of it is only
            refused if one process's share does not fit.
        step: how a process makes its part of a step; None: activations are not looked at.

    Raises:
        UserError: with what is missing and what would fit.
    """
    if available is None:
        return
    needed = state_bytes(config, step.stored_bytes if step else 4) // processes
    if needed > available:
        share = f" in each of {processes} processes" if processes > 1 else ""
        raise UserError(
            f"SCALE={scale}: {parameters(config):,} parameters need {_gb(needed)} for weights, gradients and AdamW"
            f"{share}, before activations; {_gb(available)} of memory are free, {_gb(needed - available)} too few; "
            f"{_largest_scale(config, available, processes, step)}; in parts, {-(-needed * processes // available):,} "
            f"processes with as much memory would hold it (make plan SCALE={scale})"
        )
    if step is None or needed + _most_activations(config, step) <= available:
        return
    predicted = predict(config, step, Share.whole(config).over(processes))
    if predicted.total * (1 - PREDICTED_WITHIN) <= available:
        return
    found = [
        f"{describe(other)} ({_gb(memory.total)})"
        for other, memory in steps_that_fit(config, step, Share.whole(config).over(processes), available)
    ]
    fits = f"would fit: {' or '.join(found)}" if found else _largest_scale(config, available, processes, step)
    raise UserError(
        f"SCALE={scale}: a step of {describe(step)} needs {_gb(predicted.total)}, {_gb(needed)} of them for weights, "
        f"gradients and AdamW; {_gb(available)} of memory are free, {_gb(predicted.total - available)} too few; {fits}"
    )


def describe(step: StepShape) -> str:
    """The options that make a step larger or smaller."""
    return f"--micro-batch {step.micro_batch} --recompute {step.recompute}"


def steps_that_fit(
    config: ModelConfig, step: StepShape, share: Share, available: float
) -> Iterator[tuple[StepShape, Memory]]:
    """Of each way to recompute from the step's own on, the largest micro-batch that fits, if one does.

    Args:
        config: sizes.
        step: one that is too large; its micro-batches together are what a process has to do.
        share: of the parameters that a process stores.
        available: bytes.
    """
    sequences = step.micro_batch * step.micro_batches
    sizes = [size for size in range(1, step.micro_batch + 1) if sequences % size == 0]
    for recompute in RECOMPUTES[RECOMPUTES.index(step.recompute) :]:

        def of_size(micro_batch: int, recompute: Recompute = recompute) -> tuple[StepShape, Memory] | None:
            count = sequences // micro_batch
            other = replace(step, recompute=recompute, micro_batch=micro_batch, micro_batches=count)
            memory = predict(config, other, share)
            return (other, memory) if memory.total <= available else None

        # by itself: one micro-batch keeps no gradients, so it may fit where a smaller one does not
        best = of_size(sizes[-1])
        low, high = (0, len(sizes) - 2) if best is None else (1, 0)
        while low <= high:
            middle = low if best is None else (low + high + 1) // 2  # the smallest first: mostly it decides
            found = of_size(sizes[middle])
            if found is None and best is None:
                break
            best, low, high = (best, low, middle - 1) if found is None else (found, middle + 1, high)
        if best is not None:
            yield best


def _largest_scale(config: ModelConfig, available: int, processes: int, step: StepShape | None) -> str:
    """The largest scale that could be trained instead, with the options that it needs."""
    for name, scale in reversed(SCALES.items()):
        other = ModelConfig.of(
            scale,
            vocabulary_size=config.vocabulary_size,
            main_heads=config.main_heads,
            raw_heads=config.raw_heads,
        )
        if state_bytes(other, step.stored_bytes if step else 4) // processes > available:
            continue
        if step is None:
            return f"SCALE={name} would fit"
        # the smallest step there is of that scale, many times
        least = replace(step, sequence=scale.sequence, micro_batch=1, micro_batches=2, recompute="full")
        if predict(other, least, Share.whole(other).over(processes)).total <= available:
            return f"SCALE={name} ARGS='{describe(least)}' would fit"
    return "no scale would fit"


def _most_activations(config: ModelConfig, step: StepShape) -> int:
    """More bytes than the activations of any step are, without looking: small runs start at once.

    A block keeps about 24 numbers of D and 4 of F for an id; here it is three times as many, in the stored width, and
    what the loss takes, masks and the work on a block are within that or the slices of logits added to it.
    """
    in_block = 72 * config.dim + 12 * config.ffn
    ids = step.sequence * step.micro_batch
    heads = 4 * Share.whole(config).heads + 2048 * config.vocabulary_size * config.main_heads
    masks = 2 << 27
    return math.ceil(step.stored_bytes * (ids * in_block * (config.layers + 2) + heads)) + masks


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
