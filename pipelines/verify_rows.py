"""The checks of documents: each row of a shard against its own columns, its proxy and the dataset's digests.

`RowChecks` takes a shard's row groups as Arrow tables, one at a time and in order, and gives lines about documents.
It holds one row group, the content digest and a hash state for each cut document that is not complete yet.
Cost on one core of a shared machine: 170 MB/s of raw bytes, 95 with the neural proxy's decoding.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.proxies.base import I64, U16, U32, Encoded, EncodedBatch, Proxy, sums
from pipelines.reading.cut_documents import CutDocuments
from pipelines.reading.documents import Document
from pipelines.rows import update_content_digest
from schemas.draws import document_id
from schemas.vocabulary import BYTE_OFFSET, Vocabulary

MAX_FAULTS = 20
"""Lines that a unit may give: a shard of another proxy would else give one for each document."""


@dataclass
class Faults:
    """Lines about the files of a unit: the first `MAX_FAULTS`, and the number of the rest."""

    lines: list[str] = field(default_factory=list)
    more: int = 0

    def __len__(self) -> int:
        return len(self.lines) + self.more

    def add(self, line: str) -> None:
        """A line that begins with a file's name."""
        if len(self.lines) < MAX_FAULTS:
            self.lines.append(line)
        else:
            self.more += 1

    def compare(self, place: str, what: str, found: object, expected: object) -> None:
        """A line if two values differ."""
        if found != expected:
            self.add(f"{place}: {what} {_short(found)}, expected {_short(expected)}")

    def all(self, stem: str) -> list[str]:
        """The lines, with a last one for those that were left out."""
        return [*self.lines, *([f"{stem}: {self.more:,} more faults"] if self.more else [])]


@dataclass(frozen=True)
class Rows:
    """The columns of a row group. `ids` and `counts` are None where comp is null in some row, `spans` likewise."""

    doc_ids: list[str]
    sources: list[str]
    records: list[int]
    pieces: list[int]
    raws: list[bytes]
    raw_bytes: npt.NDArray[np.uint32]
    comp_symbols: npt.NDArray[np.uint32]
    ids: U32 | None
    counts: I64 | None
    spans: U16 | None
    span_counts: I64 | None

    @classmethod
    def of(cls, table: pa.Table) -> "Rows":
        """From a table with the columns of a shard."""
        ids, counts = _flat(table["comp"])
        spans, span_counts = _flat(table["spans"])
        return cls(
            doc_ids=table["doc_id"].to_pylist(),
            sources=table["source"].to_pylist(),
            records=table["record"].to_pylist(),
            pieces=table["piece"].to_pylist(),
            raws=table["raw"].to_pylist(),
            raw_bytes=table["raw_bytes"].to_numpy(),
            comp_symbols=table["comp_symbols"].to_numpy(),
            ids=ids,
            counts=counts,
            spans=spans,
            span_counts=span_counts,
        )


def _flat(column: pa.ChunkedArray) -> tuple[Any, Any]:
    """Values of a list column end to end and their number in each row; (None, None) if some row is null."""
    if column.null_count:
        return None, None
    values = [chunk.flatten().to_numpy() for chunk in column.chunks]
    counts = [chunk.value_lengths().to_numpy() for chunk in column.chunks]
    return np.concatenate(values), np.concatenate(counts).astype(np.int64)


