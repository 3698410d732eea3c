"""A Parquet shard of which only verified bytes can be read: its parsed footer, and chunks handed in for parsing."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import ShardEntry
from schemas.shard import chunk_ranges


class Shard:
    """A shard whose footer is parsed; its reader sees only the bytes that `source` holds."""

    def __init__(self, entry: ShardEntry, footer: bytes) -> None:
        self.entry, self.footer_bytes = entry, len(footer)
        metadata = pq.read_metadata(pa.BufferReader(footer))
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        self.source = _VerifiedBytes(entry.size)
        self.parquet = pq.ParquetFile(pa.PythonFile(self.source, "r"), metadata=metadata, pre_buffer=False)
        schema = metadata.schema
        self.columns = [schema.column(index).path.split(".")[0] for index in range(metadata.num_columns)]

    def ranges(self, group: int) -> list[tuple[int, int]]:
        """(offset, length) of each column chunk; kept, since the footer's objects are slow."""
        if group not in self._ranges:
            self._ranges[group] = chunk_ranges(self.parquet.metadata, group)
        return self._ranges[group]

    def parse(self, group: int, chunks: list[tuple[int, memoryview]], names: tuple[str, ...]) -> pa.Table:
        """Columns of a row group from its verified chunks."""
        self.source.hold(chunks)
        table = self.parquet.read_row_group(group, columns=list(names), use_threads=False)
        self.source.hold([])
        return table


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
