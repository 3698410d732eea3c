"""Raw documents as blocks of ids, and blocks as batches in which only bytes count.

A document is rendered `bos <raw> bytes`, without its end, which no byte depends on, and cut in blocks of `context`
ids; a block starts with the opener (and bos where the document does), positions start at 0. Every block is alone in
its row, so what is said of its bytes does not depend on the batch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_OFFSET, PAD, RAW_OPEN

Block = npt.NDArray[np.int64]
"""Ids of a block; the last one is only a label."""


def blocks_of(raw: bytes, context: int, sentinels: bool) -> list[Block]:
    """The blocks of one document, at most context + 1 ids each, the last one counted as a label only."""
    opener = [RAW_OPEN] if sentinels else [BOS]
    data = np.frombuffer(raw, np.uint8).astype(np.int64) + BYTE_OFFSET
    first = [BOS, *opener] if sentinels else opener
    blocks = []
    at = 0
    while at < len(data):
        head = first if at == 0 else opener
        part = data[at : at + context + 1 - len(head)]
        blocks.append(np.concatenate([head, part]).astype(np.int64))
        at += len(part)
    return blocks


def batch_of(
    blocks: Sequence[Block], width: int, heads: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A batch with one block a row, as `EvaByte.loss` takes it; head 0 has weight 1 on byte labels, nothing else any.

    Args:
        blocks: B of them, each at most width + 1 ids; one without ids is a row without labels.
        width: T.
        heads: H of the model.
        device: of the tensors.

    Returns:
        ids, doc, position int64 [B, T], labels int64 [B, T, H], weights fp32 [B, T, H].
    """
    ids = np.full((len(blocks), width), PAD, np.int64)
    labels = np.zeros((len(blocks), width, heads), np.int64)
    for index, block in enumerate(blocks):
        if len(block):
            ids[index, : len(block) - 1] = block[:-1]
            labels[index, : len(block) - 1, 0] = block[1:]
    weights = ((labels >= BYTE_OFFSET) & (labels < COMP_OFFSET)).astype(np.float32)
    # padding is a document of its own, after the block: nobody sees it
    doc = (ids == PAD).astype(np.int64)
    position = np.broadcast_to(np.arange(width), ids.shape).copy()
    arrays = (torch.from_numpy(array).to(device) for array in (ids, doc, position, labels, weights))
    ids_, doc_, position_, labels_, weights_ = arrays
    return ids_, doc_, position_, labels_, weights_
