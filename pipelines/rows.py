"""Documents and their views as rows: cut into row groups, as Arrow tables, in the content digest. Pure."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.proxies.base import EncodedBatch
from pipelines.reading.documents import Document

if TYPE_CHECKING:
    import hashlib


ROW_BYTES = 64
"""What a row counts beside its raw bytes in a row group: a million empty documents are not nothing."""

DOCUMENT_BYTES = 512
"""What a document takes in memory beside its bytes and kept columns: some 380 as objects, 130 as a key to sort by."""


def memory_of(document: Document) -> int:
    """Bytes of memory that a document takes while it waits in a run; kept columns as the strings they are."""
    return len(document.raw) + DOCUMENT_BYTES + sum(map(sys.getsizeof, document.kept.values()))


GROUPS_OF_A_SIZE = 256
"""Row groups of a shard after which they hold twice as much, since the writer keeps some 30 kB of each until the end. A
shard has as many only if its unit holds far more than its listed bytes: of a compressed file, which is a unit whole."""

MAX_GROWN_BYTES = 8 << 20
"""As long as the longest document by default: a row group is encoded, proven and written at once."""


def group_limit(limit: int, written: int) -> int:
    """Bytes of the row group that comes after `written` others in its shard; at most `MAX_GROWN_BYTES`, or `limit`."""
    return max(limit, min(limit << written // GROUPS_OF_A_SIZE, MAX_GROWN_BYTES))


def row_groups(documents: list[Document], limit: Callable[[], int]) -> Iterator[list[Document]]:
    """Cut a run into row groups, see `group_rows`."""
    start = 0
    for rows in group_rows((len(document.raw) for document in documents), limit):
        yield documents[start : start + rows]
        start += rows


def group_rows(lengths: Iterable[int], limit: Callable[[], int]) -> Iterator[int]:
    """Rows of each row group that documents of these raw bytes are cut into, in their order.

    A group has at most `limit` bytes, each row counted as its raw bytes and ROW_BYTES; a larger document is a group of
    its own.
    """
    rows = size = 0
    for length in lengths:
        if rows and size + length + ROW_BYTES > limit():
            yield rows
            rows = size = 0
        rows += 1
        size += length + ROW_BYTES
    if rows:
        yield rows


def group_table(documents: list[Document], batch: EncodedBatch | None, schema: pa.Schema) -> pa.Table:
    """The Arrow table of one row group."""
    count = len(documents)
    if batch is None:
        symbols = np.zeros(count, np.uint32)
        comp = pa.nulls(count, schema.field("comp").type)
    else:
        symbols = batch.counts.astype(np.uint32)
        comp = _lists(batch.ids, batch.counts, schema.field("comp").type)
    if batch is None or batch.spans is None:
        spans = pa.nulls(count, schema.field("spans").type)
    else:
        spans = _lists(batch.spans, batch.counts, schema.field("spans").type)
    columns = [
        pa.array([document.doc_id.hex() for document in documents], pa.string()),
        pa.array([document.source for document in documents], schema.field("source").type),
        pa.array([document.record for document in documents], pa.uint64()),
        pa.array([document.piece for document in documents], pa.uint32()),
        pa.array([document.group for document in documents], schema.field("group").type),
        pa.array([document.raw for document in documents], pa.binary()),
        comp,
        spans,
        pa.array([len(document.raw) for document in documents], pa.uint32()),
        pa.array(symbols),
    ]
    kept = schema.names[len(columns) :]
    columns += [pa.array([document.kept[name] for document in documents], pa.string()) for name in kept]
    return pa.Table.from_arrays(columns, schema=schema)


def update_content_digest(content: "hashlib.blake2b", documents: list[Document], batch: EncodedBatch | None) -> None:
    """Add rows to the content digest: doc_id, raw, comp, spans, each list after its length as u64 (all ones: null)."""
    null = (2**64 - 1).to_bytes(8, "little")
    ends = [] if batch is None else np.cumsum(batch.counts).tolist()
    start = 0
    for index, document in enumerate(documents):
        content.update(document.doc_id + len(document.raw).to_bytes(8, "little"))
        content.update(document.raw)
        if batch is None:
            content.update(null + null)
            continue
        length = (ends[index] - start).to_bytes(8, "little")
        content.update(length)
        content.update(_little(batch.ids[start : ends[index]], "<u4"))
        if batch.spans is None:
            content.update(null)
        else:
            content.update(length)
            content.update(_little(batch.spans[start : ends[index]], "<u2"))
        start = ends[index]


def _little(values: Any, kind: str) -> memoryview:
    """The bytes of an array in this type; not a copy where it is of the type."""
    return np.ascontiguousarray(values, kind).view(np.uint8).data


def _lists(values: Any, counts: Any, kind: pa.DataType) -> pa.Array:
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind)
