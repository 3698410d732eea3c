"""Documents that share source and record: each is told from the other, and none is lost or kept twice."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st
from selecting import job_of, make

from pipelines import selection
from pipelines.reading.corpus import list_corpus
from pipelines.reading.documents import Document
from pipelines.reading.filters import Filters
from pipelines.reading.plan import PlanOptions, plan_units
from pipelines.reading.records import ReadOptions
from schemas.draws import document_id

READ = ReadOptions(max_document_bytes=300)
TEXTS = {name: "".join(f"{name} {n}\n" for n in range(count)) for name, count in (("x", 200), ("y", 170), ("z", 9))}


def documents_of(out: Path) -> Counter[bytes]:
    """The documents of a dataset, put together from their pieces and checked by their ids."""
    rows = [row for path in sorted(out.glob("part-*")) for row in pq.read_table(path).to_pylist()]
    pieces: dict[str, list[tuple[int, bytes]]] = {}
    for row in rows:
        pieces.setdefault(row["doc_id"], []).append((row["piece"], row["raw"]))
    found: Counter[bytes] = Counter()
    for doc_id, parts in pieces.items():
        counts = Counter(piece for piece, _ in parts)
        assert len(set(counts.values())) == 1, "some documents have more pieces than their equals"
        raw = b"".join(raw for _, raw in sorted(set(parts)))
        assert document_id(raw).hex() == doc_id
        found[raw] = counts[0]
    return found


def snapshots(folder: Path) -> str:
    """Two datasets in which the same names stand for other documents; the glob of both."""
    for version, contents in (("1", {"a.txt": "x", "b.txt": "y"}), ("2", {"a.txt": "y", "b.txt": "z", "c.txt": "x"})):
        (folder / version).mkdir()
        for name, text in contents.items():
            (folder / version / name).write_text(TEXTS[text])
        make(folder / version, folder / f"data{version}", read=READ)
    return str(folder / "data*" / "part-*.parquet")


def test_two_snapshots_of_a_dataset_in_one_glob(tmp_path: Path) -> None:
    glob = snapshots(tmp_path)
    every = make(glob, tmp_path / "all", read=READ)
    once = make(glob, tmp_path / "once", read=READ, distinct=True)
    wanted = {text.encode() for text in TEXTS.values()}
    assert documents_of(tmp_path / "all") == Counter(
        {TEXTS[name].encode(): n for name, n in zip("xyz", (2, 2, 1), strict=True)}
    )
    assert documents_of(tmp_path / "once") == Counter(wanted)
    assert sum(receipt.documents for receipt in every) == sum(receipt.documents for receipt in once)
    assert all(receipt.documents == receipt.accounted for receipt in once)


def test_file_names_that_differ_in_invalid_bytes_only(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, text in ((b"0", "y"), (b"a\xff", "x"), (rb"a\xff", "y")):
        (corpus / os.fsdecode(name)).write_text(TEXTS[text])
    make(corpus, tmp_path / "once", read=READ, distinct=True)
    assert documents_of(tmp_path / "once") == Counter(TEXTS[name].encode() for name in "xy")


def test_filters_ask_for_each_of_them(tmp_path: Path) -> None:
    """In one shard, and of whole sizes that are not each other's nor their sum."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, text in ((b"a\xff", "x"), (rb"a\xff", "y"), (b"b", "z")):
        (corpus / os.fsdecode(name)).write_text(TEXTS[text])
    make(corpus, tmp_path / "first", read=READ, plan=PlanOptions(unit_bytes=1 << 20))
    between = Filters(max_bytes=(len(TEXTS["x"]) + len(TEXTS["y"])) // 2)
    glob = str(tmp_path / "first" / "part-*.parquet")
    make(glob, tmp_path / "second", read=READ, filters=between)
    assert documents_of(tmp_path / "second") == Counter(TEXTS[name].encode() for name in "yz")


def test_a_document_twice_in_one_shard_stays_once_with_all_its_pieces(tmp_path: Path) -> None:
    """Equal in id, source and record, and their pieces mixed."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.txt").write_text(TEXTS["x"])
    (receipt,) = make(tmp_path / "corpus", tmp_path / "one", read=READ)
    table = pq.read_table(tmp_path / "one" / receipt.shard.name)
    twice = table.take(pa.array([index for index in range(len(table)) for _ in range(2)]))
    (tmp_path / "two").mkdir()
    pq.write_table(twice, tmp_path / "two/a.parquet")
    make(tmp_path / "two", tmp_path / "once", read=READ, distinct=True, filters=Filters(max_bytes=len(TEXTS["x"])))
    assert documents_of(tmp_path / "once") == Counter([TEXTS["x"].encode()])


@st.composite
def interleaved(draw: st.DrawFn) -> list[tuple[int, int, bool]]:
    """(document, piece, whether it is cut) in any order in which a document's pieces follow each other."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    left = [index for index, count in enumerate(counts) for _ in range(count)]
    order = draw(st.permutations(left))
    seen: Counter[int] = Counter()
    items = []
    for index in order:
        items.append((index, seen[index], counts[index] > 1))
        seen[index] += 1
    return items


@given(interleaved())
def test_pieces_share_the_number_of_their_document(items: list[tuple[int, int, bool]]) -> None:
    def documents() -> Iterator[Document]:
        for index, piece, cut in items:
            yield Document(
                doc_id=bytes([index % 3]) * 16,
                source=f"{index % 2}",
                record=0,
                piece=piece,
                group="",
                raw=b"x",
                whole_bytes=9 if cut else 1,
            )

    numbers = selection._Numbers()
    got = [numbers.of(document) for document in documents()]
    firsts = [number for number, (_, piece, _) in zip(got, items, strict=True) if piece == 0]
    assert sorted(firsts) == list(range(len(firsts)))
    # of equal documents any may have a piece, so what each number has is a document's, piece by piece
    pieces: dict[int, list[int]] = {}
    keys: dict[int, set[int]] = {}
    for number, (index, piece, _) in zip(got, items, strict=True):
        pieces.setdefault(number, []).append(piece)
        keys.setdefault(number, set()).add(index % 6)
    assert all(found == list(range(len(found))) for found in pieces.values())
    assert all(len(key) == 1 for key in keys.values())


def test_pieces_without_a_first_one_are_no_other_document(tmp_path: Path) -> None:
    """The first piece may have been a reject when the shard was made."""
    (tmp_path / "corpus").mkdir()
    for name in "xy":
        (tmp_path / f"corpus/{name}.txt").write_text(TEXTS[name])
    (receipt,) = make(tmp_path / "corpus", tmp_path / "one", read=READ)
    table = pq.read_table(tmp_path / "one" / receipt.shard.name)
    rows = table.to_pylist()
    (tmp_path / "two").mkdir()
    second = [index for index, row in enumerate(rows) if row["source"] == "y.txt" and row["piece"]]
    first = [index for index, row in enumerate(rows) if row["source"] == "x.txt"]
    pq.write_table(table.take(pa.array(first + second)), tmp_path / "two/a.parquet")
    (unit,) = plan_units(list_corpus(str(tmp_path / "two")), PlanOptions(unit_bytes=1 << 20))
    job = job_of(tmp_path / "out", READ)
    found = selection.kept(unit.blocks, job.read, job.filters)
    named = {(ordinal, item.source) for ordinal, item in found if isinstance(item, Document)}
    assert named == {(0, "x.txt"), (1, "y.txt")}