class RowChecks:
    """Checks a shard's documents.

    Args:
        shard: its name, for the lines.
        vocabulary: of the dataset.
        proxy: decodes the views; None leaves that out.
        faults: where lines go.
    """

    def __init__(self, shard: str, vocabulary: Vocabulary, proxy: Proxy | None, faults: Faults) -> None:
        self._shard, self._vocabulary, self._proxy, self._faults = shard, vocabulary, proxy, faults
        self._content = hashlib.blake2b(digest_size=32)
        self._has_spans: bool | None = None
        self.cut = CutDocuments()
        self.rows = self.raw_bytes = self.symbols = 0

    @property
    def content_digest(self) -> str:
        """Of the row groups so far."""
        return self._content.hexdigest()

    def add(self, group: int, table: pa.Table) -> tuple[int, int, int]:
        """Check the next row group; returns its rows, raw bytes and symbols."""
        rows = Rows.of(table)
        lengths = np.array([len(raw) for raw in rows.raws], np.int64)
        counts = np.zeros(len(lengths), np.int64) if rows.counts is None else rows.counts
        self._report(group, rows, lengths != rows.raw_bytes, "raw_bytes is not the length of raw")
        self._report(group, rows, counts != rows.comp_symbols, "comp_symbols is not the length of comp")
        self._follow(rows)
        if (rows.ids is not None) != (self._vocabulary.comp_symbols > 0):
            state = "null in some rows" if rows.ids is None else "not null"
            self._faults.add(f"{self._shard}: row group {group}: comp is {state}")
        batch = None
        if rows.ids is not None and rows.counts is not None:
            batch = EncodedBatch(rows.ids, rows.spans, rows.counts)
            self._check_views(group, rows, batch, lengths)
        documents = [
            Document(doc_id=bytes.fromhex(doc_id), source="", record=0, piece=0, group="", raw=raw)
            for doc_id, raw in zip(rows.doc_ids, rows.raws, strict=True)
        ]
        update_content_digest(self._content, documents, batch)
        totals = len(lengths), int(lengths.sum()), int(counts.sum())
        self.rows, self.raw_bytes, self.symbols = (
            before + now for before, now in zip((self.rows, self.raw_bytes, self.symbols), totals, strict=True)
        )
        return totals

    def _check_views(self, group: int, rows: Rows, batch: EncodedBatch, lengths: I64) -> None:
        outside = (batch.ids < BYTE_OFFSET) | (batch.ids >= self._vocabulary.size)
        self._report(
            group,
            rows,
            sums(outside.astype(np.int64), batch.counts) > 0,
            f"comp has an id outside of {BYTE_OFFSET}..{self._vocabulary.size - 1}",
        )
        if self._has_spans is None:
            self._has_spans = batch.spans is not None
        if self._has_spans != (batch.spans is not None):
            self._faults.add(f"{self._shard}: row group {group}: spans are null in some rows of the shard only")
        elif batch.spans is not None and rows.span_counts is not None:
            if not np.array_equal(batch.counts, rows.span_counts):
                self._faults.add(f"{self._shard}: row group {group}: spans are not as many as symbols")
                return
            self._report(group, rows, sums(batch.spans, batch.counts) != lengths, "spans do not add up to raw")
            filled = batch.counts > 0
            zero = np.zeros(len(lengths), bool)
            zero[filled] = batch.spans[(np.cumsum(batch.counts) - batch.counts)[filled]] == 0
            self._report(group, rows, zero, "the first span is 0")
        if self._proxy is not None and not outside.any():
            self._report(group, rows, _undecoded(self._proxy, batch, rows.raws), "comp does not decode to raw")

    def _follow(self, rows: Rows) -> None:
        for row, (doc_id, piece, raw) in enumerate(zip(rows.doc_ids, rows.pieces, rows.raws, strict=True)):
            if piece or document_id(raw).hex() != doc_id:
                self.cut.add((doc_id, rows.sources[row], rows.records[row]), piece, raw)

    def _report(self, group: int, rows: Rows, bad: npt.NDArray[np.bool_], text: str) -> None:
        for row in np.flatnonzero(bad).tolist():
            self._faults.add(f"{self._shard}: row group {group}, document {rows.doc_ids[row]} (row {row}): {text}")


def _undecoded(proxy: Proxy, batch: EncodedBatch, raws: list[bytes]) -> npt.NDArray[np.bool_]:
    """Which views do not decode to their documents, bool [rows]."""
    try:
        return proxy.mismatches(raws, batch)
    except Exception:  # noqa: BLE001 - some view cannot be decoded: find it
        return np.array([_is_wrong(proxy, view, raw) for view, raw in zip(batch.views(), raws, strict=True)], bool)


def _is_wrong(proxy: Proxy, view: Encoded, raw: bytes) -> bool:
    try:
        return bool(proxy.mismatches([raw], EncodedBatch.of([view]))[0])
    except Exception:  # noqa: BLE001 - whatever a proxy raises, this view is the cause
        return True


def _short(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
