"""`python -m pipelines sql`: DuckDB over a dataset, with views that know its files; one query or a prompt.

`connect(data)` gives an in-memory connection in which `VIEWS` exist; nothing is copied, and the dataset is only
read. Works on unfinished datasets too, whose rejects one may want to see. On one core `symbols` gives about 20
million rows/s, with the bytes of each; what a query does not name is not read.
"""

import os
import readline
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipelines import commit, dataset
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Manifest, ShardEntry
from schemas.names import MANIFEST, ROW_GROUPS, SHARD_NAME
from schemas.remote import filesystem

VIEWS = {
    "documents": "one row a document: the columns of the shards, `shard` and `shard_row`",
    "symbols": "one row a comp symbol: its place, id, span, first byte `at_byte`, and the raw `bytes` it covers",
    "row_groups": "one row a row group of a shard: where its bytes are, what they hold",
    "rejects": "one row a document that did not become one of the dataset",
    "shards": "the manifest's lines",
    "receipts": "one row a unit: documents, rejects by reason, seconds by stage",
}

EXAMPLES = (
    'select "group", sum(raw_bytes) / sum(comp_symbols) as bytes_per_symbol from documents group by all;',
    "select id, count(*) as n, any_value(bytes) as bytes from symbols group by id order by n desc limit 20;",
    "select reason, count(*) as n, any_value(detail) as example from rejects group by reason order by n desc;",
)

_HELP = """views:
{views}
for example:
{examples}
A query ends with ';'. .help shows this, .quit or Ctrl-D ends. More queries: docs/duckdb.md
"""

_RECEIPT_BYTES = 64 << 20
"""Longest receipt that DuckDB reads: a unit of some 100,000 row groups."""

_PIPED_ROWS, _PIPED_WIDTH, _PIPED_COLUMN_WIDTH = 1_000_000, 100_000, 200
"""Of a table that goes to a file or a pipe: what a program reads is not cut to a screen."""


@dataclass(frozen=True, kw_only=True)
class SqlOptions:
    """Query a dataset with DuckDB.

    Attributes:
        data: the dataset's folder, local or a URL.
        query: SQL to run; without it there is a prompt, or standard input is run.
    """

    data: str = "data/stdlib-neural"
    query: str | None = None


def sql(options: SqlOptions) -> None:
    """Run the query, or what comes from standard input.

    Raises:
        UserError: no dataset, or a query that fails (at a prompt it is shown and the prompt goes on).
    """
    connection = connect(options.data)
    if options.query is not None:
        _show(connection, options.query)
    elif sys.stdin.isatty():
        _with_history(lambda: _prompt(connection, options.data))
    else:
        for statement in _statements(lambda _: sys.stdin.readline()):
            if not _command(connection, statement):
                return


def connect(data: str) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views of a dataset.

    Raises:
        UserError: there is no dataset, or its manifest is damaged.
    """
    folder = Folder(data)
    sizes = folder.sizes()
    names = sorted(name for name in sizes if SHARD_NAME.fullmatch(name))
    if MANIFEST in sizes or not names:
        manifest: Manifest | None = dataset.open_dataset(data).manifest
    else:
        manifest = None
    connection = duckdb.connect()
    if not folder.is_local:
        connection.register_filesystem(filesystem(data)[0])
    define: Any = connection.create_function  # its stubs know no functions over Arrow arrays
    define("_at_bytes", _at_bytes, ["USMALLINT[]"], "UINTEGER[]", type="arrow")
    define("_symbol_bytes", _symbol_bytes, ["BLOB", "USMALLINT[]"], "BLOB[]", type="arrow")
    receipts = sorted(folder.sizes("receipts"))
    shards = manifest.shards if manifest else [found.shard for found in commit.read_receipts(folder, receipts)]
    connection.register("_shards", _table(shards))
    views = {
        "documents": "select * exclude (_path), parse_filename(_path) as shard from "
        f"(select * rename (file_row_number as shard_row) from {_parquet(folder, names, 'file_row_number = true')})",
        "symbols": "select doc_id, shard, source, record, piece, generate_subscripts(comp, 1) - 1 as position, "
        "unnest(comp) as id, unnest(spans) as span, unnest(_at_bytes(spans)) as at_byte, "
        "unnest(_symbol_bytes(raw, spans)) as bytes from documents",
        "shards": "select * from _shards",
    }
    if ROW_GROUPS in folder.sizes("meta"):
        views["row_groups"] = f"select * exclude (_path) from {_parquet(folder, [ROW_GROUPS])}"
    if rejects := sorted(folder.sizes("rejects")):
        views["rejects"] = f"select * exclude (_path), parse_filename(_path) as shard from {_parquet(folder, rejects)}"
    if receipts:
        views["receipts"] = (
            "select unit, shard.name as shard, documents, shard.rows as rows, rejects.rows as rejects, duplicates, "
            "filtered, escaped_bytes, dropped_bytes, rejected, retries, seconds, inputs "
            f"from read_json({_list(folder, receipts)}, "
            f"maximum_object_size = {_RECEIPT_BYTES}, "
            "columns = {unit: 'UINTEGER', shard: 'STRUCT(name VARCHAR, rows UBIGINT)', documents: 'UBIGINT', "
            "rejects: 'STRUCT(rows UBIGINT)', duplicates: 'UBIGINT', filtered: 'MAP(VARCHAR, UBIGINT)', "
            "escaped_bytes: 'UBIGINT', dropped_bytes: 'UBIGINT', rejected: 'MAP(VARCHAR, UBIGINT)', "
            "retries: 'UBIGINT', seconds: 'MAP(VARCHAR, DOUBLE)', inputs: 'JSON[][]'})"
        )
    try:
        for name, query in views.items():
            connection.execute(f"create view {name} as {query}")
    except duckdb.Error as error:
        raise UserError(f"DATA={data}: {one_line(error)}; make verify DATA={data} says what is damaged") from None
    return connection


def one_line(error: Exception) -> str:
    """An error of DuckDB without its picture of the query."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())


