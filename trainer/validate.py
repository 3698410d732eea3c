"""Bits per byte on held-out raw documents while a model trains: the same figure for any number of processes.

Held-out documents of each dataset up to a budget of bytes, as many different ones as there are, cut in blocks of the
trained length. Every process makes equally many passes of one shape, since sharded parameters are gathered in each.
"""

import math
from collections.abc import Sequence

import torch

from schemas.errors import UserError
from trainer.data.dataset import Dataset
from trainer.data.held_out import sampled
from trainer.evaluate.blocks import EMPTY, Block, batch_of, blocks_of
from trainer.model.evabyte import EvaByte
from trainer.parallel import Processes


class Validation:
    """The held-out blocks of a run; read when they are first needed.

    Args:
        data: datasets of the run.
        val_fraction: held out of each.
        size: bytes of all datasets together, at least one document of each.
        context: T, ids of a block.
        rows: blocks of a forward pass.
        sentinels: whether the model is trained with them.
        processes: of the run.
    """

    def __init__(
        self, data: Sequence[str], *, val_fraction: float, size: int, context: int, rows: int,
        sentinels: bool, processes: Processes,
    ) -> None:  # fmt: skip
        self._data, self._val_fraction, self._size = data, val_fraction, size
        self._context, self._rows, self._sentinels = context, rows, sentinels
        self._processes = processes
        self._blocks: list[Block] | None = None

    def bits_per_byte(self, model: EvaByte) -> float | None:
        """Of head 0, over the full vocabulary; None if nothing is held out. All processes call it together.

        Raises:
            UserError: the dataset is damaged.
        """
        if self._blocks is None:
            self._blocks = self._read_together()
        if not self._blocks:
            return None
        heads = model.config.main_heads + model.config.raw_heads
        together = self._rows * self._processes.world
        nats, size = 0.0, 0
        for start in range(0, len(self._blocks), together):
            own = self._blocks[start + self._processes.rank : start + together : self._processes.world]
            own = own + [EMPTY] * (self._rows - len(own))
            batch = batch_of(own, self._context, heads, self._processes.device)
            with torch.no_grad():
                nats += float(model.loss(*batch).next_nats.double().sum())
            size += int(batch[-1].sum())
        found = self._processes.gather([nats, size]).sum(axis=0)
        return float(found[0] / math.log(2) / found[1])

    def _read_together(self) -> list[Block]:
        blocks: list[Block] = []
        reason: UserError | None = None
        try:
            blocks = self._read()
        except UserError as error:
            reason = error
        self._processes.agree(reason)
        return blocks

    def _read(self) -> list[Block]:
        blocks: list[Block] = []
        if self._val_fraction == 0:
            return blocks
        for url in self._data:
            # opened anew: the loader reads its own in another thread
            for document in sampled(Dataset(url), self._val_fraction, self._size // len(self._data)):
                assert document.raw is not None, "it was asked for"
                blocks += blocks_of(document.raw.tobytes(), self._context, self._sentinels)
        return blocks
