"""Which rows a lane reads, in which order, epoch after epoch: dealing, permutations, the split.

There are B lanes, one for each sequence of a batch, whatever the number of ranks. In every epoch all row groups are
permuted by draws and dealt to the lanes by raw bytes; rows inside a group are permuted too. Nothing here depends on
the world size. Cost: about 3 microseconds a row group and epoch (a second or so at a terabyte), 5 a row.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.draws import FITTING_MARGIN, draw_u64, permutation
from schemas.errors import UserError
from trainer.data.held_out import RowGroups, is_held_out
from trainer.data.rows import Document, RowGroup, RowKey
from trainer.data.views import Text, draw_row, is_raw_text

UNDRAWN = -1
"""drawn_step of a cursor whose next document is not begun."""

_EPOCHS_KEPT = 4
"""Deals kept: lanes are in one or two epochs at a time, a few more at small data."""

_COUNTED_ROWS_PER_LANE = 1000
"""A dataset with more rows than this times B is not searched for B training documents: it has them."""

_EMPTY_EPOCHS = 1000
"""A lane that found no document in as many epochs gives up: with B documents for B lanes chance deals one to each
lane within tens of epochs."""

Ordinals = npt.NDArray[np.int64]

_ONE_ROW = np.zeros(1, np.int64)
"""The only permutation of one row."""


def check_lanes(
    dataset: RowGroups, lanes: int, val_fraction: float, raw_fraction: float = 1.0, seed: int = 0
) -> list[str]:
    """Warnings about a dataset for this number of lanes; arguments as of `Cursor`.

    Raises:
        UserError: fewer row groups or training documents than lanes.
    """
    groups, rows = len(dataset), int(dataset.rows.sum())
    if lanes <= rows and groups < lanes:
        size = max(1, int(dataset.raw_bytes.sum()) // (4 * lanes))
        raise UserError(
            f"DATA={dataset.url}: {groups} row groups for a batch of {lanes} sequences, which each need one; "
            f"make smaller ones (make preprocess ARGS='--row-group-bytes {size}'), or take a smaller batch"
        )
    if rows * (1 - val_fraction) * raw_fraction < _COUNTED_ROWS_PER_LANE * lanes:
        found = 0
        for ordinal in range(groups):
            group = dataset.read(ordinal)
            found += sum(
                size > 0 and _is_trained(key, val_fraction, raw_fraction, seed)
                for key, size in zip(group.keys, group.raw_bytes, strict=True)
            )
            if found >= lanes:
                break
        if found < lanes:
            raise UserError(
                f"DATA={dataset.url}: {found} training documents that are not empty, for a batch of {lanes} sequences, "
                "which each need one; take more data or a smaller batch"
            )
    warnings = []
    if groups < 4 * lanes:
        warnings.append(
            f"DATA={dataset.url}: only {groups} row groups for {lanes} lanes, so some get much more than others and "
            "their epochs drift apart; --row-group-bytes of preprocess makes smaller ones"
        )
    return warnings


def check_val_fraction(val_fraction: float) -> list[str]:
    """Warnings about a validation share.

    Raises:
        UserError: it is no share.
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"--val-fraction {val_fraction}: expected at least 0 and less than 1")
    if val_fraction > FITTING_MARGIN:
        return [
            f"--val-fraction {val_fraction}: above {FITTING_MARGIN} the proxy was fitted on some of the held-out "
            "documents, so figures on them flatter it"
        ]
    return []


class Deals:
    """Which row groups each lane reads in an epoch, in order."""

    def __init__(self, dataset: RowGroups, *, index: int, seed: int, lanes: int) -> None:
        """Deal on demand.

        Args:
            dataset: whose row groups.
            index: of the dataset in the run's list.
            seed: of the run.
            lanes: B.
        """
        self._raw_bytes = dataset.raw_bytes
        self._index, self._seed, self._lanes = index, seed, lanes
        self._kept: OrderedDict[int, tuple[Ordinals, Ordinals]] = OrderedDict()

    def units(self, epoch: int, lane: int) -> Ordinals:
        """Row-group ordinals of a lane, int64 [its units of this epoch]."""
        if epoch not in self._kept:
            self._kept[epoch] = self._deal(epoch)
            while len(self._kept) > _EPOCHS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(epoch)
        ordinals, bounds = self._kept[epoch]
        return ordinals[bounds[lane] : bounds[lane + 1]]

    def _deal(self, epoch: int) -> tuple[Ordinals, Ordinals]:
        """All ordinals, lane after lane, and where each lane's begin."""
        draws = (
            draw_u64("unit", seed=self._seed, epoch=epoch, record=ordinal, piece=self._index)
            for ordinal in range(len(self._raw_bytes))
        )
        order = permutation(draws)
        heap = [(0, lane) for lane in range(self._lanes)]  # raw bytes so far, ties to the lower lane
        owner = np.empty(len(order), np.int64)
        for place, size in enumerate(self._raw_bytes[order].tolist()):
            total, lane = heap[0]
            owner[place] = lane
            heapq.heapreplace(heap, (total + size, lane))
        by_lane = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[by_lane], np.arange(self._lanes + 1))
        return order[by_lane], bounds


