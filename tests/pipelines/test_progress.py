"""Progress comes from listings; each new receipt is read once, and a slow or failing store stops nothing."""

import itertools
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_receipts import receipt, stem_of, write_receipts

from pipelines import progress
from pipelines.progress import ProgressReport
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.shard import REJECTS_SCHEMA


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of any folder was read."""
    counts: Counter[str] = Counter()
    honest = Folder.read

    def read(self: Folder, name: str) -> bytes:
        counts[name] += 1
        return honest(self, name)

    monkeypatch.setattr(Folder, "read", read)
    return counts


UNITS = 6


class Shards:
    """A folder in which receipts appear one by one."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.names = [f"receipts/{stem_of(unit, UNITS)}.json" for unit in range(UNITS)]
        self.coming = iter(range(UNITS))
        (out / "receipts").mkdir(parents=True)

    def appear(self, count: int) -> None:
        write_receipts(self.out, [receipt(unit, UNITS) for unit in itertools.islice(self.coming, count)])


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    monkeypatch.setattr(progress, "_PAUSE", 0)
    monkeypatch.setattr(progress, "_PATIENCE", 30)
    return Shards(tmp_path / "out")


def test_each_new_receipt_is_read_once_and_old_ones_never(shards: Shards, reads: Counter[str]) -> None:
    shards.appear(1)
    report = ProgressReport(Folder(str(shards.out)), shards.names, quiet=True)
    assert report.before == {shards.names[0]}
    for _ in range(3):
        shards.appear(1)
        report.update()
        report.update()
    assert report.done == 4
    assert reads == dict.fromkeys(shards.names[1:4], 1)


def test_time_left_goes_by_bytes(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first unit is nearly all of the work, so after it little is left, however many units are."""
    clock = itertools.count(0, 50.0)
    monkeypatch.setattr("pipelines.progress.time.monotonic", lambda: next(clock))
    sizes = [99_000_000, *[1_000_000] * (len(shards.names) - 1)]
    report = ProgressReport(Folder(str(shards.out)), shards.names, quiet=True, input_bytes=sizes)
    shards.appear(1)
    report.update()
    line = report.line()
    elapsed = next(clock) - 50.0 - report._start
    left = round(elapsed * (sum(sizes) - 99_000_000) / 99_000_000)
    assert left < elapsed / 4
    assert line.startswith(f"1/{len(shards.names)} units, ")
    assert f"{99 / elapsed:.1f} MB/s" in line
    assert line.endswith(f"0:00:{left:02d} left")


def test_a_backlog_is_read_in_parts_and_said(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "RECEIPTS_A_LOOK", 2)
    report = ProgressReport(Folder(str(shards.out)), shards.names, quiet=True)
    shards.appear(3)
    report.update()
    assert report.done == 3
    assert "1 receipts behind" in report.line()
    report.update()
    assert "behind" not in report.line()
    assert "rejects" in report.line()


def test_a_pass_without_receipts_counts_files(tmp_path: Path, reads: Counter[str]) -> None:
    (tmp_path / "meta/first").mkdir(parents=True)
    names = [f"meta/first/{n}.parquet" for n in range(4)]
    report = ProgressReport(Folder(str(tmp_path)), names, quiet=True, input_bytes=[5, 5, 5, 5], title="dedupe")
    (tmp_path / names[2]).write_bytes(b"not a receipt")
    (tmp_path / "meta/first/other.parquet").write_bytes(b"")
    report.update()
    assert report.done == 1
    assert report.line().startswith("dedupe: 1/4 units")
    assert not reads


def test_a_store_that_fails_or_hangs_stops_nothing(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    report = ProgressReport(Folder(str(shards.out)), shards.names, quiet=True)
    honest = Folder.sizes

    def fails(self: Folder, sub: str = "") -> dict[str, int]:
        raise UserError("no answer within 600 s of trying")

    monkeypatch.setattr(Folder, "sizes", fails)
    report.update()
    assert report.done == 0
    release = threading.Event()

    def hangs(self: Folder, sub: str = "") -> dict[str, int]:
        release.wait(30)
        return honest(self, sub)

    monkeypatch.setattr(Folder, "sizes", hangs)
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    shards.appear(2)
    for _ in range(3):
        report.update()  # three more ticks of one look
    assert report.done == 0
    assert [thread.name for thread in threading.enumerate()].count("progress") == 1
    release.set()
    monkeypatch.setattr(progress, "_PATIENCE", 30)
    report.update()
    assert report.done == 2


def test_a_damaged_receipt_counts_as_listed_only(shards: Shards) -> None:
    report = ProgressReport(Folder(str(shards.out)), shards.names, quiet=True)
    (shards.out / shards.names[0]).write_bytes(b"{")
    report.update()
    assert report.line() == f"1/{len(shards.names)} units, {report.line().rpartition(', ')[2]}"


def test_a_log_gets_a_plain_line(
    shards: Shards, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    report = ProgressReport(Folder(str(shards.out)), shards.names, title="encode")
    shards.appear(2)
    report.update()
    report.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"encode: 2/{len(shards.names)} units, ")


def test_far_too_many_rejects_stop_a_job_that_has_seen_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PAUSE", 0)
    monkeypatch.setattr(progress, "_PATIENCE", 30)
    shards = Shards(tmp_path / "out")
    made = [receipt(unit, UNITS, documents=900, rejected={"a": 15, "b": 4}) for unit in range(4)]
    made = [replace(one, rejects=replace(one.rejects, rows=19)) for one in made]
    (shards.out / "rejects").mkdir()
    row = {"source": "x\x1b.jsonl", "record": 3, "piece": 0, "stage": "read", "reason": "a", "detail": "d\n"}
    table = pa.Table.from_pylist([{**row, "excerpt": b""}] * 19, REJECTS_SCHEMA)
    for one in made:
        pq.write_table(table, shards.out / one.rejects.name)
    write_receipts(shards.out, made[:1])  # of an earlier run: not of what is seen now
    report = ProgressReport(Folder(str(shards.out)), shards.names, quiet=True, max_reject_fraction=0.01)
    for count in (1, 2):  # 19 of 900 are too few documents, 38 of 1,800 are allowed 28
        write_receipts(shards.out, made[1 : count + 1])
        if count == 1:
            report.update()
            continue
        with pytest.raises(
            UserError, match=r"^38 of 1,800 documents were rejected, .* 0\.01 allows: a 30, b 8"
        ) as told:
            report.update()
    assert r"(for example x\x1b.jsonl, record 3: d\x0a)" in str(told.value)


def test_rejects_within_what_is_forgiven_stop_nothing(shards: Shards) -> None:
    """6 of 60 documents are ten times the limit; so few say nothing."""
    report = ProgressReport(Folder(str(shards.out)), shards.names, quiet=True, max_reject_fraction=0.01)
    shards.appear(6)
    report.update()
    assert "6 rejects" in report.line()
