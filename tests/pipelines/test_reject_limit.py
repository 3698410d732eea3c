"""Too many rejects are told in one line, however many there are and whatever is in them."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_receipts import receipt

from pipelines import progress
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.plan import Unit
from pipelines.reject_limit import check_rejects, is_hopeless
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Receipt
from schemas.shard import REJECTS_SCHEMA

ROWS = 2000


def rejected(out: Path) -> Receipt:
    """A receipt whose rejects are there, a thousand a row group."""
    one = receipt(0, 1, documents=ROWS + 9, rejected={"invalid-json": ROWS})
    row = {"source": "a\x07.jsonl", "record": 1, "piece": 0, "stage": "read", "reason": "r", "detail": "no\tobject"}
    rows = [{**row, "excerpt": bytes(200)}] * ROWS
    (out / "rejects").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, REJECTS_SCHEMA), out / one.rejects.name, row_group_size=1000)
    return replace(one, rejects=replace(one.rejects, rows=ROWS))


def test_one_reject_is_read_for_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    honest = pq.ParquetFile.iter_batches

    def iter_batches(self: pq.ParquetFile, batch_size: int) -> object:
        asked.append(batch_size)
        return honest(self, batch_size)

    def read_whole(*_: object, **__: object) -> None:
        raise AssertionError("a rejects file may be larger than the memory")

    monkeypatch.setattr(pq, "read_table", read_whole)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    with pytest.raises(UserError, match=r"2,000 of 2,009 .* \(for example a\\x07\.jsonl, record 1: no\\x09object\)"):
        check_rejects(Folder(str(tmp_path)), [rejected(tmp_path)], 0.5)
    assert asked == [1]


def test_rejects_that_cannot_be_read_stop_the_job_in_one_line_too(tmp_path: Path) -> None:
    one = rejected(tmp_path)
    (tmp_path / one.rejects.name).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="allows: invalid-json 2,000; look at them"):
        check_rejects(Folder(str(tmp_path)), [one], 0.5)


@pytest.mark.parametrize(
    ("documents", "rejects", "limit", "expected"),
    [
        *[(999, 999, 0.0, False), (1000, 1, 0.0, True), (1000, 20, 0.01, False), (1000, 21, 0.01, True)],
        *[(100_000, 1010, 0.01, False), (100_000, 1011, 0.01, True), (10**6, 10**6, 1.0, False)],
    ],
)
def test_when_a_job_is_hopeless(documents: int, rejects: int, limit: float, expected: bool) -> None:
    assert is_hopeless(documents, rejects, limit) is expected


def test_a_hopeless_job_ends_before_its_last_unit_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    for n in range(4):
        pq.write_table(
            pa.table({"text": [f"{n} {row}" if row % 2 else None for row in range(800)]}), corpus / f"{n}.parquet"
        )
    ended = threading.Event()

    def two_units(work: Callable[[Unit], object], units: list[Unit], *_: object) -> None:
        for unit in units[:2]:
            work(unit)
        ended.wait(60)  # the other units take for ever

    monkeypatch.setattr("pipelines.runners.beam.run", two_units)
    monkeypatch.setattr(progress, "LOCAL_SECONDS", 0.01)
    monkeypatch.setattr(progress, "_PAUSE", 0)
    options = PreprocessOptions(
        corpus=str(corpus), out=str(out), proxy=ProxyOptions(proxy="identity"), unit_bytes=2000, quiet=True
    )
    with pytest.raises(UserError, match=r"^800 of 1,600 documents were rejected, .*0\.01 allows: missing-field 800"):
        preprocess(options)
    ended.set()
    assert len(list(out.glob("receipts/*"))) == 2
    assert not (out / "manifest.json").exists()
