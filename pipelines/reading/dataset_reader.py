"""Rows of a dataset of ours as documents: under another proxy they keep what they were.

doc_id, source, record, piece, group and kept columns are those of the row; in a mix the source stands behind the
corpus's name, which is the group. Pieces of cut documents stay as they are cut. A shard is read whole, as a block, so
that all pieces of a document come to one unit in their order. What the dataset rejected is not in it.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reading.documents import Document
from pipelines.reading.inputs import InputError, InputFile
from schemas.draws import document_id
from schemas.shard import COLUMN_NAMES, METADATA_KEY, shard_schema

TEXT = "raw"
COLUMNS = ("doc_id", "source", "record", "piece", "group")
_DOCUMENT = ["doc_id", "source", "record"]

Whole = dict[tuple[str, str, int], int]
"""(doc_id, source, record) of documents that are cut -> bytes of the whole."""


def is_shard(schema: pa.Schema) -> bool:
    """Whether a Parquet file is a shard of a dataset of ours: it says so, and has its columns in their order."""
    ours = shard_schema((), {})
    return METADATA_KEY in (schema.metadata or {}) and [(field.name, field.type) for field in schema][: len(ours)] == [
        (field.name, field.type) for field in ours
    ]


def whole_bytes(file: Any) -> Whole:
    """Sizes of the documents of a shard that are cut; columns are read only where some are.

    Args:
        file: a `pyarrow.parquet.ParquetFile`.
    """
    if not any(_is_cut(file.metadata.row_group(group)) for group in range(file.metadata.num_row_groups)):
        return {}
    table = file.read(columns=[*_DOCUMENT, "piece", "raw_bytes"], use_threads=False)
    at = table.schema.get_field_index("source")
    table = table.set_column(at, "source", table["source"].cast(pa.string()))
    pieces = table.group_by([*_DOCUMENT, "piece"]).aggregate([("raw_bytes", "max")])  # of equal documents one
    sums = pieces.group_by(_DOCUMENT).aggregate([("raw_bytes_max", "sum"), ("piece", "max")])
    cut = sums.filter(pc.greater(sums["piece_max"], 0))
    keys = zip(*(cut[name].to_pylist() for name in _DOCUMENT), strict=True)
    return dict(zip(keys, cut["raw_bytes_max_sum"].to_pylist(), strict=True))


def _is_cut(row_group: Any) -> bool:
    statistics = row_group.column(COLUMN_NAMES.index("piece")).statistics
    return statistics is None or not statistics.has_min_max or statistics.max > 0


def documents(
    batch: Any, file: InputFile, kept: dict[str, list[str | None]], groups: list[str | None], whole: Whole
) -> Iterator[Document]:
    """The documents of a batch of rows.

    Args:
        batch: with `COLUMNS` and `TEXT`.
        file: the shard.
        kept: values of each kept column.
        groups: of each row.
        whole: of the shard.

    Raises:
        InputError: a cut document's doc_id is no digest, or a value is missing.
    """
    columns = [batch.column(name).to_pylist() for name in ("doc_id", "source", "record", "piece")]
    texts = batch.column(TEXT)
    prefix = f"{file.corpus}/" if file.corpus else ""
    for index, (doc_id, source, record, piece) in enumerate(zip(*columns, strict=True)):
        raw = texts[index].as_py()
        if any(value is None for value in (doc_id, source, record, piece, raw)):
            raise InputError("unreadable", "a shard of ours with nulls where there can be none")
        size = whole.get((doc_id, source, record), len(raw))
        yield Document(
            # It decides what is a duplicate and what is held out, and the file may be a stranger's.
            doc_id=document_id(raw) if size == len(raw) else _digest(doc_id),
            source=prefix + source,
            record=record,
            piece=piece,
            group=groups[index] or "",
            raw=raw,
            kept={name: values[index] for name, values in kept.items()},
            whole_bytes=size,
        )


def _digest(doc_id: str) -> bytes:
    try:
        digest = bytes.fromhex(doc_id)
    except ValueError:
        digest = b""
    if len(digest) != 16:
        raise InputError("unreadable", f"doc_id {doc_id[:40]!r} is no digest")
    return digest
