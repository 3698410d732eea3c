"""Documents of a dataset that a report reads: a sample from all over it, and those of it that are shown.

The sample is some row groups of shards spread evenly over the dataset, 4 MB of text whatever the dataset's size; rows
within a shard lie in the order of their digests, so a prefix of a shard is no particular text.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.dataset import Dataset
from pipelines.proxies.base import U16, U32
from schemas.draws import FITTING_MARGIN, split_uniform
from schemas.errors import UserError
from schemas.manifest import ShardEntry

SAMPLE_BYTES = 4 << 20
SAMPLE_SHARDS = 16
LEAST_SHOWN = 160
"""Bytes of a document that is worth showing, where there are such."""

_DOC_ID = re.compile("[0-9a-f]{32}")
_COLUMNS = ["doc_id", "source", "record", "piece", "group", "raw", "comp", "spans"]


@dataclass(frozen=True)
class Row:
    """A document as it is stored; `ids` uint32 and `spans` uint16 [symbols], None where the proxy has none."""

    doc_id: str
    source: str
    piece: int
    group: str
    raw: bytes
    ids: U32 | None
    spans: U16 | None

    @property
    def held_out(self) -> bool:
        """Whether no compressor and no tokenizer was fitted to it."""
        return split_uniform(bytes.fromhex(self.doc_id)) < FITTING_MARGIN


def sample(data: Dataset) -> list[Row]:
    """Documents from all over the dataset; none of an empty one.

    Raises:
        UserError: a shard that cannot be read.
    """
    filled = [shard for shard in data.manifest.shards if shard.rows]
    every = max(1, math.ceil(len(filled) / SAMPLE_SHARDS))
    chosen = filled[::every]
    rows: list[Row] = []
    for shard in chosen:
        rows += _first_rows(data, shard, SAMPLE_BYTES // len(chosen))
    return rows


def _first_rows(data: Dataset, shard: ShardEntry, size: int) -> list[Row]:
    rows: list[Row] = []
    try:
        # as in `inspect`: pre-buffering gives a Python file's buffers to threads
        with data.folder.open(shard.name) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                rows += _rows(parquet.read_row_group(group, columns=_COLUMNS, use_threads=False))
                size -= parquet.metadata.row_group(group).total_byte_size
                if size <= 0:
                    break
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        url = data.folder.url
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"DATA={url}: {shard.name}: {detail}; make verify DATA={url} says what is damaged") from None
    return rows


def _rows(table: pa.Table) -> list[Row]:
    """The rows of a table.

    Raises:
        ValueError: columns that do not go together, of a damaged or foreign shard.
    """
    columns = [table[name].to_pylist() for name in ("doc_id", "source", "piece", "group", "raw")]
    lists = [[item.values for item in table[name]] for name in ("comp", "spans")]
    rows = []
    for doc_id, source, piece, group, raw, comp, covered in zip(*columns, *lists, strict=True):
        if not (isinstance(doc_id, str) and _DOC_ID.fullmatch(doc_id)) or not isinstance(raw, bytes):
            raise ValueError("a document without its digest or its text")
        ids, spans = (None if found is None else found.to_numpy() for found in (comp, covered))
        if spans is not None and (ids is None or len(ids) != len(spans) or int(spans.sum()) != len(raw)):
            raise ValueError(f"document {doc_id}: its symbols do not cover its bytes")
        rows.append(Row(doc_id, str(source), int(piece), str(group), raw, ids, spans))
    return rows


def typical(rows: Sequence[Row], count: int, limit: int) -> list[Row]:
    """Readable documents to show, by a rule that flatters no proxy.

    Of those that are UTF-8 and printable and have 160 bytes or more, held-out ones first, those whose bytes per symbol
    are nearest to the sample's; one of each group in turn, groups with more text first.

    Args:
        rows: to choose from.
        count: at most so many.
        limit: bytes of each that will be shown: these must be readable.
    """
    readable = [row for row in rows if len(row.raw) >= LEAST_SHOWN and _is_readable(row.raw[:limit])]
    candidates = readable or [row for row in rows if row.raw]
    symbols = sum(len(row.ids) for row in rows if row.ids is not None)
    size = sum(len(row.raw) for row in rows if row.ids is not None)

    def distance(row: Row) -> tuple[bool, float, str, int]:
        away = 0.0
        if row.ids is not None and len(row.ids):
            away = abs(math.log(len(row.raw) / len(row.ids) * symbols / size))
        return not row.held_out, away, row.doc_id, row.piece

    by_group: dict[str, list[Row]] = {}
    for row in sorted(candidates, key=distance):
        by_group.setdefault(row.group, []).append(row)
    order = sorted(by_group, key=lambda group: (-sum(len(row.raw) for row in rows if row.group == group), group))
    chosen: list[Row] = []
    seen: set[str] = set()
    for rank in range(max(map(len, by_group.values()), default=0)):
        for group in order:
            found = by_group[group]
            if rank < len(found) and len(chosen) < count and found[rank].doc_id not in seen:
                seen.add(found[rank].doc_id)
                chosen.append(found[rank])
        if len(chosen) == count:
            break
    return chosen


def _is_readable(raw: bytes) -> bool:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:  # cut within a character at the end
        if error.start < len(raw) - 3:
            return False
        text = raw[: error.start].decode()
    return all(character.isprintable() or character in "\n\t\r" for character in text)
