"""Reads a block of the plan: a stream of documents and rejects, in the order of the input.

`read_block(block, options)` is a generator with bounded memory: of text, one document of at most
`max_document_bytes` (a longer one is read twice: for its doc_id, then for its pieces); of JSONL, one line of at
most `max_record_bytes` and its parsed form; of Parquet see `parquet_reader`. Every yielded item counts as one
document read. An input that cannot be read further gives one reject; what was read before stays.
Costs on one core of a shared machine, doc_id included, raw MB/s: text files 310-510 (130 where many small ones are
not in the page cache), JSONL lines of 5 KB 230-380, the same from zst 300 and gz 200, Parquet 230-380.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import orjson

from pipelines.reading.documents import EXCERPT_BYTES, Document, Reject
from pipelines.reading.inputs import InputError, InputFile, printable, read_chunks
from pipelines.reading.parquet_reader import read_parquet
from pipelines.reading.pieces import stream_pieces
from pipelines.reading.plan import Block, JsonlBlock, TextBlock
from pipelines.reading.records import (
    Number,
    ReadOptions,
    RefusalError,
    as_text,
    default_group,
    documents_of,
    exact_int,
    is_rounded,
    may_be_rounded,
    missing_field,
    rejected,
)
from schemas.errors import UserError

_JSON_FIELDS = ("text", "content")
_BOM = b"\xef\xbb\xbf"

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""Also one that never ends, as in a line that was cut: else each escaped quote in it would be tried as another."""

_VALUE_MARKS = (b",", b":", b"[", b"{")
_BYTES_A_VALUE = 16
_LONG_LINE = 1 << 20
"""Shorter lines are harmless: 1 MiB of brackets takes 30 MB when parsed. Of a longer one the values are limited to
one a `_BYTES_A_VALUE` of `max_record_bytes`, since what is parsed may take 30 times the line."""


def read_block(block: Block, options: ReadOptions) -> Iterator[Document | Reject]:
    """The documents and rejects of one block.

    Args:
        block: of the plan.
        options: how records become documents.

    Raises:
        UserError: a text file changed between its two passes, or an object store refuses access.
        OSError: what a retry may cure, such as a lost connection.
    """
    if isinstance(block, TextBlock):
        for file in block.files:
            yield from _read_text(file, options)
    elif isinstance(block, JsonlBlock):
        yield from _read_jsonl(block, options)
    else:
        yield from read_parquet(block, options)


def _read_text(file: InputFile, options: ReadOptions) -> Iterator[Document | Reject]:
    limit = options.max_document_bytes
    held: list[bytes] = []
    size = 0
    digest = hashlib.blake2b(digest_size=16)
    try:
        for chunk in read_chunks(file):
            digest.update(chunk)
            size += len(chunk)
            held.append(chunk)
            if size > limit:
                held.clear()
    except InputError as error:
        yield rejected(file.source, 0, error, lost_bytes=file.size)
        return
    doc_id, source, group = digest.digest(), file.source, default_group(file)
    kept: dict[str, str | None] = dict.fromkeys(options.keep_columns)
    parts: Iterable[bytes] = (b"".join(held),) if size <= limit else _second_pass(file, doc_id, limit)
    held.clear()
    for piece, raw in enumerate(parts):
        yield Document(
            doc_id=doc_id, source=source, record=0, piece=piece, group=group, raw=raw, kept=kept, whole_bytes=size
        )


def _second_pass(file: InputFile, doc_id: bytes, limit: int) -> Iterator[bytes]:
    """The pieces of a long text file; fails the unit if they are not those of the document that was hashed."""
    digest = hashlib.blake2b(digest_size=16)

    def hashed() -> Iterator[bytes]:
        for chunk in read_chunks(file):
            digest.update(chunk)
            yield chunk

    try:
        yield from stream_pieces(hashed(), limit)
    except InputError as error:
        raise UserError(f"{file.source}: changed while it was read ({error.detail}); run again") from None
    if digest.digest() != doc_id:
        raise UserError(f"{file.source}: changed while it was read; run again when nothing writes to it")


def _read_jsonl(block: JsonlBlock, options: ReadOptions) -> Iterator[Document | Reject]:
    source = block.file.source
    limit = options.max_record_bytes
    # A line starts in the range iff the byte before it is in [start - 1, stop - 1) and a newline.
    start = max(0, block.start - 1)
    stop = None if block.file.compression else block.stop
    chunks = read_chunks(block.file, start, stop)
    next_record = block.start
    try:
        for record, line, length in _lines(chunks, start, stop, limit, skip=block.start > 0):
            next_record = record + length + 1
            try:
                if length > limit:
                    raise RefusalError("record-too-long", f"longer than --max-record-bytes ({limit:,})")
                found = _json_text(line, block.file, record, options)
                if found is not None:
                    raw, group, kept = found
                    yield from documents_of(raw, source, record, group, kept, options.max_document_bytes)
            except RefusalError as refusal:
                yield rejected(source, record, refusal, line)
    except InputError as error:
        lost = error.unread_bytes if block.file.compression else max(0, block.stop - next_record)
        yield rejected(source, next_record, error, lost_bytes=lost)