@dataclass
class Cursor:
    """A lane's place in one dataset.

    Attributes:
        val_fraction: held out, and passed over.
        raw_fraction: of the others only these are read, drawn by the seed; 1: all.
        text: what its documents may be shown as.
        epoch: of the lane in this dataset.
        unit: place in the lane's list of that epoch.
        row: place in the unit's permuted training rows, empty documents included.
        part: first comp symbol of the aligned part that is being placed; 0 unless the document is a pair.
        offset: ids of that rendering already placed.
        drawn_step: step at which the document was begun; UNDRAWN before.
    """

    dataset: RowGroups
    deals: Deals
    lane: int
    seed: int
    val_fraction: float
    columns: tuple[str, ...]
    raw_fraction: float = 1.0
    text: Text = Text.ANY
    epoch: int = 0
    unit: int = 0
    row: int = 0
    part: int = 0
    offset: int = 0
    drawn_step: int = UNDRAWN
    _units: int = field(default=0, repr=False)
    _group: RowGroup | None = field(default=None, repr=False)
    _order: Ordinals = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    @property
    def state(self) -> tuple[int, int, int, int, int, int]:
        """(epoch, unit, row, part, offset, drawn_step)."""
        return self.epoch, self.unit, self.row, self.part, self.offset, self.drawn_step

    def restore(self, state: tuple[int, ...]) -> None:
        """Go to a place; the row group there is read when it is needed."""
        self.epoch, self.unit, self.row, self.part, self.offset, self.drawn_step = state
        self._group, self._units = None, 0

    @property
    def progress(self) -> float:
        """Epochs, with the current one's share of units."""
        if not self._units:
            self._units = len(self.deals.units(self.epoch, self.lane))
        return self.epoch + self.unit / max(1, self._units)

    def document(self) -> Document:
        """The document at the cursor, which moves on to the next training document that is not empty.

        Raises:
            UserError: a row group is damaged, or there is no training document.
        """
        first = self.epoch
        while True:
            units = self.deals.units(self.epoch, self.lane)
            self._units = len(units)
            if self.unit >= len(units):
                self.epoch, self.unit, self.row = self.epoch + 1, 0, 0
                if self.epoch - first > _EMPTY_EPOCHS:
                    raise UserError(f"DATA={self.dataset.url}: lane {self.lane} finds no training document")
                continue
            if self._group is None:
                self._read(int(units[self.unit]))
            assert self._group is not None
            while self.row < len(self._order):
                row = int(self._order[self.row])
                if self._group.raw_bytes[row]:
                    return self._group.document(row)
                self.row += 1
            self.unit, self.row, self._group = self.unit + 1, 0, None

    def finish(self) -> None:
        """The document is placed whole."""
        self.row += 1
        self.part, self.offset, self.drawn_step = 0, 0, UNDRAWN

    def damaged(self, document: Document, what: str) -> UserError:
        """The error for a document whose columns do not fit each other."""
        ordinal = int(self.deals.units(self.epoch, self.lane)[self.unit])
        return self.dataset.damaged_document(ordinal, document.key.doc_id, what)

    def _read(self, ordinal: int) -> None:
        group = self.dataset.read(ordinal, self.columns)
        order = _ONE_ROW
        if len(group) > 1:
            order = permutation(draw_row("row", self.seed, self.epoch, key) for key in group.keys)
        kept = [_is_trained(group.keys[row], self.val_fraction, self.raw_fraction, self.seed) for row in order.tolist()]
        self._group, self._order = group, order[np.array(kept, bool)]


def _is_trained(key: RowKey, val_fraction: float, raw_fraction: float, seed: int) -> bool:
    """Whether a cursor reads a row; arguments as of `Cursor`."""
    return not is_held_out(key, val_fraction) and is_raw_text(key, seed, raw_fraction)
