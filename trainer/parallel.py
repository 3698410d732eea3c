"""Processes of a run: who they are, how they agree, and how the model is shared among them (FSDP2).

One process needs no launcher and no process group on a CPU; with `torchrun` there are W of them, by gloo on CPUs and
nccl on GPUs. Small numbers (targets, losses, signals) always go by gloo and are added in the order of ranks in fp64,
so that every process has the same sums and a GPU is not waited for.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from schemas.errors import UserError

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=30)
"""A process that does not answer for so long ends the run; checkpoints of large models take minutes."""

_PATIENCE = timedelta(hours=3)
"""The same where one may be waiting for an object store."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run as one of them sees them.

    Attributes:
        rank: of this one.
        world: number of all.
        device: that this one computes on.
        group: that they agree by; None: that of all.
    """

    rank: int
    world: int
    device: torch.device
    group: "dist.ProcessGroup | None" = None

    @classmethod
    def join(cls, device: str | None = None) -> "Processes":
        """Meet the others, if a launcher says that there are any.

        Args:
            device: cpu or cuda; None: cuda if there is one.

        Raises:
            UserError: the device does not exist, or the launcher's variables are incomplete.
        """
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: this machine has no CUDA device that torch can use; take --device cpu")
        world = _number("WORLD_SIZE", 1)
        rank, local = _number("RANK", 0), _number("LOCAL_RANK", 0)
        place = torch.device("cpu")
        if kind == "cuda":
            place = torch.device("cuda", local)
            torch.cuda.set_device(place)
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), place)
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        if world > 1:
            dist.init_process_group(backend, timeout=_TIMEOUT)
        elif kind == "cuda":  # mixed precision is FSDP's, also for one process
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=_TIMEOUT)
        return cls(rank, world, place)

    def aside(self) -> "Processes":
        """The same processes with a group of their own, for a second thread to agree by; all call it together."""
        return replace(self, group=dist.new_group(backend="gloo", timeout=_PATIENCE)) if self.world > 1 else self

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs."""
        return self.rank == 0

    def gather(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """The numbers of all processes, float64 [world, n]."""
        if self.world == 1:
            return np.array([values], np.float64)
        own = torch.tensor(list(values), dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(found, own, group=self.group)
        return torch.stack(found).numpy()

    def gather_objects(self, value: T) -> list[T]:
        """The objects of all processes, by rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.group)
        return found

    def agree(self, error: UserError | str | None) -> None:
        """Go on only if no process has an error.

        Raises:
            UserError: the first error, in every process.
        """
        for found in self.gather_objects(error):
            if found is not None:
                raise found if isinstance(found, UserError) else UserError(found)

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier(group=self.group)

    def leave(self) -> None:
        """End the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()


ALONE = Processes(0, 1, torch.device("cpu"))
"""One process on a CPU."""


def shard(model: nn.Module, processes: Processes, *, replicas: int, precision: torch.dtype | None) -> None:
    """Give each process its part of every parameter, with one unit a block.

    Args:
        model: an `EvaByte`, possibly on the meta device.
        processes: of the run.
        replicas: copies of the model; each is shared by world / replicas processes (HSDP); 1: one copy (FSDP).
        precision: that the blocks compute in; None: that of the parameters. Gradients are added up in fp32.

    Raises:
        UserError: `replicas` does not divide the number of processes.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = _mesh(processes, replicas)
    policy = MixedPrecisionPolicy()
    if precision is not None:
        # masks and weights of the loss stay in fp32
        policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    layers = model.layers
    for index, layer in enumerate(layers):
        # the last block's parameters are needed again at once, by the backward pass
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=index < len(layers) - 1)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "loss")


def _mesh(processes: Processes, replicas: int) -> DeviceMesh:
    if replicas < 1 or processes.world % replicas:
        raise UserError(f"--replicas {replicas}: does not divide the {processes.world} processes of this run")
    kind = processes.device.type
    if replicas == 1:
        return init_device_mesh(kind, (processes.world,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (replicas, processes.world // replicas), mesh_dim_names=("replicate", "shard"))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text} in the environment: expected a number, as torchrun sets it") from None
