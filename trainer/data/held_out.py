"""The split: which documents are held out, and which of those a figure is of.

A figure of n documents is of as many different ones as there are. Long documents may be stored in pieces, one after
another, so the first n rows of a dataset can be pieces of a handful; here each document gives one piece, drawn, before
any gives a second.
"""

import heapq
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from schemas.draws import split_uniform
from schemas.errors import UserError
from trainer.data.rows import Document, RowGroup, RowKey
from trainer.data.views import draw_row

Ordinals = npt.NDArray[np.int64]


class RowGroups(Protocol):
    """What is needed of a dataset; `trainer.data.dataset.Dataset` is one."""

    url: str
    rows: Ordinals
    raw_bytes: Ordinals

    def __len__(self) -> int: ...

    def read(self, ordinal: int, columns: tuple[str, ...] = ()) -> RowGroup:
        """One row group with these columns beside its keys."""

    def damaged_document(self, ordinal: int, doc_id: bytes, what: str) -> UserError:
        """The error for a document whose columns do not fit each other."""


def is_held_out(key: RowKey, val_fraction: float) -> bool:
    """Whether a document is validation, by its doc_id alone."""
    return split_uniform(key.doc_id) < val_fraction


def training(dataset: RowGroups, val_fraction: float, columns: tuple[str, ...] = ("raw",)) -> Iterator[Document]:
    """The training rows of a dataset in stored order, empty ones included; reads the whole dataset."""
    for ordinal in range(len(dataset)):
        group = dataset.read(ordinal, columns)
        for row, key in enumerate(group.keys):
            if not is_held_out(key, val_fraction):
                yield group.document(row)


@dataclass(frozen=True, order=True)
class _Piece:
    """A row that may be chosen, ordered by its draw among the pieces of its document."""

    draw: int
    ordinal: int
    row: int
    size: int


def sample(
    dataset: RowGroups, val_fraction: float | None, *, count: int = sys.maxsize, raw_bytes: int = sys.maxsize
) -> dict[int, list[int]]:
    """Rows of as many different documents as there may be, empty ones left out.

    Reads keys in stored order until there are enough documents, so it is the same for every model and seed.

    Args:
        dataset: of which keys are read.
        val_fraction: only documents held out by it; None: all there are.
        count: at most so many rows.
        raw_bytes: rows until they have so many; the last may go beyond, and there is one at least.

    Returns:
        Row numbers by ordinal of their row group, both ascending.
    """
    raw_bytes = max(1, raw_bytes)
    pieces: dict[bytes, list[_Piece]] = defaultdict(list)  # heaps
    first_bytes = 0  # of each document's first piece
    for ordinal in range(len(dataset)):
        group = dataset.read(ordinal)
        for row, (key, size) in enumerate(zip(group.keys, group.raw_bytes, strict=True)):
            if size and (val_fraction is None or is_held_out(key, val_fraction)):
                some = pieces[key.doc_id]
                first_bytes -= some[0].size if some else 0
                heapq.heappush(some, _Piece(draw_row("sample", 0, 0, key), ordinal, row, int(size)))
                first_bytes += some[0].size
        if len(pieces) >= count or first_bytes >= raw_bytes:
            break
    ranked = sorted(
        (rank, piece.ordinal, piece.row, piece.size)
        for some in pieces.values()
        for rank, piece in enumerate(sorted(some))
    )
    chosen: dict[int, list[int]] = defaultdict(list)
    left = raw_bytes
    for _, ordinal, row, size in ranked[:count]:
        if left <= 0:
            break
        chosen[ordinal].append(row)
        left -= size
    return {ordinal: sorted(chosen[ordinal]) for ordinal in sorted(chosen)}


def sampled(
    dataset: RowGroups, val_fraction: float, raw_bytes: int, columns: tuple[str, ...] = ("raw",)
) -> Iterator[Document]:
    """The documents that `sample` chooses, in stored order."""
    for ordinal, rows in sample(dataset, val_fraction, raw_bytes=raw_bytes).items():
        group = dataset.read(ordinal, columns)
        yield from (group.document(row) for row in rows)
