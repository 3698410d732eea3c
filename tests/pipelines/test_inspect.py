"""A shown document is the document: its symbols in order, nothing hidden, nothing lost."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import inspect
from pipelines.dataset import open_dataset
from pipelines.inspect import MARK, InspectOptions, visible
from schemas.draws import split_uniform
from schemas.errors import UserError

MakeDataset = Callable[..., Path]
CopyOf = Callable[[Path], Path]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(data: Path, **options: Any) -> str:
        inspect.inspect(InspectOptions(data=str(data), **options))
        return capsys.readouterr().out

    return run


Shown = Callable[..., str]


def rows_of(data: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(data.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_json_gives_each_document_with_its_symbols(make_dataset: MakeDataset, shown: Shown) -> None:
    data = make_dataset("bpe")
    rows = rows_of(data)
    for index in range(0, len(rows), 7):
        row, found = rows[index], json.loads(shown(data, index=index, json=True, bytes=1_000_000))
        for name in ("doc_id", "source", "record", "piece", "group", "raw_bytes", "comp_symbols"):
            assert found[name] == row[name]
        symbols = found["symbols"]
        assert [symbol["id"] for symbol in symbols] == row["comp"]
        assert [symbol["span"] for symbol in symbols] == row["spans"]
        assert b"".join(bytes.fromhex(symbol["bytes"]) for symbol in symbols) == row["raw"]
        assert [symbol["at"] for symbol in symbols] == [sum(row["spans"][:n]) for n in range(len(symbols))]
        split = split_uniform(bytes.fromhex(row["doc_id"]))
        assert (found["split"], found["kept_from_fitting"]) == (split, split < 0.05)


def test_bytes_limits_what_is_shown(make_dataset: MakeDataset, shown: Shown) -> None:
    data = make_dataset("neural")
    symbols = json.loads(shown(data, source="long.txt", json=True, bytes=100))["symbols"]
    assert symbols[-1]["at"] < 100 <= symbols[-1]["at"] + symbols[-1]["span"]
    out = shown(data, source="long.txt", bytes=100)
    assert re.search(r"\n\n\.\.\. [\d,]+ symbols and [\d,]+ bytes more \(--bytes\)\n$", out)


def test_text_without_colour_has_marks_between_symbols(make_dataset: MakeDataset, shown: Shown) -> None:
    data = make_dataset("neural")
    row = next(row for row in rows_of(data) if row["source"] == "text003.py")
    header, text = shown(data, source="text003.py", bytes=10**6).split("\n\n", 1)
    parts, at = [], 0
    for span in row["spans"]:
        parts.append(visible(row["raw"][at : at + span]))
        at += span
    assert text == MARK.join(parts) + "\n"
    assert f"{row['raw_bytes']:,} bytes, {row['comp_symbols']:,} symbols" in header
    assert f"{row['raw_bytes'] / row['comp_symbols']:.3f} bytes a symbol, proxy neural" in header


def test_on_a_terminal_symbols_have_alternating_backgrounds(
    make_dataset: MakeDataset, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = shown(make_dataset("neural"), source="text003.py")
    body = out.split("\n\n", 1)[1]
    assert MARK not in body
    backgrounds = re.findall(r"\x1b\[30;(48;[\d;]+)m[^\x1b]+\x1b\[0m", body)
    assert len(set(backgrounds)) == 2


def test_escapes_are_distinct(make_dataset: MakeDataset, shown: Shown) -> None:
    out = shown(make_dataset("bpe"), source="bytes.bin", bytes=256)
    assert "<80>│<81>│<82>" in out
    assert "\x1b" not in out, "a control character reached the terminal"


def test_symbols_of_no_bytes_are_shown(
    make_dataset: MakeDataset, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the range coder's: a segment's first symbol covers it, the others nothing."""
    read = inspect._read

    def with_zeros(*args: Any) -> dict[str, Any]:
        document = read(*args)
        spans = document["spans"].copy()
        spans[1:3] = [spans[1] + spans[2], 0]
        return {**document, "spans": spans}

    monkeypatch.setattr(inspect, "_read", with_zeros)
    assert f"{MARK}{inspect.NOTHING}{MARK}" in shown(make_dataset("neural"), source="text003.py")


