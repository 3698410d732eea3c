"""`python -m pipelines inspect`: a document cut at its symbols, as a person or (--json) a program reads it.

Owns how symbols are shown: on a terminal on alternating backgrounds, elsewhere with a mark between them; a newline
is a return sign and the line break. Reads one row group of one shard; to find a document by its id or source it
scans these columns of all shards, by DuckDB.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from pipelines import dataset
from pipelines.dataset import Dataset
from pipelines.sql import connect, heard_interrupts, one_line
from schemas.draws import FITTING_MARGIN, split_uniform
from schemas.errors import UserError
from schemas.vocabulary import COMP_OFFSET

MARK = "│"
"""Between symbols where there is no colour. A text may hold it too: programs read --json."""

NOTHING = "∅"
"""A symbol that covers no bytes of its own: it carries on the one before."""

_BACKGROUNDS = ("black on #b8d8f0", "black on #f5e0a8")
_ESCAPE = "white on #a03050"
_NOTHING = "bold #a03050"


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Show a document cut at its symbols.

    Attributes:
        data: the dataset's folder, local or a URL; default data/stdlib-neural.
        doc: doc_id, or how it begins.
        source: input file, or a part of its path.
        index: which of the documents that match; of all documents, in the order of the shards, if neither is given.
        bytes: how much of the document to show.
        json: print JSON: the document's fields and its symbols, bytes in hex.
    """

    data: str | None = None
    doc: str | None = None
    source: str | None = None
    index: int = 0
    bytes: int = 2000
    json: bool = False

    def __post_init__(self) -> None:
        if self.index < 0 or self.bytes < 1:
            raise UserError(f"--index {self.index} --bytes {self.bytes}: give an index from 0 and 1 byte or more")
        if self.doc is not None and not re.fullmatch("[0-9a-f]{1,32}", self.doc):
            raise UserError(f"--doc {self.doc}: a doc_id is 32 lower-case hex digits; give all or its first ones")


@dataclass(frozen=True)
class Symbol:
    """A symbol of a comp view; `at` is its first byte in the document, `data` the bytes that it covers."""

    id: int
    at: int
    data: bytes

    @property
    def is_escape(self) -> bool:
        """Whether it is a raw byte that the proxy could not code otherwise."""
        return self.id < COMP_OFFSET


def inspect(options: InspectOptions) -> None:
    """Print the document.

    Raises:
        UserError: no dataset, no such document, or a damaged shard.
    """
    data = dataset.open_dataset(options.data or "data/stdlib-neural")
    shard, row, matches = _find(data, options)
    document = _read(data, shard, row)
    if options.json:
        sys.stdout.write(json.dumps(_as_json(data, document, options.bytes), ensure_ascii=False) + "\n")
        return
    console = Console(highlight=False, soft_wrap=True)
    colour = console.is_terminal and not console.no_color
    header = "\n".join(_header(data, document, shard, row, matches, options)) + "\n"
    body = _body(document, options.bytes, colour=colour)
    if colour:
        console.print(Text(header), body, sep="\n")
    else:
        sys.stdout.write(f"{header}\n{body.plain}\n")


def _find(data: Dataset, options: InspectOptions) -> tuple[str, int, int]:
    """Shard and row of the document, and how many match."""
    if options.doc is None and options.source is None:
        before = 0
        for shard in data.manifest.shards:
            if options.index < before + shard.rows:
                return shard.name, options.index - before, 1
            before += shard.rows
        raise UserError(f"--index {options.index}: the dataset has {before:,} documents")
    conditions, arguments, order = [], [], ""
    if options.doc is not None:
        conditions.append("doc_id >= ? and doc_id < ?")
        arguments += [options.doc, options.doc + "g"]  # a range, so that row groups are skipped by their statistics
    if options.source is not None:
        conditions.append("contains(source, ?)")
        arguments += [options.source]
        order = "source <> ?, "
    query = (
        f"select shard, shard_row, count(*) over () from documents where {' and '.join(conditions)} "
        f"order by {order}shard, shard_row limit 1 offset {options.index}"
    )
    try:
        with heard_interrupts():
            found = connect(data.folder.url).execute(query, arguments + ([options.source] if order else [])).fetchone()
    except duckdb.Error as error:
        raise _damaged(data, one_line(error)) from None
    if found is None:
        url, names = data.folder.url, ("doc", "source", "index")
        asked = " ".join(f"--{name} {value}" for name in names if (value := getattr(options, name)))
        raise UserError(
            f"DATA={url}: no document matches {asked}; list them: "
            f"make sql DATA={url} Q='select doc_id, source, record from documents limit 50'"
        )
    return found[0], found[1], found[2]


def _read(data: Dataset, shard: str, row: int) -> dict[str, Any]:
    """The row of a shard, comp and spans as arrays."""
    if shard not in {entry.name for entry in data.manifest.shards}:  # a kept column of a dataset from elsewhere, say
        raise _damaged(data, f"{str(shard)[:200]!r} is none of its shards")
    try:
        # Pre-buffering gives a Python file's buffers to threads, which now and then abort the process at its end.
        with data.folder.open(shard) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            group = 0
            while row >= parquet.metadata.row_group(group).num_rows:
                row -= parquet.metadata.row_group(group).num_rows
                group += 1
            table = parquet.read_row_group(group, use_threads=False).slice(row, 1)
        document = {name: table[name][0].as_py() for name in table.column_names if name not in ("comp", "spans")}
        for name in ("comp", "spans"):
            values = table[name][0].values
            document[name] = None if values is None else values.to_numpy()
        return document
    except (pa.ArrowException, OSError, IndexError) as error:
        raise _damaged(data, f"{shard}: {' '.join(str(error).split())[:200]}") from None


