"""A row group in memory: the keys of its rows, and their views as slices of a few numpy arrays.

In: columns as `Shard` decodes them. Out: `RowGroup`, which decodes raw, comp and spans only when a document is shown in
a view that needs them (of small groups most need one view only), and checks them against each other. Nothing is done
per symbol.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

KEY_COLUMNS = ("doc_id", "source", "record", "piece", "raw_bytes")
"""Read always: what draws are made from, and which rows are empty."""

Offsets = npt.NDArray[np.integer[Any]]


class CorruptionError(ValueError):
    """What is wrong with a row group, without its name."""


class RowKey(NamedTuple):
    """What a row's draws are made from; see `schemas.draws`."""

    doc_id: bytes
    record: int
    piece: int
    source: str


@dataclass(frozen=True)
class Column:
    """Lists as slices of one array.

    Attributes:
        values: of all rows, in order; there may be other bytes between those of byte strings.
        starts: [rows], where each list begins.
        stops: [rows], where it ends.
        largest: of the values, for comp ids.

    The values are made read-only: batches copy from them, and compiled loops meet one type of array.
    """

    values: npt.NDArray[Any]
    starts: Offsets
    stops: Offsets
    largest: int = 0

    def __post_init__(self) -> None:
        self.values.flags.writeable = False

    def row(self, index: int) -> npt.NDArray[Any]:
        """The list of one row."""
        return self.values[self.starts[index] : self.stops[index]]


class RowGroup:
    """Rows in stored order; raw, comp and spans are decoded when they are first asked for.

    Attributes:
        keys: of the rows.
        raw_bytes: of the rows.
    """

    def __init__(self, keys: list[RowKey], raw_bytes: list[int], load: "Load") -> None:
        """Hold the keys; `load` gives a column by name, None where it is null, and is told this group.

        It must not hold the group itself: such a cycle would keep its megabytes until the garbage collector runs.
        """
        self.keys, self.raw_bytes = keys, raw_bytes
        self._load = load
        self._columns: dict[str, Column | None] = {}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.keys)

    def column(self, name: str) -> Column | None:
        """raw, comp or spans; None where it is null."""
        if name not in self._columns:
            self._columns[name] = self._load(self, name)
        return self._columns[name]

    def document(self, row: int) -> "Document":
        """One row."""
        return Document(self, row)


Load = Callable[[RowGroup, str], Column | None]


class Document:
    """One row of a row group.

    Attributes:
        key: what its draws are made from.
        raw_bytes: length of raw.
    """

    def __init__(self, group: RowGroup, row: int) -> None:
        self._group, self._row = group, row
        self.key, self.raw_bytes = group.keys[row], group.raw_bytes[row]

    @property
    def raw(self) -> npt.NDArray[np.uint8]:
        """The bytes, uint8 [raw_bytes]."""
        column = self._group.column("raw")
        assert column is not None, "raw is never null"
        return column.row(self._row)

    @property
    def comp(self) -> npt.NDArray[np.int32] | None:
        """The comp view, vocabulary ids, int32 [symbols]."""
        column = self._group.column("comp")
        return None if column is None else column.row(self._row)

    @property
    def spans(self) -> npt.NDArray[np.uint16] | None:
        """Raw bytes of each comp symbol, uint16 [symbols]."""
        column = self._group.column("spans")
        return None if column is None else column.row(self._row)


def check_lengths(lengths: list[int], *, rows: int, raw_bytes: int) -> None:
    """Compare the rows' raw_bytes with the row-group table's figures.

    Raises:
        CorruptionError: the figures differ.
    """
    if len(lengths) != rows or sum(lengths) != raw_bytes:
        raise CorruptionError(
            f"{len(lengths)} rows of {sum(lengths)} bytes; the row-group table says {rows} of {raw_bytes}"
        )


def check_raw(column: Column | None, lengths: list[int]) -> Column:
    """The bytes of all rows, checked.

    Raises:
        CorruptionError: other lengths than raw_bytes.
    """
    if column is None or (column.stops - column.starts).tolist() != lengths:
        raise CorruptionError("raw_bytes are not the lengths of raw")
    return column


def check_comp(column: Column | None, keys: list[RowKey], *, comp_symbols: int, size: int) -> Column | None:
    """The comp ids of all rows, int32, checked.

    Args:
        column: None where comp is null.
        keys: of the rows.
        comp_symbols: expected, of all rows together.
        size: of the vocabulary; ids lie below it.

    Raises:
        CorruptionError: another number of symbols, or an id outside of the vocabulary.
    """
    if column is None:
        return None
    values = column.values
    if len(values) != comp_symbols:
        raise CorruptionError(f"{len(values)} comp symbols; the row-group table says {comp_symbols}")
    if column.largest >= size:
        unsigned = values.view(np.uint32)
        symbol = int(np.argmax(unsigned >= size))
        row = int(np.searchsorted(column.stops, symbol, side="right"))
        raise CorruptionError(
            f"document {keys[row].doc_id.hex()}: comp id {unsigned[symbol]} in a vocabulary of {size}"
        )
    return column


def check_spans(column: Column | None, comp: Column | None) -> Column | None:
    """The spans of all rows, uint16, checked.

    Raises:
        CorruptionError: other lengths than comp.
    """
    if column is not None and (comp is None or not np.array_equal(column.stops, comp.stops)):
        raise CorruptionError("spans and comp differ in their lengths")
    return column
