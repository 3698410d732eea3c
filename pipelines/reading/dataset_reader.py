"""Rows of a dataset of ours as documents: under another proxy they keep what they were.

doc_id, source, record, piece, group and kept columns are those of the row; in a mix the source stands behind the
corpus's name, which is the group. Pieces of cut documents stay as they are cut. A shard is read whole, as a block, so
that all pieces of a document come to one unit in their order. What the dataset rejected is not in it: pieces of a
document whose others became rows are rejects again, so that no document is silently less than its doc_id says. Of one
whose first piece alone is left nothing tells that there was more: it is a document, with a doc_id of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reading.cut_documents import Broken, CutDocuments, Key
from pipelines.reading.documents import Document, Reject
from pipelines.reading.inputs import InputError, InputFile, printable
from pipelines.reading.records import RefusalError, Told, rejected, told
from schemas.draws import document_id
from schemas.shard import COLUMN_NAMES, METADATA_KEY, shard_schema

TEXT = "raw"
COLUMNS = ("doc_id", "source", "record", "piece", "group")
_DOCUMENT = ["doc_id", "source", "record"]

MISSING_PIECES = "missing-pieces"
"""The reason of a reject for the pieces from its own up to the next that is there."""


@dataclass(frozen=True)
class Whole:
    """The cut documents of a shard.

    Attributes:
        sizes: bytes of the whole of each, as far as it is there.
        pieces: key, piece and the number of rows that have both, of all documents.
    """

    sizes: dict[Key, int] = field(default_factory=dict)
    pieces: Any = None


def is_shard(schema: pa.Schema) -> bool:
    """Whether a Parquet file is a shard of a dataset of ours: it says so, and has its columns in their order."""
    ours = shard_schema((), {})
    return METADATA_KEY in (schema.metadata or {}) and [(field.name, field.type) for field in schema][: len(ours)] == [
        (field.name, field.type) for field in ours
    ]


def whole_of(file: Any) -> Whole:
    """The cut documents of a shard; columns are read only where there are some.

    Args:
        file: a `pyarrow.parquet.ParquetFile`.
    """
    if not any(_is_cut(file.metadata.row_group(group)) for group in range(file.metadata.num_row_groups)):
        return Whole()
    table = file.read(columns=[*_DOCUMENT, "piece", "raw_bytes"], use_threads=False)
    at = table.schema.get_field_index("source")
    table = table.set_column(at, "source", table["source"].cast(pa.string()))
    # of equal documents one
    pieces = table.group_by([*_DOCUMENT, "piece"]).aggregate([("raw_bytes", "max"), ("raw_bytes", "count")])
    sums = pieces.group_by(_DOCUMENT).aggregate([("raw_bytes_max", "sum"), ("piece", "max")])
    cut = sums.filter(pc.greater(sums["piece_max"], 0))
    keys = zip(*(cut[name].to_pylist() for name in _DOCUMENT), strict=True)
    return Whole(dict(zip(keys, cut["raw_bytes_max_sum"].to_pylist(), strict=True)), pieces)


def _is_cut(row_group: Any) -> bool:
    statistics = row_group.column(COLUMN_NAMES.index("piece")).statistics
    return statistics is None or not statistics.has_min_max or statistics.max > 0


def documents(
    batch: Any,
    file: InputFile,
    kept: dict[str, list[Told]],
    groups: list[Told],
    whole: Whole,
    cut: CutDocuments,
) -> Iterator[Document | Reject]:
    """The documents of a batch of rows, and rejects of those with a value that cannot be told.

    Args:
        batch: with `COLUMNS` and `TEXT`.
        file: the shard.
        kept: values of each kept column.
        groups: of each row.
        whole: of the shard.
        cut: takes the pieces of cut documents, for `missing_pieces` after the last batch.

    Raises:
        InputError: a cut document's doc_id is no digest, or a value is missing.
    """
    columns = [batch.column(name).to_pylist() for name in ("doc_id", "source", "record", "piece")]
    texts = batch.column(TEXT)
    prefix = _prefix(file)
    for index, (doc_id, source, record, piece) in enumerate(zip(*columns, strict=True)):
        raw = texts[index].as_py()
        if any(value is None for value in (doc_id, source, record, piece, raw)):
            raise InputError("unreadable", "a shard of ours with nulls where there can be none")
        key = (doc_id, source, record)
        if key in whole.sizes:
            digest = _digest(doc_id)
            cut.add(key, piece, raw)
        else:  # It decides what is a duplicate and what is held out, and the file may be a stranger's.
            digest = document_id(raw)
        try:
            group = told(groups[index]) or ""
            values = {name: told(column[index]) for name, column in kept.items()}
        except RefusalError as refusal:
            yield replace(rejected(prefix + source, record, refusal, raw), piece=piece)
            continue
        yield Document(
            doc_id=digest,
            source=prefix + source,
            record=record,
            piece=piece,
            group=group,
            raw=raw,
            kept=values,
            whole_bytes=whole.sizes.get(key, len(raw)),
        )


def missing_pieces(cut: CutDocuments, whole: Whole, file: InputFile) -> Iterator[Reject]:
    """After the rows of a shard: a reject for each run of pieces that a document lacks, or for the end of a wrong one.

    A stranger may have put the rows in another order, in which a document cannot be checked but by its pieces' numbers.
    """
    broken: dict[Key, list[Broken]] = {}
    for one in cut.broken():
        broken.setdefault(one.key, []).append(one)
    rows: dict[Key, dict[int, int]] = {key: {} for key in broken}
    for batch in whole.pieces.to_batches() if broken else ():
        columns = (batch.column(name).to_pylist() for name in (*_DOCUMENT, "piece", "raw_bytes_count"))
        for doc_id, source, record, piece, count in zip(*columns, strict=True):
            if (doc_id, source, record) in rows:
                rows[doc_id, source, record][piece] = count
    for (doc_id, source, record), ones in broken.items():
        ends = set[int]() if any(one.gaps for one in ones) else {one.end for one in ones}
        for piece in sorted(_lacking(rows[doc_id, source, record]) | ends):
            yield Reject(
                source=_prefix(file) + source,
                record=record,
                piece=piece,
                stage="read",
                reason=MISSING_PIECES,
                detail=f"document {doc_id} in {printable(file.path)}: from here on pieces are missing, or they are not "
                "those of its doc_id",
            )


def _lacking(rows: dict[int, int]) -> set[int]:
    """Of the numbers of pieces, with their rows, the first of each gap, and those that not all equal documents have."""
    numbers = sorted(rows)
    most = max(rows.values(), default=0)
    gaps = {before + 1 for before, after in pairwise([-1, *numbers]) if after > before + 1}
    return gaps | {piece for piece, count in rows.items() if count < most}


def _prefix(file: InputFile) -> str:
    return f"{file.corpus}/" if file.corpus else ""


def _digest(doc_id: str) -> bytes:
    try:
        digest = bytes.fromhex(doc_id)
    except ValueError:
        digest = b""
    if len(digest) != 16:
        raise InputError("unreadable", f"doc_id {doc_id[:40]!r} is no digest")
    return digest
