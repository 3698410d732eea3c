"""Every change to a dataset is found, and the line names its place; a whole dataset gives none."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import manifest, rows, shard, verify
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.gzip import GzipProxy
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.records import ReadOptions
from pipelines.runners.running import RunnerOptions
from pipelines.storage import Folder
from pipelines.verify import VerifyOptions
from pipelines.verify_rows import MAX_FAULTS
from schemas.errors import UserError
from schemas.manifest import Manifest, Receipt, seal, unseal
from schemas.names import DATASET, ROW_GROUPS
from schemas.shard import chunk_ranges, footer_start

MakeDataset = Callable[..., Path]
CopyOf = Callable[[Path], Path]


def faults_of(data: Path | str, **options: Any) -> list[str]:
    return verify.verify(VerifyOptions(data=str(data), workers=1, **options))


def only_fault(data: Path, **options: Any) -> str:
    (fault,) = faults_of(data, **options)
    return fault


def shards_of(data: Path) -> list[Path]:
    """Shards with at least two row groups."""
    return [path for path in sorted(data.glob("*.parquet")) if pq.read_metadata(path).num_row_groups > 1]


def flip(path: Path, offset: int, rng: random.Random) -> bytes:
    """Change one byte; returns what the file held."""
    before = path.read_bytes()
    after = bytearray(before)
    after[offset] ^= rng.randrange(1, 256)
    path.write_bytes(after)
    return before


# Whole datasets


@pytest.mark.parametrize("proxy", ["neural", "bpe", "gzip", "identity"])
def test_a_whole_dataset_has_no_faults(make_dataset: MakeDataset, proxy: str) -> None:
    data = make_dataset(proxy)
    assert faults_of(data) == []
    assert faults_of(data, decode=False) == []
    pieces = [piece for path in data.glob("*.parquet") for piece in pq.read_table(path)["piece"].to_pylist()]
    assert max(pieces) >= 2, "no document was cut: its doc_id over the pieces is not tested"


def test_kept_columns_groups_and_workers(make_dataset: MakeDataset) -> None:
    data = make_dataset("gzip", read={"keep_columns": ("lang",), "group_field": "lang"})
    assert verify.verify(VerifyOptions(data=str(data), workers=2)) == []


def test_a_whole_dataset_gives_one_line(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    verify.run(VerifyOptions(data=str(make_dataset("bpe")), workers=1))
    (line,) = capsys.readouterr().out.splitlines()
    assert "6 rejects" in line
    assert "symbols decoded" in line
    assert line.endswith("MB/s")


def test_leftovers_of_a_killed_job_are_no_faults(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    (data / "meta/tmp").mkdir(exist_ok=True)
    (data / "meta/tmp/1-2.tmp").write_bytes(b"half a shard")
    assert faults_of(data) == []


def test_a_dataset_on_an_object_store(make_dataset: MakeDataset) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(make_dataset("bpe")), "/bucket/verify", recursive=True)
    try:
        assert faults_of("memory://bucket/verify") == []
        name = sorted(path for path in fs.ls("/bucket/verify", detail=False) if path.endswith(".parquet"))[0]
        fs.pipe_file(name, fs.cat_file(name)[:-100])
        (fault,) = faults_of("memory://bucket/verify")
        assert "truncated" in fault
    finally:
        fs.rm("/bucket/verify", recursive=True)


def test_no_finished_dataset_is_an_error_not_a_fault(
    make_dataset: MakeDataset, copy_of: CopyOf, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no dataset there"):
        faults_of(tmp_path / "none")
    data = copy_of(make_dataset("bpe"))
    (data / "manifest.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        faults_of(data)


# Damage


@pytest.mark.parametrize(
    ("pattern", "flips"),
    [
        ("*.parquet", 120),
        ("rejects/*.parquet", 20),
        ("receipts/*.json", 40),
        ("manifest.json", 30),
        ("meta/dataset.json", 30),
        ("meta/row_groups.parquet", 20),
        ("meta/proxy/*", 20),
    ],
)
@pytest.mark.parametrize("proxy", ["bpe", "neural"])
def test_a_flipped_byte_anywhere_is_found_in_its_file(
    make_dataset: MakeDataset, copy_of: CopyOf, proxy: str, pattern: str, flips: int
) -> None:
    rng = random.Random(f"{proxy} {pattern}")
    data = copy_of(make_dataset(proxy))
    paths = sorted(data.glob(pattern))
    for turn in range(flips if proxy == "bpe" else flips // 5):
        path = paths[turn % len(paths)]
        offset = rng.randrange(path.stat().st_size)
        before = flip(path, offset, rng)
        name = str(path.relative_to(data))
        faults = faults_of(data)
        assert faults, f"{name}: a flip at {offset} was not found"
        assert all(fault.startswith(name) for fault in faults), (offset, faults)
        path.write_bytes(before)
    assert faults_of(data) == []


def test_white_space_of_sealed_files_is_checked_too(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    receipt = sorted(data.glob("receipts/*"))[0]
    for path in (data / "manifest.json", data / "meta/dataset.json", receipt):
        before = path.read_bytes()
        path.write_bytes(before.replace(b": ", b":\t", 1))
        assert only_fault(data).startswith(f"{path.relative_to(data)}: not the bytes that were written")
        path.write_bytes(before)


def test_a_flip_in_a_column_chunk_is_located_to_row_group_and_column(
    make_dataset: MakeDataset, copy_of: CopyOf
) -> None:
    rng = random.Random(1)
    data = copy_of(make_dataset("bpe"))
    for path in shards_of(data)[:2]:
        metadata = pq.read_metadata(path)
        for group in (0, metadata.num_row_groups - 1):
            for index, (offset, length) in enumerate(chunk_ranges(metadata, group)):
                before = flip(path, offset + rng.randrange(length), rng)
                column = metadata.row_group(group).column(index).path_in_schema.split(".")[0]
                assert only_fault(data) == f"{path.name}: row group {group}, column {column}: differs from its digest"
                path.write_bytes(before)


def test_a_flip_in_the_footer_is_located(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    rng = random.Random(2)
    data = copy_of(make_dataset("bpe"))
    path = shards_of(data)[0]
    size = path.stat().st_size
    start = footer_start(path.read_bytes()[-8:], size, path.name)
    for offset in [start, size - 9, size - 8, size - 1, *rng.sample(range(start, size), 10)]:
        before = flip(path, offset, rng)
        fault = only_fault(data)
        assert "footer" in fault or "end like a Parquet file" in fault
        path.write_bytes(before)
    flip(path, 0, rng)
    assert "outside of row groups and footer" in only_fault(data)


def test_truncated_empty_missing_and_foreign_files(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    rng = random.Random(3)
    data = copy_of(make_dataset("bpe"))
    for pattern in ("*.parquet", "rejects/*", "receipts/*", "meta/row_groups.parquet", "meta/proxy/*"):
        path = sorted(data.glob(pattern))[0]
        name = str(path.relative_to(data))
        before = path.read_bytes()
        for cut in (0, 1, 7, len(before) - 1, rng.randrange(len(before))):
            path.write_bytes(before[:cut])
            assert only_fault(data).startswith(name)
        path.write_bytes(before + b"\0")
        assert only_fault(data).startswith(name)
        path.unlink()
        assert only_fault(data).startswith(f"{name}: missing")
        path.write_bytes(before)
    (data / "meta/dataset.json").unlink()
    assert only_fault(data) == "meta/dataset.json: missing"


def test_without_a_manifest_each_file_is_of_the_unit_that_its_name_says(
    make_dataset: MakeDataset, copy_of: CopyOf
) -> None:
    data = copy_of(make_dataset("bpe"))
    (data / "manifest.json").write_text("damaged")
    stem = shards_of(data)[1].stem
    (data / f"receipts/{stem}.json").unlink()
    damaged, *others = faults_of(data)
    assert damaged.startswith("manifest.json: ")
    assert others == [f"receipts/{stem}.json: missing"]
    (data / f"{stem}.parquet").unlink()
    assert faults_of(data) == [damaged, f"receipts/{stem}.json: missing"]
    (data / f"rejects/{stem}.parquet").unlink()
    units = len(shards_of(data)) + 1
    assert faults_of(data) == [damaged, f"unit 1 of {units}: shard, rejects and receipt are missing"]


def test_without_a_manifest_a_stray_receipt_is_the_stray_one(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    (data / "manifest.json").write_text("damaged")
    stem = shards_of(data)[0].stem
    stray = data / f"receipts/{stem[:-8]}00000000.json"
    shutil.copy(data / f"receipts/{stem}.json", stray)
    assert faults_of(data)[1:] == [f"receipts/{stray.name}: not of this dataset; delete it"]


def test_swapped_files_are_found(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    for pattern in ("*.parquet", "receipts/*"):
        first, second = sorted(data.glob(pattern))[:2]
        one, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)
        faults = faults_of(data)
        for path in (first, second):
            assert any(fault.startswith(str(path.relative_to(data))) for fault in faults)
        first.write_bytes(one)
        second.write_bytes(other)


def test_files_that_a_reader_would_take_for_the_datasets_are_found(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    path = sorted(data.glob("*.parquet"))[0]
    extra = [
        data / "part-00009-of-00010-01234567.parquet",
        data / "rejects" / "part-00009-of-00010-01234567.parquet",
        data / "receipts" / "part-00009-of-00010-01234567.json",
        data / "notes.parquet",
    ]
    for target in extra:
        shutil.copy(path, target)
        assert only_fault(data) == f"{target.relative_to(data)}: not of this dataset; delete it"
        target.unlink()
    (data / "README.md").write_text("beside it")
    assert faults_of(data) == []


def test_a_shard_of_another_dataset_with_seals_of_its_own_is_found(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    """All digests are right here: shard and receipt were made for another proxy."""
    data, other = copy_of(make_dataset("gzip")), make_dataset("identity")
    stem, foreign = sorted(data.glob("*.parquet"))[0].stem, sorted(other.glob("*.parquet"))[0].stem
    receipt = Receipt.from_bytes((other / f"receipts/{foreign}.json").read_bytes(), "receipt")
    renamed = replace(
        receipt,
        shard=replace(receipt.shard, name=f"{stem}.parquet"),
        rejects=replace(receipt.rejects, name=f"rejects/{stem}.parquet"),
    )
    shutil.copy(other / f"{foreign}.parquet", data / f"{stem}.parquet")
    shutil.copy(other / f"rejects/{foreign}.parquet", data / f"rejects/{stem}.parquet")
    (data / f"receipts/{stem}.json").write_bytes(renamed.to_bytes())
    manifest.rebuild_manifest(str(data))
    faults = "\n".join(faults_of(data))
    assert f"{stem}.json: unit digest begins" in faults
    assert f"{stem}.parquet: metadata fingerprint" in faults
    assert f"{stem}.parquet: row group 0: comp is null" in faults


def test_a_manifest_that_contradicts_its_receipts_is_found(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    """Sealed anew, so that only the comparison can find it."""
    data = copy_of(make_dataset("bpe"))
    path = data / "manifest.json"
    stored = Manifest.from_bytes(path.read_bytes(), "manifest")
    path.write_bytes(replace(stored, totals=replace(stored.totals, raw_bytes=1)).to_bytes())
    assert only_fault(data).startswith("manifest.json: totals.raw_bytes 1, expected")
    path.write_bytes(replace(stored, rejected={"invalid-json": 6}).to_bytes())
    assert only_fault(data).startswith("manifest.json: rejected")
    shards = [replace(stored.shards[0], rows=1), *stored.shards[1:]]
    path.write_bytes(replace(stored, shards=shards).to_bytes())
    assert any("other rows of part-00000" in fault for fault in faults_of(data))
    path.write_bytes(replace(stored, dataset={**stored.dataset, "lock_digest": "0"}).to_bytes())
    assert only_fault(data) == "meta/dataset.json: other lock_digest than in manifest.json"


def test_a_row_group_table_that_contradicts_the_receipts_is_found(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    table = pq.read_table(data / ROW_GROUPS)
    rows = table["rows"].to_pylist()
    changed = table.set_column(4, table.schema.field(4), pa.array([rows[0] + 1, *rows[1:]], pa.uint32()))
    pq.write_table(changed, data / ROW_GROUPS)
    path = data / "manifest.json"
    stored = Manifest.from_bytes(path.read_bytes(), "manifest")
    path.write_bytes(replace(stored, row_groups_sha256=Folder(str(data)).digest(ROW_GROUPS)).to_bytes())
    assert only_fault(data).startswith(f"{ROW_GROUPS}: row groups of {stored.shards[0].name} are not those")


def test_faults_end_the_command_with_their_number(
    make_dataset: MakeDataset, copy_of: CopyOf, capsys: pytest.CaptureFixture[str]
) -> None:
    data = copy_of(make_dataset("bpe"))
    first, second = sorted(data.glob("*.parquet"))[:2]
    first.unlink()
    second.write_bytes(b"")
    with pytest.raises(UserError, match="2 faults; the same preprocess command"):
        verify.run(VerifyOptions(data=str(data), workers=1))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [first.name, second.name]


# What digests cannot show: a writer that was wrong


def lie(monkeypatch: pytest.MonkeyPatch, column: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Make the writer store other values in the first row group that has more than one row; all digests will fit."""
    honest = rows.group_table
    done: list[bool] = []

    def group_table(documents: Any, batch: Any, schema: pa.Schema) -> pa.Table:
        table = honest(documents, batch, schema)
        if done or len(documents) < 2 or min(len(document.raw) for document in documents) < 10:
            return table
        done.append(True)
        index = schema.get_field_index(column)
        values = change(table[column].to_pylist())
        return table.set_column(index, schema.field(index), pa.array(values, schema.field(index).type))

    monkeypatch.setattr(shard, "group_table", group_table)


