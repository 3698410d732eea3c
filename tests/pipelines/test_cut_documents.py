"""Pieces of cut documents on their way through two datasets: whose are whole, and what of the others is missing."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selecting import make

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.gzip import GzipProxy
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.corpus import list_corpus
from pipelines.reading.cut_documents import MOST_STAGES, CutDocuments
from pipelines.reading.documents import Document, Reject
from pipelines.reading.pieces import pieces
from pipelines.reading.plan import PlanOptions, plan_units
from pipelines.reading.readers import read_block
from pipelines.reading.records import ReadOptions
from pipelines.runners.running import RunnerOptions
from pipelines.verify import VerifyOptions, verify
from schemas.draws import document_id

TEXT = "".join(f"line {n}\n" for n in range(400)).encode()

Row = tuple[tuple[str, str, int], int, bytes]


def rows_of(raw: bytes, limit: int, source: str = "a") -> list[Row]:
    key = (document_id(raw).hex(), source, 0)
    return [(key, piece, part) for piece, part in enumerate(pieces(raw, limit))]


def broken_of(rows: list[Row]) -> list[tuple[str, list[range]]]:
    cut = CutDocuments()
    for row in rows:
        cut.add(*row)
    return [(one.key[1], one.lacks) for one in cut.broken()]


def in_runs(documents: list[list[Row]], sizes: list[int]) -> list[Row]:
    """Rows as a shard has them: read one document after the other, sorted within runs."""
    rows = [row for document in documents for row in document]
    runs, start = [], 0
    for size in [*sizes, len(rows)]:
        runs.append(sorted(rows[start : start + size], key=lambda row: (row[0], row[1])))
        start += size
    return [row for run in runs for row in run]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([7, 11, 30])), min_size=1, max_size=6),
    st.lists(st.integers(1, 9), max_size=6),
)
def test_whole_documents_are_whole_however_often_they_come_and_wherever_runs_end(
    kinds: list[tuple[int, int]], sizes: list[int]
) -> None:
    documents = [rows_of(b"some text\n" * length, limit) for length, limit in kinds]
    assert broken_of(in_runs(documents, sizes)) == []


@given(st.integers(1, 4), st.integers(0, 3), st.lists(st.integers(1, 9), max_size=6))
def test_equal_documents_that_all_lost_a_piece_tell_so_each(equals: int, lost: int, sizes: list[int]) -> None:
    (whole,) = [rows_of(b"0123456789" * 4, 10)]
    rows = in_runs([whole[:lost] + whole[lost + 1 :]] * equals, sizes)
    assert broken_of(rows) == [("a", [range(lost, lost + 1)])] * equals


def test_a_piece_twice_a_changed_one_and_a_wrong_place_are_told() -> None:
    rows = rows_of(b"0123456789" * 4, 10)
    assert broken_of([*rows[:2], rows[1], *rows[2:]]) == [("a", [range(1)])]
    assert broken_of([*rows[:2], (rows[2][0], 2, b"0123456780"), rows[3]]) == [("a", [range(4, 5)])]
    assert [source for source, _ in broken_of([rows[1], rows[0], *rows[2:]])] == ["a", "a"]


@pytest.mark.usefixtures("in_this_process")
def test_equal_cut_documents_of_two_datasets_in_one_glob_are_no_fault(tmp_path: Path) -> None:
    for name, limit in (("a", 300), ("b", 300), ("c", 1000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "long.txt").write_bytes(TEXT)
        make(tmp_path / name, tmp_path / f"data-{name}", read=ReadOptions(max_document_bytes=limit))
    reencode(str(tmp_path / "data-*" / "part-*.parquet"), tmp_path / "out")
    assert verify(VerifyOptions(data=str(tmp_path / "out"), workers=1)) == []
    (shard,) = (tmp_path / "out").glob("*.parquet")
    assert sum(pq.read_table(shard)["raw_bytes"].to_pylist()) == 3 * len(TEXT)


def reencode(corpus: str, out: Path, **options: Any) -> Any:
    return preprocess(
        PreprocessOptions(
            corpus=corpus,
            out=str(out),
            proxy=ProxyOptions(proxy="gzip"),
            max_reject_fraction=1.0,
            runner=RunnerOptions(workers=1),
            quiet=True,
            **options,
        )
    )


def refuse(monkeypatch: pytest.MonkeyPatch, marks: list[bytes]) -> None:
    honest = GzipProxy.encode

    def encode(self: GzipProxy, raw: bytes) -> Any:
        if any(mark in raw for mark in marks):
            raise ValueError("this one cannot be encoded")
        return honest(self, raw)

    monkeypatch.setattr(GzipProxy, "encode", encode)


def lossy_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: list[int]) -> list[bytes]:
    """A dataset of one document of 4 pieces without these; its pieces."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/long.txt").write_bytes(TEXT)
    parts = list(pieces(TEXT, 1000))
    assert len(parts) == 4
    with monkeypatch.context() as patched:
        refuse(patched, [parts[piece] for piece in lost])
        reencode(str(tmp_path / "corpus"), tmp_path / "first", read=ReadOptions(max_document_bytes=1000))
    return parts


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("lost", [[0], [1], [3], [0, 1, 2], [1, 2], [0, 2], [2, 3]])
@pytest.mark.parametrize("lost_again", [[], [1], [2, 3]])
def test_what_is_left_of_a_document_keeps_its_id_and_what_is_not_stays_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: list[int], lost_again: list[int]
) -> None:
    parts = lossy_dataset(tmp_path, monkeypatch, lost)
    refuse(monkeypatch, [parts[piece] for piece in lost_again])
    manifest = reencode(str(tmp_path / "first"), tmp_path / "second")
    left = [piece for piece in range(4) if piece not in lost and piece not in lost_again]
    rows = [row for path in (tmp_path / "second").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert [(row["piece"], row["raw"]) for row in rows] == [(piece, parts[piece]) for piece in left]
    assert {row["doc_id"] for row in rows} <= {document_id(TEXT).hex()}
    assert manifest.rejected["missing-pieces"] >= 1
    assert manifest.totals.documents == manifest.totals.accounted
    assert verify(VerifyOptions(data=str(tmp_path / "second"), workers=1)) == []


@pytest.mark.usefixtures("in_this_process")
def test_a_first_piece_alone_is_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = lossy_dataset(tmp_path, monkeypatch, [1, 2, 3])
    manifest = reencode(str(tmp_path / "first"), tmp_path / "second")
    (shard,) = (tmp_path / "second").glob("*.parquet")
    assert pq.read_table(shard)["doc_id"].to_pylist() == [document_id(parts[0]).hex()]
    assert manifest.rejected == {}
    assert verify(VerifyOptions(data=str(tmp_path / "second"), workers=1)) == []


def test_forged_ids_of_cut_documents_are_told(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/long.txt").write_bytes(TEXT)
    (receipt,) = make(tmp_path / "corpus", tmp_path / "data", read=ReadOptions(max_document_bytes=1000))
    table = pq.read_table(tmp_path / "data" / receipt.shard.name)
    other = random.Random(1).randbytes(16).hex()
    forged = table.set_column(0, table.schema.field("doc_id"), pa.array([other] * len(table)))
    pq.write_table(forged, tmp_path / "a.parquet")
    (unit,) = plan_units(list_corpus(str(tmp_path / "a.parquet")), PlanOptions())
    *documents, reject = read_block(unit.blocks[0], ReadOptions())
    assert all(isinstance(document, Document) for document in documents)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.source, reject.piece) == ("missing-pieces", "long.txt", 4)
    assert other in reject.detail
    documents = [document for document in documents if isinstance(document, Document)]
    assert {document.doc_id.hex() for document in documents} == {other}


def test_a_forged_number_of_starts_takes_no_time_and_is_told(tmp_path: Path) -> None:
    """Work is counted, not timed: what is looked at for a row does not grow with the rows."""
    cut = CutDocuments()
    key = ("0" * 32, "a", 0)
    for _ in range(1000):
        cut.add(key, 0, b"x")
    assert len(cut._open[key]) == 1
    for piece in range(1000, 1, -1):
        cut.add(key, piece, b"x")
        assert len(cut._open.get(key, ())) <= MOST_STAGES
    (one,) = cut.broken()
    assert one.lacks == [range(1)]


def shard_of(tmp_path: Path) -> pa.Table:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/long.txt").write_bytes(TEXT)
    (tmp_path / "corpus/other.txt").write_bytes(TEXT[::-1])
    (receipt,) = make(tmp_path / "corpus", tmp_path / "data", read=ReadOptions(max_document_bytes=1000))
    return pq.read_table(tmp_path / "data" / receipt.shard.name)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("order", "renumbered", "expected"),
    [
        ([7, 6, 5, 4, 3, 2, 1, 0], {}, []),  # all there, whatever the order
        ([0, 4, 1, 5, 2, 6, 3, 7], {}, []),
        ([0, 1, 2, 3, 4, 6, 7], {}, [1]),
        ([0, 1, 2, 4, 5, 6, 7], {}, [3]),
        ([0, 1, 2, 3, 4, 5, 6, 7], {1: 2_000_000_000}, [1, 4]),
    ],
)
def test_rows_of_a_stranger_in_another_order_or_under_other_numbers(
    tmp_path: Path, order: list[int], renumbered: dict[int, int], expected: list[int]
) -> None:
    table = shard_of(tmp_path)
    assert table["piece"].to_pylist() == [0, 1, 2, 3] * 2
    pieces = [renumbered.get(row, piece) for row, piece in enumerate(table["piece"].to_pylist())]
    table = table.set_column(3, table.schema.field("piece"), pa.array(pieces, table.schema.field("piece").type))
    pq.write_table(table.take(order), tmp_path / "a.parquet")
    manifest = reencode(str(tmp_path / "a.parquet"), tmp_path / "out")
    (rejects,) = (tmp_path / "out/rejects").iterdir()
    assert pq.read_table(rejects)["piece"].to_pylist() == expected
    assert manifest.totals.rows == len(order)
    assert verify(VerifyOptions(data=str(tmp_path / "out"), workers=1)) == []