def first_objects(file: InputFile, options: ReadOptions) -> Iterator[dict[str, Any]]:
    """The objects that end in the first chunk of a JSONL file; where no line does, in the next chunk in which one ends.

    No more is read than the longest record takes.

    Raises:
        InputError: the file cannot be read so far.
    """
    ended = False

    def chunks() -> Iterator[bytes]:
        size = 0
        for chunk in read_chunks(file):
            yield chunk
            size += len(chunk)
            if ended or size > options.max_record_bytes:
                return

    for record, line, length in _lines(chunks(), 0, None, options.max_record_bytes, skip=False):
        ended = True
        try:
            value = None if length > options.max_record_bytes else _object(line, record, options)
        except RefusalError:
            continue  # cut, or a reject, later
        if value is not None:
            yield value


def _lines(
    chunks: Iterable[bytes], offset: int, stop: int | None, limit: int, *, skip: bool
) -> Iterator[tuple[int, bytes, int]]:
    """Lines that start before `stop`, without their LF.

    Args:
        chunks: the bytes from `offset` on.
        offset: position of the first byte.
        stop: lines that start here or later are not given; None: all are.
        limit: of a longer line only the first bytes are held and given.
        skip: whether the first line is (the end of) one that started before.

    Yields:
        (offset, line, length); of a line longer than `limit` an excerpt, and a lower bound of its length.
    """
    held: list[bytes] = []
    size = 0  # bytes seen of the line that starts at `offset` and has not ended
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            if stop is not None and offset >= stop:
                return
            length = size + len(line)
            if size:
                held.append(line)
                line = b"".join(held) if length <= limit else _head(held)
                held, size = [], 0
            if not skip:
                yield offset, line, length
            skip = False
            offset += length + 1
        size += len(rest)
        if size:
            held.append(rest)
        if skip or size > limit:
            held = [_head(held)]
        if stop is not None and offset + size >= stop:
            # past the range: only the rest of a line that is still to be given is of interest
            excerpt_only = size > max(limit, EXCERPT_BYTES)
            if offset >= stop or skip or excerpt_only:
                break
    if size and not skip and (stop is None or offset < stop):
        yield offset, b"".join(held), size


def _head(parts: list[bytes]) -> bytes:
    head = b""
    for part in parts:
        head += part[: EXCERPT_BYTES - len(head)]
    return head


def _object(line: bytes, record: int, options: ReadOptions) -> Any:
    """The JSON object of a line; None for a blank line. Of its numbers those with many digits may be rounded.

    Args:
        line: without its newline.
        record: its offset.
        options: limit what a long line may hold, see `_has_more_values`.

    Raises:
        RefusalError: record-too-long, invalid-utf8, invalid-json, not-an-object.
    """
    most_values = options.max_record_bytes // _BYTES_A_VALUE
    if len(line) > _LONG_LINE and _has_more_values(line, most_values):
        raise RefusalError("record-too-long", f"more than {most_values:,} JSON values (a 16th of --max-record-bytes)")
    line = _without_mark(line, record)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        # orjson is strict: a second opinion decides between a reject and an oddity outside the text (NaN, say)
        if not line.strip():
            return None
        value = _parse_exactly(line)
    if type(value) is not dict:
        raise RefusalError("not-an-object", f"a JSON {type(value).__name__}; each line must be an object")
    return value


def _without_mark(line: bytes, record: int) -> bytes:
    return line.removeprefix(_BOM) if record == 0 else line


def _has_more_values(line: bytes, most: int) -> bool:
    """Whether a line has more keys and values, each an object of some 100 bytes when parsed; outside of strings."""
    count = at = 0
    for string in _STRING.finditer(line):
        count += sum(line.count(mark, at, string.start()) for mark in _VALUE_MARKS)
        at = string.end()
        if count > most:
            return True
    return count + sum(line.count(mark, at) for mark in _VALUE_MARKS) > most


def _parse_exactly(line: bytes) -> Any:
    """By the standard library, which takes NaN and infinities; numbers keep their digits."""
    try:
        return json.loads(line.decode(), parse_int=exact_int, parse_float=Number)
    except UnicodeDecodeError as error:
        raise RefusalError("invalid-utf8", f"byte {error.start:,} of the line: {error.reason}") from None
    except (ValueError, RecursionError) as error:
        raise RefusalError("invalid-json", printable(str(error))) from None


def _json_text(
    line: bytes, file: InputFile, record: int, options: ReadOptions
) -> tuple[bytes, str, dict[str, str | None]] | None:
    """Raw bytes, group and kept columns of a line; None of a blank one. What was parsed is gone when it returns.

    Raises:
        RefusalError: the line is no document.
    """
    value = _object(line, record, options)
    if value is None:
        return None
    wanted = (*options.keep_columns, options.group_field)
    # The standard library takes eight bytes a character, so not for lines of any length.
    if len(line) <= _LONG_LINE and any(may_be_rounded(value.get(name)) for name in wanted):
        with suppress(RefusalError):  # nested more deeply than it can read
            exact = _parse_exactly(_without_mark(line, record))
            value |= {name: exact[name] for name in wanted if name in exact and is_rounded(exact[name])}
    names = _JSON_FIELDS if options.field is None else (options.field,)
    for name in names:
        text = value.get(name)
        if text is not None:
            break
    else:
        raise missing_field(names, list(value), "keys")
    if type(text) is not str:
        raise RefusalError("wrong-type", f"{name!r} is a JSON {type(text).__name__.lower()}, not a string")
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise RefusalError("lone-surrogate", f"{name!r} has one at character {error.start:,}") from None
    if options.group_field is None:
        group = default_group(file)
    else:
        group = as_text(value.get(options.group_field), options.group_field) or ""
    kept = {name: as_text(value.get(name), name) for name in options.keep_columns}
    return raw, group, kept
