"""AdamW and its schedule, as published (model specification, section 5).

Weight decay is on all parameters, norm gains and embeddings included; the first update has rate 0.
"""

import math
from collections.abc import Iterable

import torch

BETAS = (0.9, 0.95)
EPS = 1e-15
WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
LEAST_FACTOR = 0.1
MAX_WARMUP = 500


def warmup_steps(steps: int) -> int:
    """Steps of linear warm-up: min(500, N // 10)."""
    return min(MAX_WARMUP, steps // 10)


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Learning rate of a 0-based step as a share of the peak.

    n / warmup, then a cosine from 1 to 0.1 over the other steps.
    """
    if step < warmup:
        return step / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return LEAST_FACTOR + (1 - LEAST_FACTOR) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))


def adamw(parameters: Iterable[torch.nn.Parameter], peak_rate: float) -> torch.optim.AdamW:
    """The optimiser; the trainer sets its rate before each step."""
    return torch.optim.AdamW(
        list(parameters), lr=peak_rate, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True
    )
