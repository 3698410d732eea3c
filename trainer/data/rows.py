"""A row group in memory: the keys of its rows, and their views as slices of a few numpy arrays.

In: Arrow tables of some columns. Out: `RowGroup`, which decodes raw, comp and spans only when a document is shown in a
view that needs them (of small groups most need one view only). The arrays share memory with Arrow; nothing is copied
and nothing is done per symbol. About 2 microseconds a row for keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
    """Lists as one array and n + 1 offsets into it."""

    values: npt.NDArray[Any]
    offsets: Offsets

    def row(self, index: int) -> npt.NDArray[Any]:
        """The list of one row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]


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


def decode_keys(table: pa.Table, *, rows: int, raw_bytes: int) -> tuple[list[RowKey], list[int]]:
    """Keys and raw_bytes of the rows, checked against the row-group table's figures.

    Raises:
        CorruptionError: the figures differ.
    """
    lengths = table["raw_bytes"].to_numpy().tolist()
    if len(lengths) != rows or sum(lengths) != raw_bytes:
        raise CorruptionError(
            f"{len(lengths)} rows of {sum(lengths)} bytes; the row-group table says {rows} of {raw_bytes}"
        )
    return _keys(table), lengths


def decode_raw(table: pa.Table, lengths: list[int]) -> Column:
    """The bytes of all rows.

    Raises:
        CorruptionError: other lengths than raw_bytes.
    """
    column = _column(table, "raw")
    if column is None or np.diff(column.offsets).tolist() != lengths:
        raise CorruptionError("raw_bytes are not the lengths of raw")
    return column


def decode_comp(table: pa.Table, keys: list[RowKey], *, comp_symbols: int, size: int) -> Column | None:
    """The comp ids of all rows as int32.

    Args:
        table: with the column comp.
        keys: of the rows.
        comp_symbols: expected, of all rows together.
        size: of the vocabulary; ids lie below it.

    Raises:
        CorruptionError: another number of symbols, or an id outside of the vocabulary.
    """
    column = _column(table, "comp")
    if column is None:
        return None
    values = column.values
    if len(values) != comp_symbols:
        raise CorruptionError(f"{len(values)} comp symbols; the row-group table says {comp_symbols}")
    if comp_symbols and int(values.max()) >= size:
        symbol = int(np.argmax(values >= size))
        row = int(np.searchsorted(column.offsets, symbol, side="right")) - 1
        raise CorruptionError(f"document {keys[row].doc_id.hex()}: comp id {values[symbol]} in a vocabulary of {size}")
    return Column(values.view(np.int32), column.offsets)


def decode_spans(table: pa.Table, comp: Column | None) -> Column | None:
    """The spans of all rows.

    Raises:
        CorruptionError: other lengths than comp.
    """
    column = _column(table, "spans")
    if column is not None and (comp is None or not np.array_equal(column.offsets, comp.offsets)):
        raise CorruptionError("spans and comp differ in their lengths")
    return column


def _keys(table: pa.Table) -> list[RowKey]:
    sources = _one(table["source"])
    if pa.types.is_dictionary(sources.type):
        names = sources.dictionary.to_pylist()
        paths = [names[index] for index in sources.indices.to_pylist()]
    else:
        paths = sources.to_pylist()
    ids = [bytes.fromhex(text) for text in table["doc_id"].to_pylist()]
    return list(map(RowKey, ids, *(table[name].to_numpy().tolist() for name in ("record", "piece")), paths))


def _column(table: pa.Table, name: str) -> Column | None:
    """A binary or list column; None where it is null."""
    array = _one(table[name])
    if array.null_count == len(array) and len(array):
        return None
    if array.null_count:
        raise CorruptionError(f"{name} is null in {array.null_count} of {len(array)} rows")
    if pa.types.is_list(array.type):
        return Column(array.values.to_numpy(), array.offsets.to_numpy())
    _, offsets, data = array.buffers()
    first = array.offset
    bounds = np.frombuffer(offsets, np.int32)[first : first + len(array) + 1]
    values = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return Column(values, bounds)


def _one(chunked: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
