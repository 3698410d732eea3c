"""Exact duplicates over the whole corpus: the first by (source, record) stays, whatever happens on the way."""

import json
import os
import random
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selecting import job_of, make, run_each

from pipelines import cli, dedupe, storage
from pipelines.dedupe import drop_duplicates, identify
from pipelines.drop_list import DropList, ids_receipt
from pipelines.job import Job
from pipelines.reading.corpus import list_corpus
from pipelines.reading.filters import Filters
from pipelines.reading.plan import PlanOptions, Unit, plan_units
from pipelines.reading.records import ReadOptions
from pipelines.selection import Skipped, selected
from pipelines.shard import Outcome
from pipelines.storage import AT_ONCE, Folder
from pipelines.temporary import process_folder
from schemas.draws import document_id
from schemas.errors import UserError
from schemas.manifest import Receipt

Rows = list[tuple[str, int, int, str]]


def rows_of(out: Path, receipts: list[Receipt]) -> Rows:
    columns = ["source", "record", "piece", "doc_id"]
    rows = [row for receipt in receipts for row in pq.read_table(out / receipt.shard.name).select(columns).to_pylist()]
    return sorted((row["source"], row["record"], row["piece"], row["doc_id"]) for row in rows)


def without_duplicates(rows: Rows) -> Rows:
    """The plain twin: documents in order, each doc_id once, with all its pieces."""
    first: dict[str, tuple[str, int]] = {}
    for source, record, _, doc_id in rows:
        first.setdefault(doc_id, (source, record))
    return [row for row in rows if first[row[3]] == row[:2]]