@contextmanager
def heard_interrupts() -> Iterator[None]:
    """Ctrl-C in a query, which DuckDB makes an error of its own, as Ctrl-C elsewhere."""
    try:
        yield
    except RuntimeError as error:
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from None
        raise


def _table(shards: list[ShardEntry]) -> pa.Table:
    kinds = {int: pa.uint64(), str: pa.string()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in ShardEntry.__annotations__.items()])
    return pa.Table.from_pylist([asdict(shard) for shard in shards], schema)


def _parquet(folder: Folder, names: list[str], options: str = "") -> str:
    return f"read_parquet({_list(folder, names)}, filename = '_path'{', ' if options else ''}{options})"


def _list(folder: Folder, names: list[str]) -> str:
    quoted = ("'" + folder.locate(name).replace("'", "''") + "'" for name in names)
    return f"[{', '.join(quoted)}]"


def _at_bytes(spans: Any) -> pa.Array:
    """First byte of each symbol in its document; SQL has no running sum over a list."""
    spans = _one(spans)
    counts = spans.value_lengths().to_numpy().astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(spans.flatten().to_numpy(), dtype=np.int64)])
    bounds = np.concatenate([[0], np.cumsum(counts)])
    at = sums[:-1] - np.repeat(sums[bounds[:-1]], counts)
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(at.astype(np.uint32)))


def _symbol_bytes(raw: Any, spans: Any) -> pa.Array:
    """Raw bytes of each symbol; a slice of raw in SQL copies the document once a symbol."""
    spans = _one(spans)
    data = b"".join(_one(raw).to_pylist())
    ends = np.concatenate([[0], np.cumsum(spans.flatten().to_numpy(), dtype=np.int64)])
    if ends[-1] != len(data):
        raise ValueError("spans do not add up to raw: the dataset is damaged")
    values = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(data)]
    )
    bounds = np.concatenate([[0], np.cumsum(spans.value_lengths().to_numpy())])
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values)


def _one(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _show(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    whole: dict[str, Any] = {"max_rows": _PIPED_ROWS, "max_width": _PIPED_WIDTH, "max_col_width": _PIPED_COLUMN_WIDTH}
    limits = {} if sys.stdout.isatty() else whole
    try:
        with heard_interrupts():
            for statement in connection.extract_statements(query):
                relation = connection.sql(statement.query)
                if relation is not None:
                    relation.show(**limits)
    except duckdb.Error as error:
        raise UserError(one_line(error)) from None


def _statements(read: Callable[[bool], str]) -> Iterator[str]:
    """Statements of one or more lines, and dot commands of one line.

    Args:
        read: gives the next line, told whether a statement begins with it; "" at the end.
    """
    held = ""
    while line := read(not held):
        held = (held + line).lstrip()
        if _is_whole(held) or (held.startswith(".") and held == line.lstrip()):
            yield held
            held = ""
    if held:
        yield held


def _is_whole(text: str) -> bool:
    """Whether text ends with a ';' that ends a statement."""
    if not text.rstrip().endswith(";"):
        return False
    try:
        duckdb.extract_statements(text)
    except duckdb.Error as error:
        return "unterminated" not in str(error)  # a quote or comment goes on
    return True


def _command(connection: duckdb.DuckDBPyConnection, statement: str) -> bool:
    """Run a statement or dot command; False ends the session."""
    word = statement.strip().rstrip(";").strip()
    if word in (".quit", ".exit"):
        return False
    if word == ".help":
        sys.stdout.write(_help(connection))
    elif word.startswith("."):
        raise UserError(f"{word}: unknown; there are .help and .quit")
    else:
        _show(connection, statement)
    return True


def _help(connection: duckdb.DuckDBPyConnection) -> str:
    lines = []
    for view, text in VIEWS.items():
        columns = connection.execute(
            "select column_name from duckdb_columns() where table_name = ? order by column_index", [view]
        ).fetchall()
        if columns:
            lines.append(f"  {view:<12}{text}\n{'':<14}{', '.join(name for (name,) in columns)}")
    return _HELP.format(views="\n".join(lines), examples="\n".join(f"  {example}" for example in EXAMPLES))


def _prompt(connection: duckdb.DuckDBPyConnection, data: str) -> None:
    sys.stdout.write(f"DuckDB over {data}: {', '.join(VIEWS)}; .help says more\n")
    while True:
        statements = _statements(_typed)
        try:
            for statement in statements:
                try:
                    if not _command(connection, statement):
                        return
                except UserError as error:
                    sys.stdout.write(f"{error}\n")
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")  # what was typed so far is dropped, a running query ended


def _typed(fresh: bool) -> str:
    try:
        return input("sql> " if fresh else "...> ") + "\n"
    except EOFError:
        return ""


def _with_history(run: Callable[[], None]) -> None:
    """Run a prompt with a history that outlives it."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxy-compression" / "sql_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        readline.read_history_file(path)
    except OSError:
        run()  # a home that cannot be written is no reason not to query
        return
    try:
        run()
    finally:
        readline.set_history_length(1000)
        readline.write_history_file(path)