def test_views_without_spans_or_symbols_say_so(make_dataset: MakeDataset, shown: Shown) -> None:
    data = make_dataset("gzip")
    row = next(row for row in rows_of(data) if row["source"] == "text003.py")
    out = shown(data, source="text003.py", bytes=10**6)
    assert "cover no definite bytes" in out
    assert visible(row["raw"]) in out
    assert " ".join(map(str, row["comp"])) in out
    found = json.loads(shown(data, source="text003.py", json=True, bytes=10**6))
    assert [symbol["id"] for symbol in found["symbols"]] == row["comp"]
    assert {symbol["at"] for symbol in found["symbols"]} == {None}
    data = make_dataset("identity")
    assert "has no comp view" in shown(data, source="text003.py")
    assert json.loads(shown(data, source="text003.py", json=True))["symbols"] is None


def test_an_empty_document(make_dataset: MakeDataset, shown: Shown) -> None:
    for proxy in ("neural", "bpe", "gzip", "identity"):
        assert "0 bytes" in shown(make_dataset(proxy), source="empty.txt")


def test_documents_are_found_by_id_and_source(make_dataset: MakeDataset, shown: Shown) -> None:
    data = make_dataset("bpe")
    row = next(row for row in rows_of(data) if row["source"] == "text001.py")
    for wanted in (row["doc_id"], row["doc_id"][:12]):
        assert row["doc_id"] in shown(data, doc=wanted)
    assert "match     1 of 2 (--index 1: another)" in shown(data, doc=row["doc_id"])  # copy.py has the same bytes
    sources = {json.loads(shown(data, doc=row["doc_id"], index=n, json=True))["source"] for n in (0, 1)}
    assert sources == {"text001.py", "copy.py"}
    assert "source    copy.py" in shown(data, doc=row["doc_id"], source="copy")
    assert "source    some.jsonl.gz, record" in shown(data, source="jsonl", index=3)


def test_pieces_of_a_cut_document_come_in_order(make_dataset: MakeDataset, shown: Shown) -> None:
    data = make_dataset("bpe")
    doc_id = next(row["doc_id"] for row in rows_of(data) if row["piece"] == 1)
    count = sum(row["doc_id"] == doc_id for row in rows_of(data))
    pieces = [json.loads(shown(data, doc=doc_id, index=n, json=True))["piece"] for n in range(count)]
    assert pieces == list(range(count))


def test_what_is_not_there_says_how_to_list(make_dataset: MakeDataset) -> None:
    data = make_dataset("bpe")
    rows = open_dataset(str(data)).manifest.totals.rows
    for options, expected in (
        (
            {"doc": "0123456789abcdef"},
            r"no document matches --doc 0123456789abcdef; list them: make sql DATA=.* Q='sel",
        ),
        ({"source": "nowhere"}, "no document matches --source nowhere"),
        ({"source": "text003", "index": 5}, "no document matches --source text003 --index 5"),
        ({"index": rows}, f"--index {rows}: the dataset has {rows} documents"),
    ):
        with pytest.raises(UserError, match=expected):
            inspect.inspect(InspectOptions(data=str(data), **options))
    with pytest.raises(UserError, match="32 lower-case hex digits"):
        InspectOptions(doc="xyz")
    with pytest.raises(UserError, match="give an index from 0"):
        InspectOptions(index=-1)


def test_a_damaged_shard_is_one_line(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    for path in data.glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    for options in ({}, {"doc": "0"}):
        with pytest.raises(UserError, match=r"make verify DATA=.* says what is damaged"):
            inspect.inspect(InspectOptions(data=str(data), **options))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a\n\tb", "a↵\n→\tb"),
        ("é中".encode(), "é中"),
        (b"\xff\xc3", "\\xff\\xc3"),
        (b"\r\x1b[31m\0", "\\r\\x1b[31m\\x00"),
        ("\u202ex\u2028".encode(), "\\u202ex\\u2028"),
    ],
)
def test_nothing_in_a_text_can_act_on_the_terminal(raw: bytes, expected: str) -> None:
    assert visible(raw) == expected


def test_nothing_in_a_name_can_act_on_the_terminal(
    make_dataset: MakeDataset, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = inspect._read

    def named(*arguments: Any) -> dict[str, Any]:
        return {**read(*arguments), "source": "a\x1b]0;title\x07\u202eb.py", "group": "\x9b31m"}

    monkeypatch.setattr(inspect, "_read", named)
    out = shown(make_dataset("neural"))
    assert "source    a\\x1b]0;title\\x07\\u202eb.py, record 0, group '\\x9b31m'" in out
