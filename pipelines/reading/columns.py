"""Are the fields and columns that options name there at all? A misspelt one would only give empty values.

Looks at the footers of at most `FILES` Parquet files and at the first records of as many JSONL files, spread over the
listing. A name that none has is an error where there is no JSONL, as footers are complete; else it is a line to show,
since a later record may have it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq

from pipelines.reading import dataset_reader
from pipelines.reading.corpus import Corpus
from pipelines.reading.inputs import (
    InputError,
    InputFile,
    input_errors,
    open_input,
    printable,
    refuse_encrypted,
)
from pipelines.reading.readers import first_objects
from pipelines.reading.records import ReadOptions
from schemas.errors import UserError
from schemas.names import SHARD_NAME
from schemas.secrets import redacted
from schemas.shard import COLUMN_NAMES, metadata_of
from schemas.terminal import visible

FILES = 32
_LISTED_NAMES = 20


def settled(corpus: Corpus, read: ReadOptions) -> tuple[ReadOptions, list[str]]:
    """The options of reading for this corpus, and lines for people about what they name in vain.

    Of a dataset of ours the kept columns are those it has, unless others are asked for.

    Raises:
        UserError: no Parquet file has a column of a name, the corpus has neither fields nor columns, or it is a dataset
            of another format version.
    """
    warnings: list[str] = []
    shard = None if corpus.parts or read.field not in (None, dataset_reader.TEXT) else _shard(corpus)
    if shard is not None:
        if not read.keep_columns:
            read = replace(read, keep_columns=tuple(shard.schema_arrow.names[len(COLUMN_NAMES) :]))
        if _longest(shard.metadata) > read.max_document_bytes:
            warnings.append(
                f"--max-document-bytes {read.max_document_bytes:,}: documents of a dataset stay as they are cut, and "
                "some are longer"
            )
    wanted = dict.fromkeys(read.keep_columns, "--keep-columns")
    wanted |= {name: "--group-field" for name in (read.group_field,) if name is not None}
    wanted |= {name: "--field" for name in (read.field,) if name is not None}
    missing, seen = dict(wanted), set[str]()
    for names in _names(corpus, read) if wanted else ():
        seen |= names
        missing = {name: option for name, option in missing.items() if name not in seen}
        if not missing:
            break
    has_lines = any(file.format == "jsonl" for file in corpus.inputs)
    for name, option in missing.items():
        listed = ", ".join(visible(printable(one[:60])) for one in sorted(seen)[:_LISTED_NAMES])
        where = "no record that was looked at" if has_lines else "no file"
        line = f"{option} {name!r}: {where} has it; there are {listed or 'none (text files have no fields)'}"
        if not has_lines:
            raise UserError(line)
        warnings.append(line)
    return read, warnings


def _shard(corpus: Corpus) -> Any:
    """Of a dataset of ours a shard, opened: the first of some that can be read. None for other corpora.

    Raises:
        UserError: none of them can, or it is of another format version.
    """
    if corpus.inputs[0].format != "parquet":
        return None
    files = _spread([file for file in corpus.inputs if file.format == "parquet"])
    for file in files:
        try:
            with input_errors(file.root), open_input(file) as stored:
                opened = pq.ParquetFile(stored, pre_buffer=False)
                refuse_encrypted(opened.metadata, stored)
                if not dataset_reader.is_shard(opened.schema_arrow):
                    return None
                metadata_of(opened.schema_arrow, file.source)  # refuses a version that this program does not read
                return opened
        except InputError:
            continue  # a reject, later
    if all(SHARD_NAME.fullmatch(file.path) for file in files):
        raise UserError(
            f"{redacted(corpus.spec)}: none of {len(files):,} shards that were looked at can be read; make verify says "
            "what is wrong"
        )
    return None


def _longest(metadata: Any) -> int:
    column = COLUMN_NAMES.index("raw_bytes")
    chunks = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    statistics = (row_group.column(_leaf(row_group, column)).statistics for row_group in chunks)
    return max((one.max for one in statistics if one is not None and one.has_min_max), default=0)


def _leaf(row_group: Any, column: int) -> int:
    """Leaf columns are in the order of the schema, and a list has one."""
    return next(i for i in range(row_group.num_columns) if row_group.column(i).path_in_schema == COLUMN_NAMES[column])


def _names(corpus: Corpus, read: ReadOptions) -> Iterator[set[str]]:
    for file in _spread([file for file in corpus.inputs if file.format == "parquet" and not file.compression]):
        try:
            with input_errors(file.root), open_input(file, block_bytes=1 << 16) as stored:
                yield set(pq.ParquetFile(stored, pre_buffer=False).schema_arrow.names)
        except InputError:
            continue  # a reject, later
    for file in _spread([file for file in corpus.inputs if file.format == "jsonl"]):
        yield _keys(file, read)


def _spread(files: list[InputFile]) -> list[InputFile]:
    count = min(FILES, len(files))
    return [files[index * len(files) // count] for index in range(count)]


def _keys(file: InputFile, read: ReadOptions) -> set[str]:
    keys: set[str] = set()
    try:
        for value in first_objects(file, read):
            keys |= value.keys()
    except InputError:
        pass  # a reject, later
    return keys
