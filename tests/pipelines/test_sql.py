"""The views hold what the shards hold; queries that fail are one line; the prompt reads pipes and terminals."""

import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from pipelines import sql
from pipelines.dataset import open_dataset
from pipelines.sql import VIEWS, SqlOptions, connect
from schemas.errors import UserError

MakeDataset = Callable[..., Path]
CopyOf = Callable[[Path], Path]


def output_of(data: Path, query: str, capsys: pytest.CaptureFixture[str]) -> str:
    sql.sql(SqlOptions(data=str(data), query=query))
    return capsys.readouterr().out


def test_symbols_are_those_of_the_shards_with_their_bytes(make_dataset: MakeDataset) -> None:
    data = make_dataset("neural")
    rows = (
        connect(str(data))
        .execute("select shard, source, record, piece, position, id, span, at_byte, bytes from symbols")
        .fetchall()
    )
    expected = []
    for path in sorted(data.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            at = 0
            for position, (symbol, span) in enumerate(zip(row["comp"], row["spans"], strict=True)):
                place = (path.name, row["source"], row["record"], row["piece"], position)
                expected.append((*place, symbol, span, at, row["raw"][at : at + span]))
                at += span
    assert sorted(rows) == sorted(expected)
    assert len(rows) == open_dataset(str(data)).manifest.totals.comp_symbols


def test_symbols_without_spans_have_no_bytes_and_without_a_comp_view_there_are_none(make_dataset: MakeDataset) -> None:
    gzip, identity = make_dataset("gzip"), make_dataset("identity")
    query = "select count(*), count(span), count(at_byte), count(bytes) from symbols"
    symbols = open_dataset(str(gzip)).manifest.totals.comp_symbols
    assert connect(str(gzip)).execute(query).fetchone() == (symbols, 0, 0, 0)
    assert connect(str(identity)).execute(query).fetchone() == (0, 0, 0, 0)


def test_documents_know_their_shard_and_row(make_dataset: MakeDataset) -> None:
    data = make_dataset("bpe")
    rows = connect(str(data)).execute("select shard, shard_row, doc_id from documents").fetchall()
    for shard, row, doc_id in rows:
        assert pq.read_table(data / shard, columns=["doc_id"])["doc_id"][row].as_py() == doc_id
    assert len(rows) == open_dataset(str(data)).manifest.totals.rows


def test_the_other_views_agree_with_the_manifest(make_dataset: MakeDataset) -> None:
    data = make_dataset("bpe")
    manifest, con = open_dataset(str(data)).manifest, connect(str(data))
    assert con.execute("select name, rows from shards").fetchall() == [(one.name, one.rows) for one in manifest.shards]
    sums = "sum(rows), sum(rejects), sum(duplicates), sum(coalesce(list_sum(map_values(filtered)), 0)), sum(retries)"
    assert con.execute(f"select {sums} from receipts").fetchone() == (
        manifest.totals.rows,
        manifest.totals.rejects,
        manifest.totals.duplicates,
        manifest.totals.filtered,
        0,
    )
    rejected = "select reason, count(*) from rejects group by reason order by reason"
    assert con.execute(rejected).fetchall() == sorted(manifest.rejected.items())
    assert con.execute("select sum(raw_bytes), count(distinct shard) from row_groups").fetchone() == (
        manifest.totals.raw_bytes,
        len(manifest.shards),
    )
    assert set(VIEWS) == {
        name
        for (name,) in con.execute(
            "select view_name from duckdb_views() where not internal and not starts_with(view_name, '_')"
        ).fetchall()
    }


def test_an_unfinished_dataset_can_be_queried(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    (data / "manifest.json").unlink()
    (data / "meta/row_groups.parquet").unlink()
    con = connect(str(data))
    assert con.execute("select count(*) from rejects").fetchone() == (6,)
    assert (
        con.execute("select sum(rows) from shards").fetchone()
        == con.execute("select count(*) from documents").fetchone()
    )


def test_folders_with_signs_that_sql_and_globs_know(make_dataset: MakeDataset, tmp_path: Path) -> None:
    place = tmp_path / "it's [a] *?{b}"
    place.symlink_to(make_dataset("bpe"))
    con = connect(str(place))
    assert con.execute("select count(*) from documents, rejects").fetchone() != (0,)
    assert con.execute("select count(*) > 0 from receipts").fetchone() == (True,)


def test_a_kept_column_with_the_name_of_a_views_column(make_dataset: MakeDataset) -> None:
    con = connect(str(make_dataset("gzip", read={"keep_columns": ("lang",)})))
    assert con.execute("select count(distinct lang) from documents").fetchone() == (2,)


def test_a_dataset_on_an_object_store(make_dataset: MakeDataset) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(make_dataset("neural")), "/bucket/sql", recursive=True)
    try:
        con = connect("memory://bucket/sql")
        for view in VIEWS:
            assert con.execute(f"select count(*) > 0 from {view}").fetchone() == (True,)
    finally:
        fs.rm("/bucket/sql", recursive=True)


def test_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no dataset there; make one with"):
        connect(str(tmp_path))


@pytest.mark.parametrize(
    "query", ["selct 1", "select nope from documents", "from nope", "select 1; select cast('a' as int)", "select 'a"]
)
def test_a_wrong_query_is_one_line(make_dataset: MakeDataset, query: str) -> None:
    with pytest.raises(UserError) as error:
        sql.sql(SqlOptions(data=str(make_dataset("bpe")), query=query))
    assert "\n" not in str(error.value)
    assert "Error: " in str(error.value)


def test_a_query_prints_a_table_for_each_statement(
    make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    out = output_of(make_dataset("bpe"), "select 'a;b' as first; create table t as select 7; select * from t", capsys)
    assert out.index("a;b") < out.index("7")


def test_a_piped_table_is_whole(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(make_dataset("bpe"), "select range as n, repeat('x', 150) as x from range(3000)", capsys)
    assert out.count("x" * 150) == 3000


def test_queries_from_a_pipe_may_span_lines_and_end_without_a_semicolon(
    make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n.help\nselect 'one'\n as a;\n\nselect 'two;\n';\nselect 'last'\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    sql.sql(SqlOptions(data=str(make_dataset("bpe"))))
    out = capsys.readouterr().out
    for word in (*VIEWS, "at_byte", "for example", "one", "two;", "last"):
        assert word in out


def test_quit_ends_and_a_wrong_query_from_a_pipe_fails(
    make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SqlOptions(data=str(make_dataset("bpe")))
    monkeypatch.setattr(sys, "stdin", io.StringIO(".quit\nselect 'never';\n"))
    sql.sql(options)
    assert "never" not in capsys.readouterr().out
    for text, expected in (
        ("select 1;\nselct;\nselect 'never';\n", "syntax error"),
        (".tables\n", "unknown; there are"),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        with pytest.raises(UserError, match=expected):
            sql.sql(options)
        assert "never" not in capsys.readouterr().out


def test_the_examples_of_the_help_run(make_dataset: MakeDataset) -> None:
    con = connect(str(make_dataset("bpe")))
    for example in sql.EXAMPLES:
        assert con.execute(example).fetchall()


def test_a_terminal_has_a_prompt_that_survives_errors_and_remembers(make_dataset: MakeDataset, tmp_path: Path) -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "sql", "--data", str(make_dataset("bpe"))],
        stdin=side,
        stdout=side,
        stderr=side,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TERM": "dumb"},
    )
    os.close(side)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + 60
        while text not in shown and time.monotonic() < deadline:
            shown += os.read(main, 4096)
        assert text in shown, shown
        shown = shown.split(text, 1)[1]

    until(b"sql> ")
    os.write(main, b"selct;\n")
    until(b"syntax error")
    until(b"sql> ")
    os.write(main, b"select 'an' ||\n")
    until(b"...> ")
    os.write(main, b"'swer';\n")
    until(b"answer")
    until(b"sql> ")
    os.write(main, b"\x04")
    try:
        while os.read(main, 4096):
            pass
    except OSError:
        pass  # the terminal has gone with the process
    assert process.wait(30) == 0
    os.close(main)
    assert "select 'an' ||" in (tmp_path / "proxy-compression/sql_history").read_text()