def _damaged(data: Dataset, detail: str) -> UserError:
    return UserError(f"DATA={data.folder.url}: {detail}; make verify DATA={data.folder.url} says what is damaged")


def symbols(document: dict[str, Any], limit: int) -> Iterator[Symbol]:
    """The symbols that start in the first `limit` bytes; of a view without spans none."""
    if document["spans"] is None:
        return
    ends = np.cumsum(document["spans"], dtype=np.int64)
    shown = int(np.searchsorted(ends - document["spans"], limit))
    at = 0
    for symbol, end in zip(document["comp"][:shown].tolist(), ends[:shown].tolist(), strict=True):
        yield Symbol(symbol, at, document["raw"][at:end])
        at = end


def _as_json(data: Dataset, document: dict[str, Any], limit: int) -> dict[str, Any]:
    split = split_uniform(bytes.fromhex(document["doc_id"]))
    listed: list[dict[str, Any]] | None = None
    if document["comp"] is not None and document["spans"] is None:
        empty = {"at": None, "span": None, "bytes": None, "text": None}
        listed = [{"id": symbol, **empty} for symbol in document["comp"][:limit].tolist()]
    elif document["comp"] is not None:
        listed = [
            {
                "id": symbol.id,
                "at": symbol.at,
                "span": len(symbol.data),
                "bytes": symbol.data.hex(),
                "text": symbol.data.decode("utf-8", "replace"),
            }
            for symbol in symbols(document, limit)
        ]
    fields = ("doc_id", "source", "record", "piece", "group", "raw_bytes", "comp_symbols")
    return {
        **{name: document[name] for name in fields},
        "proxy": data.manifest.dataset["proxy"]["name"],
        "split": split,
        "kept_from_fitting": split < FITTING_MARGIN,
        "text": document["raw"][:limit].decode("utf-8", "replace"),
        "symbols": listed,
    }


def _header(
    data: Dataset, document: dict[str, Any], shard: str, row: int, matches: int, options: InspectOptions
) -> list[str]:
    split = split_uniform(bytes.fromhex(document["doc_id"]))
    fitting = "never used" if split < FITTING_MARGIN else "may have been used"
    count, length = document["comp_symbols"], document["raw_bytes"]
    ratio = f", {length / count:.3f} bytes a symbol" if count else ""
    piece = f", piece {document['piece']}" if document["piece"] else ""
    source, group = (visible(document[name].encode()) for name in ("source", "group"))
    lines = [
        f"document  {document['doc_id']}",
        f"split     draw {split:.4f}: held out by a run whose --val-fraction is above it; {fitting} to fit a proxy",
        f"source    {source}, record {document['record']}{piece}, group '{group}'",
        f"shard     {shard}, row {row}",
        f"size      {length:,} bytes, {count:,} symbols{ratio}, proxy {data.manifest.dataset['proxy']['name']}",
    ]
    if matches > 1:
        lines.append(
            f"match     {options.index + 1:,} of {matches:,} (--index {(options.index + 1) % matches}: another)"
        )
    if document["comp"] is None:
        lines.append("view      this proxy has no comp view")
    elif document["spans"] is None:
        lines.append("view      symbols of this proxy cover no definite bytes: the text, then their ids")
    return lines


def _body(document: dict[str, Any], limit: int, *, colour: bool) -> Text:
    text = Text()
    shown = 0
    if document["spans"] is None:
        raw, ids = document["raw"][:limit], document["comp"]
        text.append(visible(raw))
        if ids is not None:
            text.append("\n\n" + " ".join(map(str, ids[:limit].tolist())))
            shown = min(len(ids), limit)
        end = len(raw)
    else:
        end = 0
        for symbol in symbols(document, limit):
            if shown and not colour:
                text.append(MARK)
            text.append(*_styled(symbol, shown, colour))
            end, shown = symbol.at + len(symbol.data), shown + 1
    if end < document["raw_bytes"]:
        more = f"{document['comp_symbols'] - shown:,} symbols and " if document["comp_symbols"] else ""
        text.append(f"\n\n... {more}{document['raw_bytes'] - end:,} bytes more (--bytes)")
    return text


def _styled(symbol: Symbol, place: int, colour: bool) -> tuple[str, str]:
    if not symbol.data:
        return NOTHING, _NOTHING if colour else ""
    shown = visible(symbol.data)
    if symbol.is_escape:
        return (shown, _ESCAPE) if colour else (f"<{symbol.data.hex()}>", "")
    return shown, _BACKGROUNDS[place % 2] if colour else ""


def visible(data: bytes) -> str:
    """Bytes as text in which nothing is hidden: newlines, tabs, and whatever cannot be printed or is not UTF-8."""
    return "".join(_visible(character) for character in data.decode("utf-8", "backslashreplace"))


def _visible(character: str) -> str:
    if character == "\n":
        return "↵\n"
    if character == "\t":
        return "→\t"
    return character if character.isprintable() else character.encode("unicode_escape").decode()
