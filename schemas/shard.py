"""Shard format: Arrow schemas, writer options, file metadata, version rules, byte ranges of column chunks.

A shard is a Parquet file that any engine opens; `FORMAT.md` describes each column. What is decided here decides
the bytes of every shard, so a change of meaning is a new `FORMAT_VERSION`.
"""

import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import FormatVersionError, UserError

FORMAT_VERSION = 1
OLDEST_READABLE_VERSION = 1
"""Readers accept the current version and the one before it. There is no version before 1."""

METADATA_KEY = b"proxy_compression"
"""Parquet key-value metadata: a JSON object with format_version, vocabulary, proxy, fingerprint, unit digest."""

COMPRESSION = "zstd"
COMPRESSION_LEVEL = 3
"""Level 3 writes about 80 MB/s of raw text on one core; higher levels cost more than they save."""

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())

_COLUMNS = [
    pa.field("doc_id", pa.string(), nullable=False),
    pa.field("source", _DICTIONARY, nullable=False),
    pa.field("record", pa.uint64(), nullable=False),
    pa.field("piece", pa.uint32(), nullable=False),
    pa.field("group", _DICTIONARY, nullable=False),
    pa.field("raw", pa.binary(), nullable=False),
    pa.field("comp", pa.list_(pa.field("element", pa.uint32(), nullable=False)), nullable=True),
    pa.field("spans", pa.list_(pa.field("element", pa.uint16(), nullable=False)), nullable=True),
    pa.field("raw_bytes", pa.uint32(), nullable=False),
    pa.field("comp_symbols", pa.uint32(), nullable=False),
]

COLUMN_NAMES = tuple(field.name for field in _COLUMNS)

REJECTS_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("record", pa.uint64(), nullable=False),
        pa.field("piece", pa.uint32(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("excerpt", pa.binary(), nullable=False),
    ]
)

ROW_GROUPS_SCHEMA = pa.schema(
    [
        pa.field("shard", _DICTIONARY, nullable=False),
        pa.field("group", pa.uint32(), nullable=False),
        pa.field("offset", pa.uint64(), nullable=False),
        pa.field("length", pa.uint64(), nullable=False),
        pa.field("rows", pa.uint32(), nullable=False),
        pa.field("raw_bytes", pa.uint64(), nullable=False),
        pa.field("comp_symbols", pa.uint64(), nullable=False),
        # blake2b-128 of each column chunk's byte range, in the file's column order
        pa.field("digests", pa.list_(pa.field("element", pa.binary(16), nullable=False)), nullable=False),
    ]
)


_NAMES_IN_QUERIES = ("shard", "shard_row", "file_row_number", "filename", "_path")
"""Columns that views of a dataset add: a kept one of this name would be taken for the place of a row."""


def shard_schema(keep_columns: tuple[str, ...], metadata: dict[str, Any]) -> pa.Schema:
    """The explicit schema of a shard, never inferred from data.

    Args:
        keep_columns: names of kept input columns, appended as nullable strings in the given order.
        metadata: JSON object stored under `METADATA_KEY`.

    Raises:
        UserError: a kept column has the name of a shard column or of one that queries add, or is named twice.
    """
    taken = {*COLUMN_NAMES, *_NAMES_IN_QUERIES}
    for name in keep_columns:
        if name.casefold() in taken:  # SQL does not tell their cases apart
            raise UserError(f"--keep-columns: {name!r} is a shard column or is named twice; rename it in the input")
        taken.add(name.casefold())
    fields = _COLUMNS + [pa.field(name, pa.string(), nullable=True) for name in keep_columns]
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return pa.schema(fields, metadata={METADATA_KEY: text.encode()})


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Arguments of `pyarrow.parquet.ParquetWriter` for this schema.

    `comp` and `spans` are stored byte by byte plane (BYTE_STREAM_SPLIT) without a dictionary: 1.2-1.6 stored
    bytes a symbol. Statistics only where they can prune: not for raw and the lists.
    """
    plain = ("raw", "comp", "spans")
    return {
        "compression": COMPRESSION,
        "compression_level": COMPRESSION_LEVEL,
        "use_dictionary": ["source", "group"],
        "column_encoding": {
            "comp.list.element": "BYTE_STREAM_SPLIT",
            "spans.list.element": "BYTE_STREAM_SPLIT",
        },
        "write_statistics": [field.name for field in schema if field.name not in plain],
        "write_page_checksum": True,
        "version": "2.6",
    }


def metadata_of(schema: pa.Schema, path: str) -> dict[str, Any]:
    """The metadata object of a shard, checked to be of a version this code reads.

    Raises:
        UserError: the file is no shard, or its version is newer or too old.
    """
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise UserError(f"{path}: not a shard of this project (no {METADATA_KEY.decode()} metadata)")
    metadata: dict[str, Any] = json.loads(text)
    check_version(metadata.get("format_version"), path)
    return metadata


def check_version(version: object, path: str) -> None:
    """Accept the current format version and the one before it.

    Raises:
        UserError: no version.
        FormatVersionError: any other version, with what to do.
    """
    if not isinstance(version, int):
        raise UserError(f"{path}: format version {version!r} is not a number; the file is damaged or foreign")
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{path}: format version {version} is newer than this program's {FORMAT_VERSION}; update it"
        )
    if version < OLDEST_READABLE_VERSION:
        raise FormatVersionError(
            f"{path}: format version {version} is older than {OLDEST_READABLE_VERSION}; run preprocess again"
        )


def chunk_ranges(metadata: pq.FileMetaData, group: int) -> list[tuple[int, int]]:
    """(offset, length) in bytes of each column chunk of a row group, in the file's column order."""
    row_group = metadata.row_group(group)
    ranges = []
    for index in range(row_group.num_columns):
        column = row_group.column(index)
        start = column.data_page_offset
        if column.has_dictionary_page and column.dictionary_page_offset:
            start = min(start, column.dictionary_page_offset)
        ranges.append((start, column.total_compressed_size))
    return ranges


def chunk_digest(data: bytes | memoryview) -> bytes:
    """blake2b-128 of one column chunk's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def footer_start(tail: bytes, size: int, path: str) -> int:
    """Byte offset of a Parquet footer, from the file's last 8 bytes and its size.

    The footer's digest covers [offset, size): page checksums miss flips there.

    Raises:
        UserError: no Parquet file ends like this.
    """
    length = int.from_bytes(tail[:4], "little")
    if len(tail) != 8 or tail[4:] != b"PAR1" or length + 12 > size:
        raise UserError(f"{path}: does not end like a Parquet file (truncated or damaged)")
    return size - 8 - length