def made_by_a_liar(corpus: Path, out: Path, **options: Any) -> list[str]:
    preprocess(
        PreprocessOptions(
            corpus=str(corpus),
            out=str(out),
            proxy=ProxyOptions(proxy="neural", compressor="pretrained"),
            read=ReadOptions(max_document_bytes=5000),
            unit_bytes=30_000,
            row_group_bytes=8192,
            max_reject_fraction=0.5,
            runner=RunnerOptions(workers=1),
            quiet=True,
            **options,
        )
    )
    return faults_of(out)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("column", "change", "expected"),
    [
        ("doc_id", lambda v: ["0" * 32, *v[1:]], "doc_id is not the digest of its bytes"),
        ("piece", lambda v: [v[0] + 7, *v[1:]], "doc_id is not the digest of its bytes"),
        ("raw", lambda v: [b"x" + v[0][1:], *v[1:]], "doc_id is not the digest of its bytes"),
        ("raw", lambda v: [b"x" + v[0][1:], *v[1:]], "comp does not decode to raw"),
        ("raw", lambda v: [v[0] + b"x", *v[1:]], "raw_bytes is not the length of raw"),
        ("raw", lambda v: [v[0] + b"x", *v[1:]], "spans do not add up to raw"),
        ("raw_bytes", lambda v: [v[0] + 1, *v[1:]], "raw_bytes is not the length of raw"),
        ("comp_symbols", lambda v: [v[0] + 1, *v[1:]], "comp_symbols is not the length of comp"),
        ("comp", lambda v: [v[0][::-1], *v[1:]], "comp does not decode to raw"),
        ("comp", lambda v: [v[1], v[0], *v[2:]], "content digest"),
        ("comp", lambda v: [[63, *v[0][1:]], *v[1:]], "comp has an id outside of 64..65855"),
        ("comp", lambda v: [[65856, *v[0][1:]], *v[1:]], "comp has an id outside of 64..65855"),
        ("comp", lambda v: [None, *v[1:]], "comp is null in some rows"),
        ("spans", lambda v: [[0, v[0][0] + v[0][1], *v[0][2:]], *v[1:]], "the first span is 0"),
        ("spans", lambda v: [[*v[0][:-1], v[0][-1] + 1], *v[1:]], "spans do not add up to raw"),
        ("spans", lambda v: [[*v[0][:-2], v[0][-2] + v[0][-1]], *v[1:]], "spans are not as many as symbols"),
        ("spans", lambda v: [None, *v[1:]], "spans are null in some rows"),
    ],
)
def test_content_that_is_wrong_under_right_digests_is_found(
    small_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    column: str,
    change: Callable[[list[Any]], list[Any]],
    expected: str,
) -> None:
    lie(monkeypatch, column, change)
    faults = made_by_a_liar(small_corpus, tmp_path / "out")
    assert any(expected in fault for fault in faults), faults
    assert all(fault.startswith("part-00") for fault in faults), faults


