"""What a run needs before it starts: is there memory for the model?

Only what is certain is counted: weights, gradients and the two moments of AdamW, all fp32, 16 bytes a parameter.
Activations come on top.
"""

from pathlib import Path

from schemas.errors import UserError
from trainer.model.evabyte import ModelConfig, parameters
from trainer.scales import SCALES

BYTES_PER_PARAMETER = 16
"""Weight, gradient and AdamW's two moments in fp32."""

_CGROUP = Path("/sys/fs/cgroup")


def state_bytes(config: ModelConfig) -> int:
    """Bytes of weights, gradients and optimiser."""
    return BYTES_PER_PARAMETER * parameters(config)


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
