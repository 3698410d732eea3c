"""Reads a run of row groups of a Parquet file as documents; rows of our own datasets by `dataset_reader`.

Only the wanted columns are read, in batches of about 1 MiB by the footer's sizes and of 16 rows at most. What
bounds the memory is therefore the file's pages (by most writers 1 MiB or less) and 16 of its longest values, which a
dictionary repeats for nothing. Texts are taken as bytes and never decoded, so invalid UTF-8 survives.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.reading import dataset_reader
from pipelines.reading.cut_documents import CutDocuments
from pipelines.reading.documents import Document, Reject
from pipelines.reading.inputs import (
    CHUNK_BYTES,
    InputError,
    InputFile,
    check_expansion,
    check_size,
    input_errors,
    open_input,
    refuse_encrypted,
)
from pipelines.reading.plan import ParquetBlock
from pipelines.reading.records import (
    ReadOptions,
    RefusalError,
    Told,
    as_text,
    default_group,
    documents_of,
    missing_field,
    rejected,
    told,
)

_FIELDS = ("text", "content", "raw")
_BATCH_BYTES = 1 << 20
_MAX_BATCH_ROWS = 16
"""The footer does not know how long the values of a dictionary are. Reading indices instead (`read_dictionary`) is
no remedy: where a dictionary is followed by plain pages, Arrow copies all values since the start for each batch."""

_MAX_BATCH_INDICES = 1024
"""Rows of a batch whose only column is a dictionary by the file's schema, which Arrow gives as indices anyway."""

_LEAST_AHEAD = 1 << 16
"""Bytes that are read ahead of a small block on a store."""

_BUFFER_BYTES = 1 << 18
"""Of each column's buffered reads of a local file."""

_OUT_OF_RANGE = "<value out of range"
"""How Arrow writes a time that no calendar of its has."""

_EPOCH = datetime(1970, 1, 1)
_UNIT_NANOS = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}


