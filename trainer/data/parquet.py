"""A Parquet shard of which only verified bytes can be read: its parsed footer, and chunks handed in for decoding.

Columns as this project writes them are decoded by `pages.py`. A shard of another writer may lay them out otherwise
(other encodings, pages or codecs); Arrow's reader decodes those, to the same arrays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import ShardEntry
from schemas.shard import chunk_ranges
from trainer.data import pages
from trainer.data.rows import KEY_COLUMNS, Column, CorruptionError, RowKey

Chunks = dict[str, tuple[int, memoryview]]
"""(offset in the file, stored bytes) of column chunks, by column."""

_ID_DIGITS = 32
"""A doc_id is stored as hex."""

_TYPES: dict[str, type[np.generic]] = {"comp": np.int32, "spans": np.uint16}

# (physical type, definition and repetition levels at most) of the columns that `pages.py` decodes.
_FLAT, _LIST = (0, 0), (2, 1)
_LAYOUT = {
    "doc_id": ("BYTE_ARRAY", *_FLAT),
    "source": ("BYTE_ARRAY", *_FLAT),
    "record": ("INT64", *_FLAT),
    "piece": ("INT32", *_FLAT),
    "raw_bytes": ("INT32", *_FLAT),
    "raw": ("BYTE_ARRAY", *_FLAT),
    "comp": ("INT32", *_LIST),
    "spans": ("INT32", *_LIST),
}


class Shard:
    """A shard whose footer is parsed; its reader sees only the bytes that it is given.

    Attributes:
        entry: what the manifest says of it.
        footer_bytes: size of its footer.
        columns: names, in the file's order.
    """

    def __init__(self, entry: ShardEntry, footer: bytes) -> None:
        """Parse the footer (bytes from its start to the file's end)."""
        self.entry, self.footer_bytes = entry, len(footer)
        metadata = pq.read_metadata(pa.BufferReader(footer))
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        self._direct: dict[int, bool] = {}
        self._source = _VerifiedBytes(entry.size)
        self.parquet = pq.ParquetFile(pa.PythonFile(self._source, "r"), metadata=metadata, pre_buffer=False)
        schema = [metadata.schema.column(index) for index in range(metadata.num_columns)]
        self.columns = [column.path.split(".")[0] for column in schema]
        layout = {
            name: (column.physical_type, column.max_definition_level, column.max_repetition_level)
            for name, column in zip(self.columns, schema, strict=True)
        }
        self._usual = all(layout.get(name) == expected for name, expected in _LAYOUT.items())

    def ranges(self, group: int) -> list[tuple[int, int]]:
        """(offset, length) of each column chunk; kept, since the footer's objects are slow."""
        if group not in self._ranges:
            self._ranges[group] = chunk_ranges(self.parquet.metadata, group)
        return self._ranges[group]

    def keys(self, group: int, chunks: Chunks) -> tuple[list[RowKey], list[int]]:
        """Keys and raw_bytes of the rows, from verified chunks of `KEY_COLUMNS`."""
        if self._is_direct(group):
            try:
                return _keys_by_pages(chunks)
            except (pages.UnusualPageError, IndexError):
                pass
        return _keys_by_arrow(self._table(group, chunks, KEY_COLUMNS))

    def column(self, group: int, chunks: Chunks, name: str) -> Column | None:
        """One of raw (uint8), comp (int32), spans (uint16), from its verified chunk; None where it is null.

        Raises:
            CorruptionError: it is null in some rows only.
        """
        if self._is_direct(group):
            try:
                chunk = chunks[name][1]
                return pages.byte_strings(chunk) if name == "raw" else pages.lists(chunk, _TYPES[name])
            except (pages.UnusualPageError, IndexError):
                pass
        return _column_by_arrow(self._table(group, chunks, (name,)), name)

    def group_names(self, group: int, chunks: Chunks) -> list[str | None]:
        """The `group` of each row, from its verified chunk."""
        names: list[str | None] = self._table(group, chunks, ("group",))["group"].to_pylist()
        return names

    def _is_direct(self, group: int) -> bool:
        """Whether `pages.py` knows the row group's layout, as far as the footer says."""
        if group not in self._direct:
            row_group = self.parquet.metadata.row_group(group)
            codecs = {row_group.column(index).compression for index in range(row_group.num_columns)}
            self._direct[group] = self._usual and codecs == {"ZSTD"}
        return self._direct[group]

    def _table(self, group: int, chunks: Chunks, names: tuple[str, ...]) -> pa.Table:
        self._source.hold([chunks[name] for name in names])
        table = self.parquet.read_row_group(group, columns=list(names), use_threads=False)
        self._source.hold([])
        return table


def _keys_by_pages(chunks: Chunks) -> tuple[list[RowKey], list[int]]:
    data = {name: chunks[name][1] for name in KEY_COLUMNS}
    digits = pages.byte_strings(data["doc_id"])
    if (digits.stops - digits.starts != _ID_DIGITS).any():
        raise pages.UnusualPageError("a doc_id of another length")
    text = digits.values.tobytes()
    ids = [bytes.fromhex(text[at : at + _ID_DIGITS].decode("ascii")) for at in digits.starts.tolist()]
    records = pages.numbers(data["record"], np.uint64).tolist()
    pieces, lengths = (pages.numbers(data[name], np.uint32).tolist() for name in ("piece", "raw_bytes"))
    sources = pages.dictionary_strings(data["source"])
    if not len(ids) == len(records) == len(pieces) == len(sources) == len(lengths):
        raise CorruptionError("key columns of different lengths")
    return list(map(RowKey, ids, records, pieces, sources)), lengths


def _keys_by_arrow(table: pa.Table) -> tuple[list[RowKey], list[int]]:
    sources = _one(table["source"])
    if pa.types.is_dictionary(sources.type):
        names = sources.dictionary.to_pylist()
        paths = [names[index] for index in sources.indices.to_pylist()]
    else:
        paths = sources.to_pylist()
    ids = [bytes.fromhex(text) for text in table["doc_id"].to_pylist()]
    records, pieces, lengths = (table[name].to_numpy().tolist() for name in ("record", "piece", "raw_bytes"))
    return list(map(RowKey, ids, records, pieces, paths)), lengths


def _column_by_arrow(table: pa.Table, name: str) -> Column | None:
    array = _one(table[name])
    if array.null_count == len(array) and len(array):
        return None
    if array.null_count:
        raise CorruptionError(f"{name} is null in {array.null_count} of {len(array)} rows")
    if pa.types.is_list(array.type):
        bounds = array.offsets.to_numpy()
        values: npt.NDArray[Any] = array.values.to_numpy()
        largest = int(values.max(initial=0))
        return Column(values.view(_TYPES[name]), bounds[:-1], bounds[1:], largest)
    _, offsets, data = array.buffers()
    first = array.offset
    bounds = np.frombuffer(offsets, np.int32)[first : first + len(array) + 1]
    values = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return Column(values, bounds[:-1], bounds[1:])


def _one(chunked: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()


@dataclass
class _VerifiedBytes:
    """A read-only file of which only verified ranges exist; a read of anything else is an error."""

    size: int
    closed: bool = False

    def __post_init__(self) -> None:
        self._at = 0
        self._chunks: list[tuple[int, memoryview]] = []

    def hold(self, chunks: list[tuple[int, memoryview]]) -> None:
        self._chunks = chunks

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, length: int = -1) -> memoryview:
        for offset, chunk in self._chunks:
            start = self._at - offset
            if start >= 0 and length >= 0 and start + length <= len(chunk):
                self._at += length
                return chunk[start : start + length]
        raise OSError(f"bytes {self._at} to {self._at + length} are not covered by a digest")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        return

    def close(self) -> None:
        self.closed = True
