"""Documents as blocks of ids, and blocks as passes of one fixed shape in which only what is measured counts.

A view of a document is rendered `bos <raw> bytes` or `bos <comp> symbols`, without its end, which nothing measured
depends on, and cut in blocks of `context` ids. Every block starts with the view's opener (and bos where the document
does), positions start at 0: so a block looks to the model like the beginning of a sequence in training, where a cut
document starts with its opener again. The published evaluation cuts one stream of all documents and repeats no opener.

With a stride below the context a block also holds what comes before, and only its last `stride` labels count, so that
each byte is told with at least context - stride ids before it, as far as the document has them.

Every block is alone in its row, so what is said of its bytes does not depend on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_OPEN, PAD, RAW_OPEN

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Some ids in a row of a pass.

    Attributes:
        ids: int64 [at most context + 1]; the last one is only a label.
        counted: labels at its end that count.
    """

    ids: Ids
    counted: int

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.ids)


EMPTY = Block(np.empty(0, np.int64), 0)
"""A row without labels."""


def blocks_of(raw: bytes, context: int, sentinels: bool, stride: int | None = None) -> list[Block]:
    """The blocks of a document's raw view; every byte counts in exactly one of them.

    Args:
        raw: the document.
        context: ids of a block, without its last label.
        sentinels: whether views have openers; without them a block starts with bos.
        stride: labels that count in all blocks but the first; default the context: blocks do not overlap.
    """
    data = np.frombuffer(raw, np.uint8).astype(np.int64) + BYTE_OFFSET
    return _cut(data, RAW_OPEN if sentinels else None, context, stride)


def comp_blocks_of(
    comp: npt.NDArray[np.integer], context: int, sentinels: bool, stride: int | None = None
) -> list[Block]:
    """The blocks of a document's comp view, from its vocabulary ids; see `blocks_of`."""
    return _cut(comp.astype(np.int64), COMP_OPEN if sentinels else None, context, stride)


def _cut(data: Ids, opener: int | None, context: int, stride: int | None) -> list[Block]:
    later = [BOS if opener is None else opener]
    first = [BOS] if opener is None else [BOS, opener]
    blocks = []
    told = 0
    while told < len(data):
        if told == 0:
            head, start, end = first, 0, context + 1 - len(first)
        else:
            end = told + (stride or context)
            head, start = later, max(0, end - context)
        part = data[start:end]
        end = start + len(part)
        blocks.append(Block(np.concatenate([head, part]).astype(np.int64), end - told))
        told = end
    return blocks


def batch_of(
    blocks: Sequence[Block], width: int, heads: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A pass with one block a row, as `EvaByte.loss` takes it; head 0 has weight 1 on labels that count, else 0.

    Args:
        blocks: B of them, each at most width + 1 ids.
        width: T.
        heads: H of the model.
        device: of the tensors.

    Returns:
        ids, doc, position int64 [B, T], labels int64 [B, T, H], weights fp32 [B, T, H].
    """
    ids = np.full((len(blocks), width), PAD, np.int64)
    labels = np.zeros((len(blocks), width, heads), np.int64)
    weights = np.zeros((len(blocks), width, heads), np.float32)
    for index, block in enumerate(blocks):
        if len(block):
            end = len(block) - 1
            ids[index, :end] = block.ids[:-1]
            labels[index, :end, 0] = block.ids[1:]
            weights[index, end - block.counted : end, 0] = 1
    # padding is a document of its own, after the block: nobody sees it
    doc = (ids == PAD).astype(np.int64)
    position = np.broadcast_to(np.arange(width), ids.shape).copy()
    arrays = (torch.from_numpy(array).to(device) for array in (ids, doc, position, labels, weights))
    ids_, doc_, position_, labels_, weights_ = arrays
    return ids_, doc_, position_, labels_, weights_