def read_parquet(block: ParquetBlock, options: ReadOptions) -> Iterator[Document | Reject]:
    """The documents and rejects of a block; `record` is the row's index in the file, but for datasets of ours.

    A file without the column, with several of its name, or whose column is neither text nor binary, gives one
    reject a block.
    """
    source = block.file.source
    row = block.first_row
    decoded = 0
    cut, whole = CutDocuments(), dataset_reader.Whole()
    try:
        if block.file.compression:
            raise InputError("unreadable", "a Parquet file that is compressed as a whole; decompress it first")
        # Reading ahead beyond the block, or past the columns that are read, would fetch a file several times.
        ahead = min(4 * CHUNK_BYTES, max(_LEAST_AHEAD, block.input_bytes // 4))
        with input_errors(block.file.root), open_input(block.file, block_bytes=ahead) as stored:
            check_size(stored, block.file)
            # No pre-buffering: Arrow's threads that read ahead from a Python file may outlive it, and end the process.
            file = pq.ParquetFile(stored, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
            refuse_encrypted(file.metadata, stored)
            _check_groups(file.metadata, block)
            name = _text_column(file.schema_arrow, options)
            is_dataset = block.is_dataset and name == dataset_reader.TEXT and dataset_reader.is_shard(file.schema_arrow)
            columns = [*dataset_reader.COLUMNS, name] if is_dataset else [name]
            if is_dataset:
                whole = dataset_reader.whole_of(file)
            for batch in _batches(file, block, columns, options):
                first = row
                for item in (
                    _dataset_rows(batch, block.file, options, whole, cut)
                    if is_dataset
                    else _rows(batch, name, block.file, first, options)
                ):
                    if not is_dataset:
                        row = item.record
                    if isinstance(item, Document):
                        decoded += len(item.raw) + sum(len(value) for value in item.kept.values() if value)
                        check_expansion(decoded, block.file)
                    yield item
                row = first + batch.num_rows
            if row != block.first_row + block.rows:
                raise InputError("unreadable", f"{row - block.first_row:,} rows instead of {block.rows:,}")
    except (InputError, RefusalError) as error:
        left = block.rows - (row - block.first_row)
        lost = block.input_bytes * left // block.rows if block.rows else block.input_bytes
        yield rejected(source, row, error, lost_bytes=lost)
    yield from dataset_reader.missing_pieces(cut, whole, block.file)


def _check_groups(metadata: Any, block: ParquetBlock) -> None:
    groups = range(block.start, block.stop)
    if not block.readable or block.stop > metadata.num_row_groups:
        raise InputError("unreadable", "its footer is not the one that was read for the plan; run again")
    rows = sum(metadata.row_group(group).num_rows for group in groups)
    if rows != block.rows:
        raise InputError("unreadable", f"{rows:,} rows, {block.rows:,} when the plan was made; run again")


def _text_column(schema: Any, options: ReadOptions) -> str:
    wanted = _FIELDS if options.field is None else (options.field,)
    name = next((name for name in wanted if name in schema.names), None)
    if name is None:
        raise missing_field(wanted, schema.names, "columns")
    for used in (name, *_other_columns(options)):
        count = schema.names.count(used)
        if count > 1:
            raise RefusalError("wrong-type", f"{count} columns are named {used!r}; rename all but one")
    kind = schema.field(name).type
    if not _holds_bytes(kind.value_type if pa.types.is_dictionary(kind) else kind):
        raise RefusalError("wrong-type", f"column {name!r} is {kind}; expected string or binary")
    return name


def _other_columns(options: ReadOptions) -> list[str]:
    return [*options.keep_columns, *([options.group_field] if options.group_field else [])]


def _holds_bytes(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )


def _batches(file: Any, block: ParquetBlock, columns: list[str], options: ReadOptions) -> Iterator[Any]:
    """Batches of these columns, the last of which is the text, and of those that the options name."""
    present = set(file.schema_arrow.names)
    name = columns[-1]
    columns = list(dict.fromkeys([*columns, *(other for other in _other_columns(options) if other in present)]))
    only_indices = columns == [name] and pa.types.is_dictionary(file.schema_arrow.field(name).type)
    for group in range(block.start, block.stop):
        metadata = file.metadata.row_group(group)
        size = sum(
            chunk.total_uncompressed_size
            for chunk in (metadata.column(index) for index in range(metadata.num_columns))
            if any(
                chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.") for column in columns
            )
        )
        # Our writer repeats no text.
        whole = len(columns) > 1 and block.is_dataset and not _has_dictionary(metadata, name)
        most_rows = _MAX_BATCH_INDICES if only_indices or whole else _MAX_BATCH_ROWS
        rows = max(1, min(most_rows, _BATCH_BYTES * metadata.num_rows // max(1, size)))
        yield from file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)


def _has_dictionary(metadata: Any, name: str) -> bool:
    chunks = (metadata.column(index) for index in range(metadata.num_columns))
    return any(chunk.has_dictionary_page for chunk in chunks if chunk.path_in_schema == name)


def _dataset_rows(
    batch: Any, file: InputFile, options: ReadOptions, whole: dataset_reader.Whole, cut: CutDocuments
) -> Iterator[Document | Reject]:
    kept = {column: _text_values(batch, column) for column in options.keep_columns}
    if options.group_field is None and file.corpus:
        groups: list[Told] = [file.corpus] * batch.num_rows
    else:
        groups = _text_values(batch, options.group_field or "group")
    yield from dataset_reader.documents(batch, file, kept, groups, whole, cut)


def _rows(batch: Any, name: str, file: InputFile, row: int, options: ReadOptions) -> Iterator[Document | Reject]:
    source, default = file.source, default_group(file)
    texts = batch.column(name)
    kept = {column: _text_values(batch, column) for column in options.keep_columns}
    groups = None if options.group_field is None else _text_values(batch, options.group_field)
    for index in range(batch.num_rows):
        raw = _bytes_of(texts[index])
        if raw is None:
            yield rejected(source, row + index, RefusalError("missing-field", f"column {name!r} is null in this row"))
            continue
        try:
            values = {column: told(column_values[index]) for column, column_values in kept.items()}
            group = default if groups is None else told(groups[index]) or ""
        except RefusalError as refusal:
            yield rejected(source, row + index, refusal, raw)
            continue
        yield from documents_of(raw, source, row + index, group, values, options.max_document_bytes)


def _bytes_of(scalar: Any) -> bytes | None:
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value  # one value at a time: decoding the column may repeat a long text a thousand times
    buffer = None if scalar is None else scalar.as_buffer()
    return None if buffer is None else buffer.to_pybytes()


def _text_values(batch: Any, name: str) -> list[Told]:
    """A kept column as text: strings as they are, times as Arrow writes them (UTC), others as JSON."""
    if name not in batch.schema.names:
        return [None] * batch.num_rows
    column = batch.column(name)
    kind = column.type
    if _holds_bytes(kind.value_type if pa.types.is_dictionary(kind) else kind):
        raws = (_bytes_of(value) for value in column)
        return [None if raw is None else raw.decode("utf-8", "backslashreplace") for raw in raws]
    if pa.types.is_timestamp(kind):
        # without its zone, the values are UTC; with it, Arrow would need a zone database on every worker
        column = column.cast(pa.timestamp(kind.unit))
    if pa.types.is_duration(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_temporal(kind):
        refused = RefusalError("wrong-type", f"column {name!r} has a time out of range; leave it out")
        texts = column.cast(pa.string()).to_pylist()
        return [refused if text is not None and text.startswith(_OUT_OF_RANGE) else text for text in texts]
    plain = _plain if _holds_times(column.type) else _as_python
    return [_text_value(scalar, name, plain) for scalar in column]


def _text_value(scalar: Any, name: str, plain: Callable[[Any], Any]) -> Told:
    try:
        return as_text(plain(scalar), name)
    except RefusalError as refusal:
        return refusal
    except (ValueError, OverflowError, RecursionError) as error:  # a nested time that Python cannot hold, say
        return RefusalError("wrong-type", f"column {name!r} cannot be kept as text ({error}); leave it out")


def _as_python(scalar: Any) -> Any:
    return scalar.as_py()


def _holds_times(kind: Any) -> bool:
    """Whether a type has times nested in it of which `as_py` gives something else where pandas is installed."""
    types = pa.types
    if types.is_timestamp(kind) or types.is_time64(kind) or types.is_duration(kind):
        return True
    return any(_holds_times(kind.field(index).type) for index in range(kind.num_fields))


def _plain(scalar: Any) -> Any:
    """As `as_py`, but that times are text: to the nanosecond without pandas, UTC without a zone database."""
    kind, types = scalar.type, pa.types
    if not scalar.is_valid:
        return None
    if types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        if len(set(names)) < len(names):
            raise ValueError("fields of one name")
        return {name: _plain(scalar[index]) for index, name in enumerate(names)}
    if types.is_map(kind):
        return [[_plain(pair[0]), _plain(pair[1])] for pair in scalar.values]
    if hasattr(scalar, "values"):  # a list of any kind
        return [_plain(value) for value in scalar.values]
    if types.is_timestamp(kind):
        return _moment(scalar.value, kind.unit) + ("" if kind.tz is None else "+00:00")
    if types.is_time64(kind):
        day, _, time = _moment(scalar.value, kind.unit).partition(" ")
        if day != "1970-01-01":
            raise ValueError(f"a time of day of {scalar.value} {kind.unit}")
        return time
    return _span(scalar.value, kind.unit) if types.is_duration(kind) else scalar.as_py()


def _moment(value: int, unit: str) -> str:
    micros, nanos = _micros(value, unit)
    return _with_nanos(str(_EPOCH + timedelta(microseconds=micros)), nanos)


def _span(value: int, unit: str) -> str:
    micros, nanos = _micros(value, unit)
    return _with_nanos(str(timedelta(microseconds=micros)), nanos)


def _micros(value: int, unit: str) -> tuple[int, int]:
    return divmod(value * _UNIT_NANOS[unit], 1000)


def _with_nanos(text: str, nanos: int) -> str:
    if not nanos:
        return text
    return f"{text}{'' if '.' in text else '.000000'}{nanos:03}"