def write_corpus(folder: Path, texts: list[list[str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for index, some in enumerate(texts):
        if index % 3:
            (folder / f"f{index}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
        else:
            for number, text in enumerate(some):
                (folder / f"f{index}-{number}.txt").write_text(text)
    return folder


def random_texts(seed: int, files: int = 12) -> list[list[str]]:
    rng = random.Random(seed)
    return [[f"{rng.randint(0, 60)} words\n" * rng.choice([1, 20, 300]) for _ in range(40)] for _ in range(files)]


def bytes_of(out: Path) -> dict[str, bytes]:
    """All that a dataset holds but receipts, whose stages have times."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet")) if path.is_file()}


def test_of_equal_documents_the_first_stays_with_all_its_pieces(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(0))
    read = ReadOptions(max_document_bytes=700)
    every = make(corpus, tmp_path / "all", read=read)
    once = make(corpus, tmp_path / "once", read=read, distinct=True)
    expected = without_duplicates(rows_of(tmp_path / "all", every))
    assert rows_of(tmp_path / "once", once) == expected
    assert any(piece for _, _, piece, _ in expected)
    assert len(once) > 5
    assert all(receipt.documents == receipt.accounted for receipt in once)
    counts = [sum(receipt.documents for receipt in receipts) for receipts in (every, once)]
    assert counts[0] == counts[1] == len(expected) + sum(receipt.duplicates for receipt in once)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from(["", "a", "b\n", "c" * 50, "d\n" * 60]), max_size=6), min_size=1, max_size=6),
    st.integers(1, 400),
)
def test_any_corpus_and_plan_gives_what_the_plain_twin_gives(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], unit_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_corpus(folder / "corpus", texts)
    (folder / "corpus" / "one.txt").write_text("a")
    read, plan = ReadOptions(max_document_bytes=40), PlanOptions(unit_bytes=unit_bytes, block_bytes=50)
    every = rows_of(folder / "all", make(folder / "corpus", folder / "all", read=read, plan=plan))
    once = rows_of(folder / "once", make(folder / "corpus", folder / "once", read=read, plan=plan, distinct=True))
    assert once == without_duplicates(every)


def test_filters_come_first(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(1))
    read = ReadOptions(max_document_bytes=700)
    filters = Filters(min_bytes=200)
    every = make(corpus, tmp_path / "all", read=read, filters=filters)
    once = make(corpus, tmp_path / "once", read=read, filters=filters, distinct=True)
    assert rows_of(tmp_path / "once", once) == without_duplicates(rows_of(tmp_path / "all", every))
    assert sum(sum(receipt.filtered.values()) for receipt in once) > 0
    assert all(receipt.documents == receipt.accounted for receipt in once)


def test_a_job_that_stops_anywhere_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(2))
    make(corpus, tmp_path / "reference", distinct=True)
    expected = bytes_of(tmp_path / "reference")
    out = tmp_path / "out"
    job, units = job_of(out, dedupe=True), plan_units(list_corpus(str(corpus)), PlanOptions(unit_bytes=20_000))
    done: Counter[bool] = Counter()

    def stop_after(count: int) -> Callable[..., None]:
        def run(work: Callable[[Unit], Outcome], units: list[Unit], names: list[str]) -> None:
            for unit in units[::-1][:count]:
                done[work(unit).reused] += 1
            if count < len(units):
                raise KeyboardInterrupt

        return run

    for count in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            drop_duplicates(job, units, stop_after(count))
    (out / "meta/tmp/dedupe-left").mkdir(parents=True)
    (out / "meta/tmp/dedupe-left/ids.duckdb").write_bytes(b"half")
    job.out.sweep()
    drop_duplicates(job, units, stop_after(len(units)))
    assert done == {False: len(units), True: 2 + 5}
    make(corpus, out, distinct=True)
    assert bytes_of(out) == expected
    assert not list((out / "meta/tmp").iterdir())


def test_changed_inputs_and_damaged_ids_are_read_again_and_old_lists_go(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", random_texts(3)), tmp_path / "out"
    make(corpus, out, distinct=True)
    before = set((out / "meta/dedupe").iterdir())
    ids = sorted((out / "meta/dedupe").glob("ids-*.parquet"))
    for offset in (5, ids[0].stat().st_size // 2):
        data = bytearray(ids[0].read_bytes())
        data[offset] ^= 1
        ids[0].write_bytes(data)
        job, units = job_of(out, dedupe=True), plan_units(list_corpus(str(corpus)), PlanOptions(unit_bytes=20_000))
        outcomes = [identify(job, unit).reused for unit in units]
        assert outcomes == [False] + [True] * (len(units) - 1)
    (corpus / "f0-0.txt").write_text("never seen before")
    make(corpus, out, distinct=True)
    make(corpus, tmp_path / "new", distinct=True)
    assert set(bytes_of(tmp_path / "new")) <= set(bytes_of(out))
    now = {path.name for path in (out / "meta/dedupe").iterdir()}
    assert now == {path.name for path in (tmp_path / "new/meta/dedupe").iterdir()}
    assert now != {path.name for path in before}


def test_a_list_that_is_missing_or_damaged_is_never_taken_for_none(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", random_texts(4)), tmp_path / "out"
    job, units = job_of(out, dedupe=True), plan_units(list_corpus(str(corpus)), PlanOptions(unit_bytes=20_000))
    listed = drop_duplicates(job, units, run_each)
    unit = next(unit for unit in listed if unit.drops)
    plain = next(one for one in units if one.index == unit.index)
    assert job.names(unit) != job.names(plain)
    path = next((out / "meta/dedupe").glob(f"drop-{unit.index:05d}-*"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="missing or damaged"):
        list(selected(job, unit))
    path.unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        list(selected(job, unit))


def test_more_ids_than_memory_are_put_in_order_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """850,000 ids of 110 bytes in 60 MB of memory: once, twice, and one a hundred thousand times."""
    count = 250_000
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text("{}\n")
    out = tmp_path / "out"
    job, units = job_of(out, dedupe=True), plan_units(list_corpus(str(corpus)))
    (unit,) = units
    units = [replace(unit, index=index, count=4) for index in range(4)]

    def digest(number: int) -> bytes:
        return document_id(number.to_bytes(4, "big"))

    def ids(unit: Unit) -> list[tuple[bytes, str, int, int]]:
        name = f"{3 - unit.index}-" + "a-long-name-of-a-folder/" * 3  # the last unit's come first
        numbers = range(count, 2 * count) if unit.index == 1 else range(count)
        if unit.index == 3:
            return [(digest(0), name, number, number) for number in range(100_000)]
        return [(digest(number), f"{name}{number % 999}", number, number) for number in numbers]

    def write_ids(job: Job, unit: Unit, path: Path) -> tuple[str, int]:
        pq.write_table(dedupe.pa.Table.from_batches([dedupe._batch(ids(unit))]), path, use_dictionary=["source"])
        return "seen", 0

    monkeypatch.setattr(dedupe, "_write_ids", write_ids)
    listed = drop_duplicates(job, units, run_each, memory_bytes=60_000_000)
    dropped = [
        pq.read_metadata(next((out / "meta/dedupe").glob(f"drop-{unit.index:05d}-*"))).num_rows if unit.drops else 0
        for unit in listed
    ]
    # units 0 and 2 have the same ids, of which that of 0 is unit 3's too; those of the unit with the lower name stay
    assert dropped == [count, 0, 1, 99_999]


def test_ids_of_no_document_and_of_rejects(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text('{"text": 3}\n{"text": "x"}\n[]\n')
    (corpus / "b.jsonl").write_text("")
    (corpus / "c.jsonl").write_text('{"text": "x"}\n')
    plan = PlanOptions(unit_bytes=1, block_bytes=1)
    receipts = make(corpus, tmp_path / "out", plan=plan, distinct=True)
    assert [sum(getattr(r, name) for r in receipts) for name in ("documents", "duplicates")] == [4, 1]
    assert sum(receipt.rejects.rows for receipt in receipts) == 2
    assert rows_of(tmp_path / "out", receipts)[0][:2] == ("a.jsonl", 12)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(5, files=2))
    job, units = job_of(tmp_path / "out", dedupe=True), plan_units(list_corpus(str(corpus)))

    def fail(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr(dedupe, "_find", fail)
    with pytest.raises(UserError, match=r"--dedupe: DuckDB in .*No space left on device; make room"):
        drop_duplicates(job, units, partial(run_each))


def on_a_store(corpus: Path, unit_bytes: int = 20_000) -> tuple[Job, list[Unit]]:
    job = replace(job_of(Path("x"), dedupe=True), out=Folder(f"memory://{uuid.uuid4().hex}/out"))
    return job, plan_units(list_corpus(str(corpus)), PlanOptions(unit_bytes=unit_bytes))


def test_on_a_store_few_files_are_held_at_once_and_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(6, files=50))
    job, units = on_a_store(corpus, 1000)
    assert len(units) > 2 * AT_ONCE
    held: list[int] = []
    folders: set[Path] = set()
    fetched = dedupe._fetched

    def counted(job: Job, folder: Path, unit: Unit) -> Path:
        path = fetched(job, folder, unit)
        held.append(len(list(folder.glob("*.copy"))))
        folders.add(folder)
        return path

    monkeypatch.setattr(dedupe, "_fetched", counted)
    listed = drop_duplicates(job, units, run_each)
    assert len(held) == len(units)
    assert max(held) <= AT_ONCE + 1
    (folder,) = folders
    assert folder.parent == process_folder()  # which the next process deletes if this one is killed
    assert not folder.exists()
    here = drop_duplicates(job_of(tmp_path / "here", dedupe=True), units, run_each)
    assert [unit.drops for unit in listed] == [unit.drops for unit in here]
    assert any(unit.drops for unit in listed)


@pytest.mark.parametrize("place", [4, "middle", -20, -1])
def test_ids_that_are_damaged_before_they_are_read_again_are_named(tmp_path: Path, place: int | str) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(7, files=3))
    job, units = job_of(tmp_path / "out", dedupe=True), plan_units(list_corpus(str(corpus)))
    path = tmp_path / "out" / dedupe._ids_name(job.names(units[0]))

    def run(work: Callable[[Unit], Outcome], units: list[Unit], names: list[str]) -> None:
        run_each(work, units, names)
        data = bytearray(path.read_bytes())
        data[len(data) // 2 if isinstance(place, str) else place] ^= 1
        path.write_bytes(data)

    with pytest.raises(UserError, match=rf"{path.name}: damaged, .*run the same command again") as caught:
        drop_duplicates(job, units, run)
    assert "\n" not in str(caught.value)
    assert [bool(unit.drops) for unit in drop_duplicates(job, units, run_each)] == [True] * len(units)


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_ids_that_are_gone_are_named(tmp_path: Path, kind: str) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(7, files=3))
    job, units = job_of(tmp_path / "out", dedupe=True), plan_units(list_corpus(str(corpus)))

    def run(work: Callable[[Unit], Outcome], units: list[Unit], names: list[str]) -> None:
        run_each(work, units, names)
        (tmp_path / "out" / dedupe._ids_name(job.names(units[0]))).with_suffix(f".{kind}").unlink()

    with pytest.raises(UserError, match=r"ids-part-00000.*\.parquet: missing, .*run the same command again"):
        drop_duplicates(job, units, run)


def test_what_a_store_gives_back_damaged_once_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(8, files=3))
    job, units = on_a_store(corpus)
    run_each(partial(identify, job), units, [ids_receipt(job.names(unit)) for unit in units])
    seen: set[str] = set()
    read, download = Folder._read, storage.download

    def once(name: str) -> bool:
        first = name not in seen
        seen.add(name)
        return first

    def damaged_read(folder: Folder, name: str) -> bytes:
        data = read(folder, name)
        return data[:-1] + b"x" if name.endswith(".parquet") and once(name) else data

    def damaged_copy(remote: Any, path: Path) -> None:
        download(remote, path)
        if once(str(path)):  # that of both tries
            path.write_bytes(path.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(Folder, "_read", damaged_read)
    monkeypatch.setattr(storage, "download", damaged_copy)
    listed = drop_duplicates(job, units, lambda *_: None)
    dropped = [sum(item == Skipped("duplicate") for item in selected(job, unit)) for unit in listed]
    assert sum(dropped) > 10
    assert len(seen) > len(units)


def test_a_receipt_that_holds_no_longer_is_not_taken_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(9, files=2))
    job, (unit, *_) = job_of(tmp_path / "out", dedupe=True), plan_units(list_corpus(str(corpus)))
    identify(job, unit)
    (tmp_path / "out" / dedupe._ids_name(job.names(unit))).unlink()

    def fail(*_: object) -> None:
        raise RuntimeError("worker died")

    monkeypatch.setattr(dedupe, "_write_ids", fail)
    with pytest.raises(RuntimeError, match="worker died"):
        identify(job, unit)
    assert not job.out.exists(ids_receipt(job.names(unit)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_duckdb_works_is_one_line_and_status_130(
    number: signal.Signals,
    tmp_path: Path,
    in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(10, files=2))

    def long(connection: duckdb.DuckDBPyConnection, memory_bytes: int) -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
        connection.execute("select count(*) from range(100000000) a where hash(a.range) % 7 = 3").fetchall()

    monkeypatch.setattr(dedupe, "_find", long)
    given = ["--corpus", str(corpus), "--out", str(tmp_path / "out"), "--proxy", "identity", "--dedupe", "--quiet"]
    assert cli.run(["preprocess", *given, "--workers", "1"]) == 130
    assert capsys.readouterr().err == "preprocess: interrupted\n"
    assert not list((tmp_path / "out/meta/tmp").iterdir())


def test_an_error_of_duckdb_that_is_no_signal_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(10, files=1))
    job, units = job_of(tmp_path / "out", dedupe=True), plan_units(list_corpus(str(corpus)))

    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(dedupe, "_find", fail)
    with pytest.raises(RuntimeError, match="something else"):
        drop_duplicates(job, units, run_each)


def test_old_lists_of_a_store_are_deleted_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path / "corpus", random_texts(11, files=1))
    job, units = on_a_store(corpus)
    old = [f"{dedupe.FOLDER}/drop-{index:05d}-of-00016-{index:016x}.parquet" for index in range(AT_ONCE)]
    for name in old:
        job.out.write(name, b"old")
    together = threading.Barrier(2, timeout=20)
    remove = Folder.remove

    def removed(folder: Folder, name: str) -> None:
        if name in old:
            together.wait()
        remove(folder, name)

    monkeypatch.setattr(Folder, "remove", removed)
    drop_duplicates(job, units, run_each)
    assert not set(old) & set(job.out.sizes(dedupe.FOLDER))


@given(st.sets(st.integers(0, 2**64 - 1), max_size=30), st.integers(0, 2**64 - 1))
def test_a_list_knows_its_ordinals(ordinals: set[int], other: int) -> None:
    drops = DropList(np.array(sorted(ordinals), np.uint64))
    assert all(ordinal in drops for ordinal in ordinals)
    assert (other in drops) == (other in ordinals)
