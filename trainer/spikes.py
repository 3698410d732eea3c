"""What becomes of a step whose loss or gradient is not what steps look like.

  - not finite: the update is left out, the batch is spent, and training goes on; BAD_STEPS of them in a row end the
    run, since the weights themselves are broken then;
  - a spike (a gradient norm above `factor` times the median of the last WINDOW ones): logged, and clipped to norm 1 as
    every gradient is; the update is left out too where the run asks for that.
Nothing here is random, and its memory is part of a checkpoint, so a resumed run decides the same.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import UserError

BAD_STEPS = 3
"""In a row that are not finite, until the run ends."""

WINDOW = 128
"""Gradient norms that a spike is told by."""

ENOUGH = 32
"""Norms that must be known before any is a spike: at the start they fall steeply."""


@dataclass
class StepGuard:
    """The judge of a run's steps.

    Attributes:
        factor: times the median that make a spike.
        skip_spikes: whether their updates are left out.
    """

    factor: float
    skip_spikes: bool
    _norms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _bad: int = 0

    def judge(self, step: int, loss: float, norm: float) -> tuple[bool, bool]:
        """Whether to make the update of a step, and whether it is a spike.

        Args:
            step: 0-based, for messages.
            loss: of the step.
            norm: of the gradient before clipping.

        Raises:
            UserError: BAD_STEPS in a row were not finite.
        """
        if not math.isfinite(loss) or not math.isfinite(norm):
            self._bad += 1
            if self._bad == BAD_STEPS:
                raise UserError(
                    f"step {step}: the loss is {loss} and the gradient norm {norm}, not finite {BAD_STEPS} times in a "
                    "row; nothing was saved of these steps: lower --peak-rate and start the same run again from its "
                    "last checkpoint"
                )
            return False, False
        self._bad = 0
        spike = len(self._norms) >= ENOUGH and norm > self.factor * statistics.median(self._norms)
        self._norms.append(norm)
        return not (spike and self.skip_spikes), spike

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"norms": list(self._norms), "bad": self._bad}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        norms: Sequence[float] = state["norms"]
        self._norms.clear()
        self._norms.extend(norms)
        self._bad = int(state["bad"])
