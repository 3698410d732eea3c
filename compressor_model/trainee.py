"""A byte LM in training: what the loop needs of either kind, and all that a resumed run must have again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class Trainee:
    """A model in training.

    Attributes:
        module: torch module, fp32 parameters.
        optimiser: of its parameters, in one group.
        loss: mean nats per byte of a step's batch, a scalar tensor; all that it draws, it draws by the step.
        rate: learning rate of a step.
        held_out: bits per byte on held-out text, of the weights as they are.
        steps: in all.
        batch: bytes of a step.
        clip: largest gradient norm; None leaves gradients alone.
        device: of the module.
    """

    module: Any
    optimiser: Any
    loss: Callable[[int], Any]
    rate: Callable[[int], float]
    held_out: Callable[[], float]
    steps: int
    batch: int
    clip: float | None
    device: str

    def tensors(self) -> dict[str, Any]:
        """Weights and the optimiser's state by name."""
        tensors = {f"module.{name}": value.detach() for name, value in self.module.named_parameters()}
        for number, fields in self.optimiser.state_dict()["state"].items():
            for name, value in fields.items():
                tensors[f"optimiser.{number}.{name}"] = value
        return {name: value.contiguous() for name, value in tensors.items()}

    def load(self, saved: dict[str, Any]) -> None:
        """Take what `tensors` gave.

        Raises:
            KeyError: a name is missing.
            ValueError: a name is foreign.
            RuntimeError: a shape is another.
        """
        import torch

        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(saved[f"module.{name}"])
        fields: dict[int, dict[str, Any]] = {}
        for key, value in saved.items():
            if key.startswith("optimiser."):
                _, number, name = key.split(".")
                fields.setdefault(int(number), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": fields})
