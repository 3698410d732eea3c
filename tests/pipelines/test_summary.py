"""What a summary says is what receipts say."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest
from made_receipts import receipt
from rich.console import Console

from pipelines import cli, commit, summary
from pipelines.summary import SLOWEST, lines, query, summarise, summary_of, table
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.names import DATASET

MakeDataset = Callable[..., Path]
CopyOf = Callable[[Path], Path]


def test_sums_are_those_of_the_manifest(make_dataset: MakeDataset) -> None:
    data = make_dataset("bpe")
    totals = Manifest.from_bytes((data / "manifest.json").read_bytes(), "manifest").totals
    seen = summary_of(str(data))
    for name in ("documents", "rows", "rejects", "raw_bytes", "comp_symbols", "escaped_bytes", "stored_bytes"):
        assert getattr(seen, name) == getattr(totals, name)
    assert seen.units_done == seen.units == len(list(data.glob("*.parquet")))
    assert seen.rejects == 6
    assert seen.bytes_per_symbol == totals.raw_bytes / totals.comp_symbols


def test_ratios_by_hand() -> None:
    made = [
        receipt(0, 3, duplicates=2, filtered={"short": 1}, retries=4),
        receipt(1, 3, filtered={"short": 2, "mine": 1}, seconds={"encode": 3.0, "read": 5.0}),
    ]
    seen = summarise(made, "data/x", job_seconds=0.5, before=frozenset(["receipts/part-00000-of-00003-00000000.json"]))
    assert (seen.units_done, seen.units, seen.documents, seen.rows, seen.rejects) == (2, 3, 20, 18, 2)
    assert (seen.duplicates, seen.filtered, seen.retries) == (2, {"mine": 1, "short": 3}, 4)
    assert seen.seconds == {"encode": 4.5, "read": 5.0, "write": 0.5}
    assert seen.mb_per_second_a_worker == pytest.approx(2000 / 1e6 / 10)
    assert seen.mb_per_second == pytest.approx(1000 / 1e6 / 0.5), "the unit that was there before is no speed"
    assert (seen.bytes_per_symbol, seen.stored_per_raw) == (2.5, 0.6)
    text = "\n".join(lines(seen))
    for part in (
        "(2 of 3 units: not finished)",
        "rejects: 2, invalid-json 2",
        "left out: duplicates 2, mine 1, short 3",
        "2.500 bytes a symbol",
        "read 50%, encode 45%, write 5%",
        "slowest unit: 1, 8.0 s, 0.0 MB/s, largest input large1.py (0.0 MB)",
        "remote calls made again: 4",
    ):
        assert part in text


def test_the_slowest_units_are_kept_longest_first() -> None:
    made = [receipt(unit, 50, seconds={"read": float(unit * 7 % 50)}) for unit in range(50)]
    seen = summarise(iter(made), "x")
    assert [slow.seconds for slow in seen.slowest] == [49.0, 48.0, 47.0, 46.0, 45.0][:SLOWEST]
    assert seen.slowest[0].largest_input == f"large{seen.slowest[0].unit}.py"
    assert seen.slowest[0].mb_per_second == round(1000 / 1e6 / 49, 3)


def test_nothing_done_yet_is_a_summary_too() -> None:
    seen = summarise([], "data/x", units=7)
    assert "(0 of 7 units: not finished)" in lines(seen)[0]
    assert table(seen) == []
    assert json.dumps(seen.to_json())


def test_a_units_without_input_or_time_has_no_slowness() -> None:
    seen = summarise([receipt(0, 1, inputs=[], seconds={})], "x")
    assert seen.slowest[0].largest_input == ""
    assert lines(seen)


def test_an_unfinished_dataset_with_a_damaged_receipt(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    (data / "manifest.json").unlink()
    first = sorted((data / "receipts").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-9])
    seen = summary_of(str(data))
    assert seen.units_done == seen.units - 1
    assert seen.damaged[0].startswith(str(first))
    assert any("damaged receipts: 1" in line for line in lines(seen))


def test_a_remote_dataset_is_read_in_order(make_dataset: MakeDataset) -> None:
    data = make_dataset("bpe")
    fs = fsspec.filesystem("memory")
    fs.put(str(data), "/bucket/summary", recursive=True)
    try:
        seen = summary_of("memory://bucket/summary")
        assert replace(seen, place=str(data)) == summary_of(str(data))
    finally:
        fs.rm("/bucket/summary", recursive=True)


def test_credentials_are_not_shown() -> None:
    seen = summarise([receipt(0, 1)], "s3://user:hunter2secret@host/bucket/data")
    assert "hunter2secret" not in "\n".join(lines(seen)) + json.dumps(seen.to_json())


def test_the_query_runs_in_plain_duckdb_and_as_it_is_printed(make_dataset: MakeDataset) -> None:
    data = make_dataset("bpe")
    rows = duckdb.connect().execute(query(str(data))).fetchall()
    seen = summary_of(str(data))
    assert sum(row[1] for row in rows) == seen.rows
    assert sum(row[2] for row in rows) == seen.raw_bytes
    (line,) = [line for line in lines(seen) if "see it:" in line]
    command = line.split("see it: ")[1].split("   (")[0]
    assert command.startswith("make sql DATA=")
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert words.stdout.splitlines() == ["make", "sql", f"DATA={data}", f"Q={query(str(data))}"]


def test_the_query_of_a_dataset_without_symbols(make_dataset: MakeDataset, tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s "odd"'
    odd.symlink_to(make_dataset("identity"))
    rows = duckdb.connect().execute(query(str(odd))).fetchall()
    assert all(row[3] is None for row in rows)


def test_the_command_prints_lines_or_json(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_dataset("neural")
    assert cli.run(["summary", "--data", str(data)]) == 0
    out = capsys.readouterr().out
    assert "MB/s a worker" in out
    assert "─" not in out, "a log gets no box"
    assert cli.run(["summary", "--data", str(data), "--json"]) == 0
    fields: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert fields["units_done"] == fields["units"]
    assert fields["query"] == query(str(data))
    assert len(fields["slowest"]) == min(SLOWEST, fields["units"])


def test_a_terminal_gets_tables(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    summary.run(summary.SummaryOptions(data=str(make_dataset("bpe"))))
    out = capsys.readouterr().out
    assert "where the time went" in out
    assert "slowest units" in out


def test_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no {DATASET} there"):
        summary_of(str(tmp_path))


def test_a_name_like_markup_or_a_control_sequence_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    seen = summarise([receipt(0, 1, inputs=[["[/red]\x1b[2J[bold]a.py", 9, "1"]])], "x")
    for one in table(seen):
        Console(width=200).print(one)
    assert r"[/red]\x1b[2J[bold]a.py" in capsys.readouterr().out
    assert r"largest input [/red]\x1b[2J[bold]a.py" in "\n".join(lines(seen))


def test_slim_receipts_sum_up_the_same_and_hold_one_input() -> None:
    made = [receipt(unit, 3) for unit in range(3)]
    slim = commit.slim([*made[:2], replace(made[2], inputs=[])])
    assert [one.inputs for one in slim] == [[["large0.py", 1000, "1"]], [["large1.py", 1000, "1"]], []]
    assert summarise(slim[:2], "x") == summarise(made[:2], "x")
