"""What is known of a step: each process's own figures, and their sums over all processes."""

import math
import signal
from dataclasses import dataclass

import torch

from schemas.vocabulary import BYTE_OFFSET, COMP_OFFSET
from trainer.data.batch import Arrays, Batch
from trainer.parallel import Processes
from trainer.planning import limits


class ViewNats:
    """Head 0's cross-entropy by view, summed over micro-batches."""

    def __init__(self) -> None:
        self.raw_bytes = 0
        self.raw = 0.0
        self.comp = 0.0

    def add(self, arrays: Arrays, next_nats: torch.Tensor) -> None:
        """Count the raw bytes predicted in raw views, and everything in comp views."""
        nats = next_nats.cpu().numpy()
        label = arrays.labels[:, :, 0]
        byte = (arrays.view == 0) & (arrays.weights[:, :, 0] > 0) & (label >= BYTE_OFFSET) & (label < COMP_OFFSET)
        self.raw_bytes += int(byte.sum())
        self.raw += float(nats[byte].sum(dtype="float64"))
        self.comp += float(nats[arrays.view == 1].sum(dtype="float64"))


_SUMMED = ("raw_symbols", "comp_symbols", "pairs", "padding", "raw_view_bytes", "comp_view_bytes")


@dataclass(frozen=True)
class StepFigures:
    """A step's figures over all processes, the same in each.

    Attributes:
        total: sum of weighted cross-entropies in nats.
        sums: of the batch's counts and of `ViewNats`.
        norm: of the gradient before clipping, as the first process has it: replicas may differ in the last bit.
        memory: most bytes that a process has held so far.
        waited: seconds for data, of the process that waited longest.
        epochs: min, mean, max over all lanes.
        save_failed: some process knows that the checkpoint under way cannot be written.
        stop: a signal that some process got.
    """

    total: float
    sums: dict[str, float]
    norm: float
    memory: int
    waited: float
    epochs: tuple[float, float, float]
    save_failed: bool
    stop: signal.Signals | None

    @classmethod
    def of(
        cls,
        processes: Processes,
        batch: Batch,
        total: float,
        nats: ViewNats,
        norm: float,
        waited: float,
        stop: signal.Signals | None,
        save_failed: bool,
    ) -> "StepFigures":
        """Gather them."""
        summed = {"total": total, "raw_nats": nats.raw, "comp_nats": nats.comp, "raw_bytes": nats.raw_bytes}
        summed |= {name: getattr(batch.counts, name) for name in _SUMMED}
        others = {
            **dict(zip(("epoch_min", "epoch_mean", "epoch_max"), batch.epochs, strict=True)),
            "norm": norm,
            "memory": limits.peak_memory(processes.device),
            "waited": waited,
            "save_failed": save_failed,
            "stop": stop or 0,
        }
        gathered = processes.gather([*summed.values(), *others.values()])
        found = dict(zip((*summed, *others), gathered.T, strict=True))
        sums = dict(zip(summed, gathered.sum(axis=0).tolist(), strict=False))
        number = int(found["stop"].max())
        return cls(
            total=sums.pop("total"),
            sums=sums,
            norm=float(found["norm"][0]),
            memory=int(found["memory"].max()),
            waited=float(found["waited"].max()),
            epochs=(
                float(found["epoch_min"].min()),
                float(found["epoch_mean"].mean()),
                float(found["epoch_max"].max()),
            ),
            save_failed=bool(found["save_failed"].any()),
            stop=signal.Signals(number) if number else None,
        )


def bits_per_byte(nats: float, size: float) -> float | None:
    """Bits per byte; None without bytes, or if it is not finite."""
    return finite(nats / math.log(2) / size) if size else None


def finite(value: float) -> float | None:
    """The value as JSON has it: None if it is not finite."""
    return value if math.isfinite(value) else None