@pytest.mark.usefixtures("in_this_process")
def test_a_wrong_doc_id_of_a_cut_document_is_found(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = rows.group_table

    def group_table(documents: Any, batch: Any, schema: pa.Schema) -> pa.Table:
        changed = [replace(one, doc_id=bytes(16)) if one.source == "long.txt" else one for one in documents]
        return honest(changed, batch, schema)

    monkeypatch.setattr(shard, "group_table", group_table)
    faults = made_by_a_liar(small_corpus, tmp_path / "out")
    assert sum(f"document {'0' * 32} (long.txt, record 0): doc_id" in fault for fault in faults) == 1


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("piece", [0, 1, -1])
def test_a_cut_document_that_lost_a_piece_to_the_rejects_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    lines = [b"line %d\n" % n for n in range(1000)]
    (corpus / "long.txt").write_bytes(b"".join(lines))
    (corpus / "short.txt").write_bytes(b"short")
    honest, marks = GzipProxy.encode, {0: lines[0], 1: lines[300], -1: lines[-1]}

    def encode(self: GzipProxy, raw: bytes) -> Any:
        if marks[piece] in raw:
            raise ValueError("this one cannot be encoded")
        return honest(self, raw)

    monkeypatch.setattr(GzipProxy, "encode", encode)
    options = {"quiet": True, "max_reject_fraction": 0.9, "row_group_bytes": 1500}
    preprocess(
        PreprocessOptions(
            corpus=str(corpus),
            out=str(tmp_path / "out"),
            proxy=ProxyOptions(proxy="gzip"),
            read=ReadOptions(max_document_bytes=2000),
            **options,
        )
    )
    assert faults_of(tmp_path / "out") == []
    (rejects,) = (tmp_path / "out" / "rejects").iterdir()
    assert pq.read_table(rejects)["stage"].to_pylist() == ["encode"]


@pytest.mark.usefixtures("in_this_process")
def test_many_faults_of_a_unit_are_counted_not_listed(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = rows.group_table

    def group_table(documents: Any, batch: Any, schema: pa.Schema) -> pa.Table:
        table = honest(documents, batch, schema)
        return table.set_column(9, schema.field(9), pa.array(np.zeros(len(documents), np.uint32)))

    monkeypatch.setattr(shard, "group_table", group_table)
    corpus = tmp_path / "many"
    corpus.mkdir()
    for n in range(50):
        (corpus / f"{n}.txt").write_text(f"document {n}\n")
    faults = made_by_a_liar(corpus, tmp_path / "out")
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1].endswith("more faults")


def test_damage_that_only_a_library_notices_is_a_line(
    make_dataset: MakeDataset, copy_of: CopyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every digest forged, Parquet's own errors are what is left."""
    rng = random.Random(4)
    data = copy_of(make_dataset("bpe"))
    path = shards_of(data)[0]
    monkeypatch.setattr("pipelines.verify_shard._ShardCheck._footer_is_whole", lambda *_: True)
    monkeypatch.setattr("pipelines.verify_shard._ShardCheck._chunks_are_whole", lambda *_: True)
    start = footer_start(path.read_bytes()[-8:], path.stat().st_size, path.name)
    for offset in [*rng.sample(range(4, start), 15), start + 2, start + 40, path.stat().st_size - 8]:
        before = flip(path, offset, rng)
        assert all(fault.startswith(path.name) for fault in faults_of(data))
        path.write_bytes(before)


# The manifest made anew


def test_a_rebuilt_manifest_is_byte_for_byte_the_one_that_preprocess_wrote(
    make_dataset: MakeDataset, copy_of: CopyOf
) -> None:
    data = copy_of(make_dataset("bpe"))
    names = ("manifest.json", ROW_GROUPS)
    before = [(data / name).read_bytes() for name in names]
    for name in names:
        (data / name).write_bytes(b"damaged")
    manifest.run(manifest.ManifestOptions(data=str(data)))
    assert [(data / name).read_bytes() for name in names] == before
    assert faults_of(data) == []


def test_a_manifest_is_not_made_of_an_incomplete_dataset(
    make_dataset: MakeDataset, copy_of: CopyOf, tmp_path: Path
) -> None:
    data = copy_of(make_dataset("bpe"))
    first = sorted(data.glob("*.parquet"))[0]
    before = first.read_bytes()
    first.write_bytes(before[:-1])
    with pytest.raises(UserError, match=r"part-00000.* bytes, not"):
        manifest.rebuild_manifest(str(data))
    first.unlink()
    with pytest.raises(UserError, match=r"part-00000.*: missing"):
        manifest.rebuild_manifest(str(data))
    first.write_bytes(before)
    sorted(data.glob("receipts/*"))[-1].unlink()
    with pytest.raises(UserError, match="run the same preprocess command again"):
        manifest.rebuild_manifest(str(data))
    with pytest.raises(UserError, match="make preprocess OUT="):
        manifest.rebuild_manifest(str(tmp_path / "none"))


@pytest.mark.usefixtures("in_this_process")
def test_a_job_that_another_version_finishes_keeps_the_description_of_the_first(
    small_corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made_by_a_liar(small_corpus, out)
    path = out / DATASET
    fields = unseal(path.read_bytes(), "description")
    path.write_bytes(seal({**fields, "versions": {**fields["versions"], "numpy": "1.0"}}))
    assert made_by_a_liar(small_corpus, out) == []
