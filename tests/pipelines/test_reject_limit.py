"""Too many rejects are told in one line, however many there are and whatever is in them."""

import gzip
import os
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_receipts import receipt

from pipelines import progress
from pipelines.commit import read_receipts, receipt_names
from pipelines.manifest import rebuild_manifest
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.corpus import list_corpus
from pipelines.reading.documents import Reject
from pipelines.reading.plan import Unit, cut_blocks
from pipelines.reading.readers import read_block
from pipelines.reading.records import ReadOptions
from pipelines.reject_limit import check_rejects, is_hopeless
from pipelines.storage import Folder
from pipelines.summary import lines, summary_of
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


def test_one_unreadable_file_is_too_much_if_it_is_large(tmp_path: Path) -> None:
    """It is one reject among a thousand documents, and half of the input."""
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    (corpus / "lines.jsonl").write_text("".join(f'{{"text": "number {n}"}}\n' for n in range(1000)))
    size = (corpus / "lines.jsonl").stat().st_size
    (corpus / "not.parquet").write_bytes(bytes(size))
    options = PreprocessOptions(corpus=str(corpus), out=str(out), proxy=ProxyOptions(proxy="identity"), quiet=True)
    line = r"of 0\.0 MB of input could not be read \(50\.0%\), .* unreadable 1 \(for example not\.parquet, record 0: "
    for _ in range(2):
        with pytest.raises(UserError, match=line):
            preprocess(options)
    with pytest.raises(UserError, match=line):
        rebuild_manifest(str(out))
    assert preprocess(replace(options, max_reject_fraction=0.5)).totals.rows == 1000
    (one,) = read_receipts(Folder(str(out)), receipt_names(Folder(str(out))))
    assert (one.lost_bytes, one.input_bytes) == (size, 2 * size)
    assert "rejects: 1, unreadable 1; 0.0 MB of input not read" in "\n".join(lines(summary_of(str(out))))


def test_what_is_lost_ends_a_running_job(tmp_path: Path) -> None:
    one = replace(rejected(tmp_path), documents=10**9, lost_bytes=11)
    progress_report = progress.ProgressReport(
        Folder(str(tmp_path)), ["receipts/a.json", "b"], True, [500, 500], max_reject_fraction=0.01
    )
    progress_report._count([replace(one, lost_bytes=10)])
    progress_report._check_rejects()
    progress_report._lost_bytes = 0
    progress_report._count([one])
    with pytest.raises(UserError, match=r"of input could not be read \(1\.1%\)"):
        progress_report._check_rejects()


def test_how_much_is_lost_where_reading_ends(tmp_path: Path) -> None:
    """By kind of file: the rest of a range, of row groups, or of a compressed file as far as it is known."""
    lines = b'{"text": "a line of thirty bytes"}\n' * 4000
    noise = b"".join(b'{"text": "%s"}\n' % random.Random(n).randbytes(300).hex().encode() for n in range(4000))
    whole = gzip.compress(noise)
    (tmp_path / "damaged.jsonl.gz").write_bytes(whole[: len(whole) // 2] + random.Random(0).randbytes(len(whole) // 2))
    (tmp_path / "none.jsonl.gz").write_bytes(b"no gzip at all")
    (tmp_path / "gone.jsonl").write_bytes(lines)
    (tmp_path / "gone.txt").write_bytes(lines)
    table = pa.table({"text": [f"row {n}" for n in range(100)]})
    pq.write_table(table, tmp_path / "half.parquet", row_group_size=50, compression="none", use_dictionary=False)
    metadata = pq.read_metadata(tmp_path / "half.parquet")
    blocks = {block.files[0].path: block for block in cut_blocks(list_corpus(str(tmp_path)))}
    data = bytearray((tmp_path / "half.parquet").read_bytes())
    at = metadata.row_group(1).column(0).data_page_offset
    data[at : at + 20] = bytes(20)
    (tmp_path / "half.parquet").write_bytes(data)
    listed = int(blocks["half.parquet"].files[0].version)
    os.utime(tmp_path / "half.parquet", ns=(listed, listed))  # damaged in place
    for name in ("gone.jsonl", "gone.txt"):
        (tmp_path / name).unlink()

    def lost(name: str) -> int:
        (one,) = [item for item in read_block(blocks[name], ReadOptions()) if isinstance(item, Reject)]
        return one.lost_bytes

    assert lost("gone.jsonl") == lost("gone.txt") == len(lines)
    assert lost("none.jsonl.gz") == 14
    assert 0.4 < lost("damaged.jsonl.gz") / len(whole) < 0.7  # a chunk more than what is damaged
    assert lost("half.parquet") == blocks["half.parquet"].input_bytes // 2
