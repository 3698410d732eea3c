"""What a run costs: memory before it starts, operations a symbol, what the device can do.

Of memory only what is certain is counted: weights, gradients and the two moments of AdamW, all fp32, 16 bytes a
parameter. Activations come on top.
"""

import resource
from pathlib import Path

import torch

from schemas.errors import UserError
from trainer.model.evabyte import ModelConfig, parameters
from trainer.scales import SCALES

BYTES_PER_PARAMETER = 16
"""Weight, gradient and AdamW's two moments in fp32."""

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bf16 operations a second by the vendor's data sheets (SXM boards), by a part of the device's name."""

_CGROUP = Path("/sys/fs/cgroup")


def state_bytes(config: ModelConfig) -> int:
    """Bytes of weights, gradients and optimiser."""
    return BYTES_PER_PARAMETER * parameters(config)


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


def available_bytes() -> int | None:
    """Memory free on this machine, or its control group's limit if that is less; None: unknown."""
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
    return min(found) if found else None


def check_fits(scale: str, config: ModelConfig, available: int | None, processes: int = 1) -> None:
    """Refuse a model that cannot be trained on this machine.

    Args:
        scale: its name.
        config: its sizes.
        available: bytes; None: unknown, and nothing is refused.
        processes: that share one copy of the model, on machines like this one or on this one: the whole of it is only
            refused if one process's share does not fit.

    Raises:
        UserError: with what is missing and the largest scale that fits.
    """
    needed = state_bytes(config) // processes
    if available is None or needed <= available:
        return
    fitting = [
        name
        for name, other in SCALES.items()
        if state_bytes(
            ModelConfig.of(
                other,
                vocabulary_size=config.vocabulary_size,
                main_heads=config.main_heads,
                raw_heads=config.raw_heads,
            )
        )
        <= available
    ]
    fits = f"SCALE={fitting[-1]} would fit" if fitting else "no scale would fit"
    raise UserError(
        f"SCALE={scale}: {parameters(config):,} parameters need {needed / 1e9:,.1f} GB for weights, gradients and "
        f"AdamW, before activations; {available / 1e9:,.1f} GB of memory are free; {fits}"
    )
