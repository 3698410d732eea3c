"""A dataset of ours as a corpus: its documents stay what they were, under another proxy; and names in vain are told."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from selecting import make

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading import readers
from pipelines.reading.columns import settled
from pipelines.reading.corpus import list_corpus
from pipelines.reading.documents import Document, Reject
from pipelines.reading.filters import Filters
from pipelines.reading.inputs import InputFile, read_chunks
from pipelines.reading.plan import PlanOptions, plan_units
from pipelines.reading.readers import read_block
from pipelines.reading.records import ReadOptions
from pipelines.runners.running import RunnerOptions
from pipelines.verify import VerifyOptions, verify
from schemas.errors import UserError

KEPT = ("doc_id", "source", "record", "piece", "group", "raw", "raw_bytes", "lang")


def rows_of(folder: Path, columns: tuple[str, ...] = KEPT) -> list[dict[str, Any]]:
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).select(columns).to_pylist()]
    return sorted(rows, key=lambda row: (row["source"], row["record"], row["piece"]))


@pytest.fixture
def dataset(make_dataset: Any) -> Path:
    return Path(make_dataset("bpe", read={"max_document_bytes": 700, "keep_columns": ("lang",)}))


def test_documents_stay_what_they_were_and_their_pieces_together(
    dataset: Path, tmp_path: Path, in_this_process: None
) -> None:
    corpus = list_corpus(str(dataset))
    read, warnings = settled(corpus, ReadOptions())
    assert (read.keep_columns, warnings) == (("lang",), [])
    preprocess(
        PreprocessOptions(
            corpus=str(dataset),
            out=str(tmp_path / "out"),
            proxy=ProxyOptions(proxy="gzip"),
            read=read,
            unit_bytes=3000,
            runner=RunnerOptions(workers=1),
            quiet=True,
        )
    )
    rows = rows_of(dataset)
    assert rows_of(tmp_path / "out") == rows
    assert max(row["piece"] for row in rows) > 5
    assert {row["lang"] for row in rows} == {None, "a", "b"}
    assert {row["group"] for row in rows} == {"py", "txt", "bin", "jsonl"}
    assert verify(VerifyOptions(data=str(tmp_path / "out"), workers=1)) == []


def test_each_shard_is_a_block_and_is_named_as_one(dataset: Path) -> None:
    corpus = list_corpus(str(dataset))
    units = plan_units(corpus, PlanOptions(unit_bytes=1, block_bytes=1))
    blocks = [block for unit in units for block in unit.blocks]
    assert len(blocks) == len(corpus.inputs) > 1
    assert {block.identity()[0] for block in blocks} == {"dataset"}


def test_in_a_mix_the_name_comes_before_the_source_and_sizes_are_of_whole_documents(
    dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "mix.toml").write_text(f'[corpora.old]\ncorpus = "{dataset}"\n')
    receipts = make(tmp_path / "mix.toml", tmp_path / "out", filters=Filters(max_bytes=2000))
    rows = rows_of(tmp_path / "out", KEPT[:-1])
    sizes: dict[tuple[str, int], int] = {}
    for row in rows_of(dataset):
        key = (row["source"], row["record"])
        sizes[key] = sizes.get(key, 0) + row["raw_bytes"]
    expected = {(f"old/{source}", record) for (source, record), size in sizes.items() if size <= 2000}
    assert {(row["source"], row["record"]) for row in rows} == expected
    assert {row["group"] for row in rows} == {"old"}
    assert any(row["piece"] for row in rows)
    assert sum(receipt.filtered["keep-max-bytes"] for receipt in receipts if receipt.filtered) > 5


def test_duplicates_of_a_dataset_go(dataset: Path, tmp_path: Path) -> None:
    receipts = make(dataset, tmp_path / "out", distinct=True)
    firsts: dict[str, tuple[str, int]] = {}
    rows = rows_of(dataset)
    for row in rows:
        firsts.setdefault(row["doc_id"], (row["source"], row["record"]))
    expected = [row for row in rows if firsts[row["doc_id"]] == (row["source"], row["record"])]
    columns = KEPT[:4]
    assert rows_of(tmp_path / "out", columns) == [{name: row[name] for name in columns} for row in expected]
    assert len(expected) < len(rows) == sum(receipt.documents for receipt in receipts)


def test_another_column_of_a_dataset_is_read_as_of_any_parquet_file(dataset: Path) -> None:
    corpus = list_corpus(str(dataset))
    assert settled(corpus, ReadOptions(field="lang")) == (ReadOptions(field="lang"), [])
    (block, *_) = plan_units(corpus)[0].blocks
    items = list(read_block(block, ReadOptions(field="lang")))
    assert {item.group for item in items if isinstance(item, Document)} <= {"parquet"}
    assert all(item.source.startswith("part-") for item in items)


def test_a_value_of_a_dataset_that_cannot_be_told_rejects_its_row_alone(dataset: Path, tmp_path: Path) -> None:
    table = pq.read_table(max(dataset.glob("part-*"), key=lambda path: path.stat().st_size))
    moments = pa.array([1 << 62, *range(table.num_rows - 1)], pa.int64()).cast(pa.timestamp("us"))
    meta = pa.StructArray.from_arrays([moments], ["at"])
    pq.write_table(table.append_column("meta", meta), tmp_path / "a.parquet")
    (block,) = plan_units(list_corpus(str(tmp_path)))[0].blocks
    first, *others = read_block(block, ReadOptions(keep_columns=("meta",)))
    row = table.select(KEPT).to_pylist()[0]
    assert isinstance(first, Reject)
    assert (first.source, first.record, first.piece) == (row["source"], row["record"], row["piece"])
    assert first.detail.startswith("column 'meta' cannot be kept as text")
    assert len(others) == table.num_rows - 1 > 0
    assert all(isinstance(item, Document) for item in others)


def test_an_unfinished_dataset_is_refused(dataset: Path, copy_of: Any) -> None:
    copy = copy_of(dataset)
    (copy / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"a dataset that is not finished \(no manifest\.json\)"):
        list_corpus(str(copy))


def test_long_documents_of_a_dataset_stay_as_they_are_and_that_is_said(dataset: Path) -> None:
    _, warnings = settled(list_corpus(str(dataset)), ReadOptions(max_document_bytes=699))
    assert warnings == ["--max-document-bytes 699: documents of a dataset stay as they are cut, and some are longer"]


def test_a_file_that_only_says_it_is_a_shard_is_read_as_parquet(tmp_path: Path) -> None:
    metadata = {b"proxy_compression": b"{}"}
    table = pa.table({"raw": [b"x"], "doc_id": ["zz"]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "a.parquet")
    (unit,) = plan_units(list_corpus(str(tmp_path)))
    (item,) = read_block(unit.blocks[0], ReadOptions())
    assert isinstance(item, Document)
    assert (item.raw, item.source, item.group) == (b"x", "a.parquet", "parquet")


def test_forged_ids_of_whole_documents_are_made_anew(make_dataset: Any, tmp_path: Path) -> None:
    table = pq.read_table(next(Path(make_dataset("gzip", read={"max_document_bytes": 1 << 20})).glob("*.parquet")))
    forged = table.set_column(0, table.schema.field("doc_id"), pa.array(["00" * 16] * len(table)))
    pq.write_table(forged, tmp_path / "a.parquet")
    (unit,) = plan_units(list_corpus(str(tmp_path)))
    items = [item for item in read_block(unit.blocks[0], ReadOptions()) if isinstance(item, Document)]
    assert [item.doc_id.hex() for item in items] == table["doc_id"].to_pylist()


def test_a_shard_whose_ids_are_none_is_rejected(dataset: Path, tmp_path: Path) -> None:
    path = next(dataset.glob("*.parquet"))
    table = pq.read_table(path)
    table = table.set_column(0, table.schema.field("doc_id"), pa.array(["zz"] * len(table)))
    pq.write_table(table, tmp_path / "a.parquet")
    (unit,) = plan_units(list_corpus(str(tmp_path)))
    (item,) = read_block(unit.blocks[0], ReadOptions())
    assert not isinstance(item, Document)
    assert (item.reason, item.detail) == ("unreadable", "doc_id 'zz' is no digest")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (ReadOptions(keep_columns=("licence",)), "--keep-columns 'licence': no file has it; there are license, text"),
        (ReadOptions(group_field="lang"), "--group-field 'lang': no file has it"),
        (ReadOptions(field="body"), "--field 'body': no file has it"),
    ],
)
def test_a_column_that_no_parquet_file_has_is_an_error(tmp_path: Path, read: ReadOptions, message: str) -> None:
    pq.write_table(pa.table({"text": ["a"], "license": ["b"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"broken")
    with pytest.raises(UserError, match=message):
        settled(list_corpus(str(tmp_path)), read)
    assert settled(list_corpus(str(tmp_path)), ReadOptions(keep_columns=("license",)))[1] == []


def test_a_key_that_no_record_has_is_told_and_files_without_fields_are_an_error(tmp_path: Path) -> None:
    lines = [{"text": "a"}, {"text": "b", "lang": "x"}, [3]]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{broken")
    read = ReadOptions(group_field="lang", keep_columns=("license",))
    assert settled(list_corpus(str(tmp_path)), read) == (
        read,
        ["--keep-columns 'license': no record that was looked at has it; there are lang, text"],
    )
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("x")
    with pytest.raises(UserError, match=r"'license': no file has it; there are none \(text files"):
        settled(list_corpus(str(tmp_path / "text")), read)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "start",
    [
        b'\xef\xbb\xbf{"text": "a", "lang": "x"}\n',
        b'{"text": "%s", "lang": "x"}\n' % (b"long " * 300_000),
        b'{"text": "%s", "lang": "x"}' % (b"long " * 300_000),
        b'{"text": "a", "score": NaN, "lang": "x"}\n',
        b"\n" * 1000 + b'{"text": "a", "lang": "x"}\n',
    ],
    ids=["mark", "long", "one line", "NaN", "blank"],
)
def test_a_key_of_the_first_record_is_found_however_it_begins(tmp_path: Path, start: bytes, suffix: str) -> None:
    data = start + (b'{"text": "b"}\n' * 100_000 if start.endswith(b"\n") else b"")
    (tmp_path / f"a.jsonl{suffix}").write_bytes(gzip.compress(data, 1) if suffix else data)
    assert settled(list_corpus(str(tmp_path)), ReadOptions(keep_columns=("lang",)))[1] == []


def test_no_more_is_looked_at_for_a_key_than_the_longest_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"x" * 20_000_000 + b'\n{"text": "a", "lang": "x"}\n')
    given = 0

    def counted(file: InputFile) -> Iterator[bytes]:
        nonlocal given
        for chunk in read_chunks(file):
            given += len(chunk)
            yield chunk

    monkeypatch.setattr(readers, "read_chunks", counted)
    read = ReadOptions(keep_columns=("lang",), max_record_bytes=5_000_000)
    (line,) = settled(list_corpus(str(tmp_path)), read)[1]
    assert line.startswith("--keep-columns 'lang': no record that was looked at has it")
    assert 5_000_000 <= given < 7_000_000


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_dataset_without_all_its_shards_is_refused(dataset: Path, copy_of: Any, damage: str) -> None:
    copy = copy_of(dataset)
    path = sorted(copy.glob("part-*"))[1]
    size = path.stat().st_size
    if damage == "missing":
        path.unlink()
        message = rf"{path.name}: missing; run the command that makes this dataset again"
    else:
        path.write_bytes(path.read_bytes()[:-1])
        message = rf"{path.name}: {size - 1:,} bytes instead of {size:,}"
    with pytest.raises(UserError, match=message):
        list_corpus(str(copy))
    other = sorted(dataset.glob("part-*"))[0].name  # which is whole, and all that is asked for
    assert [file.path for file in list_corpus(str(copy), include=(other,)).inputs] == [other]


def test_shards_that_the_manifest_does_not_name_are_not_taken(dataset: Path, copy_of: Any) -> None:
    copy = copy_of(dataset)
    shards = sorted(path.name for path in copy.glob("part-*"))
    stray = copy / f"{shards[0][: -len('00000000.parquet')]}01234567.parquet"
    stray.write_bytes((copy / shards[0]).read_bytes())
    for spec in (copy, copy / "part-*.parquet", copy / "**"):
        assert [file.path for file in list_corpus(str(spec)).inputs] == shards
    (copy / "manifest.json").unlink()
    for spec in (copy, copy / "part-*.parquet", copy / "**", copy / shards[0]):
        with pytest.raises(UserError, match=r"a dataset that is not finished \(no manifest\.json\)"):
            list_corpus(str(spec))


@pytest.fixture
def parent(dataset: Path, copy_of: Any, tmp_path: Path) -> Path:
    """Two datasets, a text, and a folder that only looks like one."""
    copies = tmp_path / "copies"
    for name in ("a", "b"):
        shutil.copytree(dataset, copies / name)
    (copies / "c/meta").mkdir(parents=True)
    (copies / "c/meta/dataset.json").write_text('{"licence": "none"}')
    (copies / "text.txt").write_text("x")
    return copies


@pytest.mark.parametrize("store", [False, True])
def test_of_several_datasets_each_manifest_counts(parent: Path, store: bool) -> None:
    memory = MemoryFileSystem()
    memory.store.clear()
    shards = [f"{name}/{path.name}" for name in "ab" for path in sorted((parent / "a").glob("part-*"))]
    stray = f"b/{Path(shards[0]).name[: -len('00000000.parquet')]}01234567.parquet"
    (parent / stray).write_bytes((parent / shards[0]).read_bytes())
    if store:
        memory.put(f"{parent}/", "/datasets/", recursive=True)
    place = "memory://datasets" if store else str(parent)

    def listed(spec: str) -> list[str]:
        return [file.path for file in list_corpus(f"{place}{spec}").inputs]

    others = ["c/meta/dataset.json", "text.txt"]
    assert listed("") == listed("/**") == [*shards, *others]
    assert listed("/*/*.parquet") == listed("/?/part-*") == shards
    assert listed("/c") == ["meta/dataset.json"]
    missing = parent / shards[-1]
    missing.unlink()
    if store:
        memory.rm(f"/datasets/{shards[-1]}")
    with pytest.raises(UserError, match=rf"b/{missing.name}: missing; run the command that makes this dataset again"):
        listed("")
    assert listed("/*/part-*") == shards[:-1]
    (parent / "b/manifest.json").unlink()
    if store:
        memory.rm("/datasets/b/manifest.json")
    for spec in ("", "/**", "/*/part-*", "/b/*.parquet"):
        with pytest.raises(UserError, match=r"/b.*: a dataset that is not finished \(no manifest\.json\)"):
            listed(spec)
    assert listed("/a/*.parquet") == [Path(name).name for name in shards if name.startswith("a")]


def test_datasets_of_which_nothing_is_asked_for_do_not_matter(parent: Path) -> None:
    (parent / "d.json").write_text("{}")
    (parent / "e").mkdir()
    (parent / "e/f.json").write_text("{}")
    expected = ["c/meta/dataset.json", "d.json", "e/f.json"]
    for glob in ("/**/*.json", "/*/*/*.json"):
        listed = [file.path for file in list_corpus(f"{parent}{glob}").inputs]
        assert listed == [path for path in expected if Path("/", path).match(glob) or "**" in glob]
    (parent / "b/manifest.json").unlink()
    for name in ("*.txt", "d.json"):
        (path,) = list_corpus(str(parent), include=(name,)).inputs
        assert Path(path.path).match(name)
    with pytest.raises(UserError, match="not finished"):
        list_corpus(str(parent), include=("*.parquet",))


def test_a_dataset_within_a_dataset_is_not_of_it(dataset: Path, copy_of: Any) -> None:
    copy = copy_of(dataset)
    shards = sorted(path.name for path in copy.glob("part-*"))
    shutil.copytree(dataset, copy / "inner")
    assert [file.path for file in list_corpus(str(copy)).inputs] == shards


def test_kept_columns_come_from_the_first_shard_that_can_be_read(dataset: Path, copy_of: Any) -> None:
    copy = copy_of(dataset)
    shards = sorted(copy.glob("part-*"))
    for path in shards[:-1]:
        path.write_bytes(b"x" * path.stat().st_size)
    assert settled(list_corpus(str(copy)), ReadOptions())[0].keep_columns == ("lang",)
    shards[-1].write_bytes(b"x" * shards[-1].stat().st_size)
    with pytest.raises(UserError, match=rf"none of {len(shards)} shards that were looked at can be read"):
        settled(list_corpus(str(copy)), ReadOptions())


@pytest.mark.parametrize("line", [b"1\n", b"{\n", b'"text": "a",\n'])
def test_of_a_file_without_objects_one_chunk_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    (tmp_path / "a.jsonl").write_bytes(line * (5_000_000 // len(line)))
    chunks = []

    def counted(file: InputFile) -> Iterator[bytes]:
        for chunk in read_chunks(file):
            chunks.append(len(chunk))
            yield chunk

    monkeypatch.setattr(readers, "read_chunks", counted)
    settled(list_corpus(str(tmp_path)), ReadOptions(keep_columns=("lang",)))
    assert len(chunks) == 1


def test_keys_with_control_characters_stay_on_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "b\\n\\u001b[2J": 1}\n')
    _, (line,) = settled(list_corpus(str(tmp_path)), ReadOptions(group_field="lang"))
    assert line.endswith(r"there are b\x0a\x1b[2J, text")
