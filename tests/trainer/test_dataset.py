"""Opening and reading datasets: digests before parsing, remote folders, messages."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from data_fixtures import made_dataset

from schemas.errors import UserError
from schemas.manifest import Manifest, seal, unseal
from schemas.shard import chunk_ranges, footer_start
from trainer.data import files
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.options import LoaderOptions

COLUMNS = ("raw", "comp", "spans")


def rows_of(dataset: Dataset, columns: tuple[str, ...] = COLUMNS) -> list[tuple[Any, ...]]:
    rows = []
    for ordinal in range(len(dataset)):
        group = dataset.read(ordinal, columns)
        for row, key in enumerate(group.keys):
            document = group.document(row)
            arrays = [getattr(document, name) for name in columns]
            rows.append((*key, document.raw_bytes, *(None if a is None else a.tolist() for a in arrays)))
    return rows


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(made_dataset("bpe"), tmp_path / "data")


@pytest.mark.parametrize("proxy", ["bpe", "gzip", "identity"])
def test_rows_are_those_of_the_shards(proxy: str) -> None:
    dataset = Dataset(str(made_dataset(proxy)))
    columns = COLUMNS if proxy != "identity" else ("raw",)
    expected = []
    for path in sorted(made_dataset(proxy).glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            key = (bytes.fromhex(row["doc_id"]), row["record"], row["piece"], row["source"], row["raw_bytes"])
            expected.append((*key, *(list(row[name]) if row[name] is not None else None for name in columns)))
    assert rows_of(dataset, columns) == expected
    assert (dataset.has_comp, dataset.has_spans) == (proxy != "identity", proxy == "bpe")
    manifest = Manifest.from_bytes((made_dataset(proxy) / "manifest.json").read_bytes(), "")
    assert dataset.vocabulary == manifest.vocabulary
    assert dataset.row_groups_digest == manifest.row_groups_sha256
    assert dataset.fingerprint == manifest.dataset["proxy"]["fingerprint"]


def test_only_the_needed_column_chunks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(str(made_dataset("bpe")))
    read: list[tuple[int, int]] = []
    original = files.Files.read_range

    def spy(self: files.Files, name: str, start: int, stop: int, *, fresh: bool = False) -> bytes:
        read.append((start, stop))
        return original(self, name, start, stop, fresh=fresh)

    monkeypatch.setattr(files.Files, "read_range", spy)
    monkeypatch.setattr("trainer.data.dataset._GAP", 0)
    dataset.read(0, ("raw",))
    metadata = pq.read_metadata(sorted(made_dataset("bpe").glob("*.parquet"))[0])
    ranges = dict(
        zip(
            (metadata.schema.column(n).path.split(".")[0] for n in range(metadata.num_columns)),
            chunk_ranges(metadata, 0),
            strict=True,
        )
    )
    for name in ("comp", "spans", "group"):
        start, length = ranges[name]
        assert not any(low < start + length and start < high for low, high in read[1:]), name


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_byte_anywhere_is_caught_before_a_batch(copy: Path) -> None:
    rng = random.Random(0)
    good = rows_of(Dataset(str(copy)))
    targets = [*sorted(copy.glob("*.parquet")), copy / "meta/row_groups.parquet", copy / "manifest.json"]
    caught = 0
    for _ in range(60):
        path = rng.choice(targets)
        at = rng.randrange(path.stat().st_size)
        flip(path, at)
        try:
            assert rows_of(Dataset(str(copy))) == good  # of a column or a byte that is not used
        except UserError as error:
            caught += "\n" not in str(error)
        flip(path, at)
    assert caught > 40
    assert rows_of(Dataset(str(copy))) == good


def test_damage_is_named_by_shard_row_group_and_column(copy: Path) -> None:
    path = sorted(copy.glob("*.parquet"))[0]
    metadata = pq.read_metadata(path)
    group = metadata.num_row_groups - 1
    for column, name in ((0, "doc_id"), (5, "raw"), (6, "comp"), (7, "spans"), (8, "raw_bytes")):
        start, length = chunk_ranges(metadata, group)[column]
        for at in (start, start + length // 2, start + length - 1):
            flip(path, at)
            with pytest.raises(UserError, match=rf"{path.name}: row group {group}: damaged \(column {name} differs"):
                Dataset(str(copy)).read(group, COLUMNS)
            flip(path, at)
    data = path.read_bytes()
    for at in (footer_start(data[-8:], len(data), ""), len(data) - 9, len(data) - 6, len(data) - 1):
        flip(path, at)
        with pytest.raises(UserError, match=rf"{path.name}: row group 0: damaged \(the "):
            Dataset(str(copy)).read(0)
        flip(path, at)


def test_a_damaged_dataset_stops_the_loader(copy: Path) -> None:
    for path in sorted(copy.glob("*.parquet")):
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            flip(path, chunk_ranges(metadata, group)[5][0] + 20)
    with pytest.raises(UserError, match="column raw differs from its digest"):
        next(Loader(LoaderOptions(data=(str(copy),), batch=2, sequence=64, steps=10)))


def test_truncated_missing_and_swapped_shards_are_caught(copy: Path) -> None:
    first, second = sorted(copy.glob("*.parquet"))[:2]
    whole = first.read_bytes()
    for data in (whole[:-1], whole[: len(whole) // 2], b"", second.read_bytes()):
        first.write_bytes(data)
        with pytest.raises(UserError, match=f"{first.name}: row group 0: damaged"):
            Dataset(str(copy)).read(0)
    first.unlink()
    with pytest.raises(UserError, match=f"{first.name}: missing"):
        Dataset(str(copy)).read(0)


def test_messages_about_datasets_that_cannot_be_opened(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no dataset there; make one with: make preprocess OUT={tmp_path}/none$"):
        Dataset(f"{tmp_path}/none")
    with pytest.raises(UserError, match=r"make one with: make preprocess PROXY=gzip$"):
        Dataset(f"{tmp_path}/none", make="make preprocess PROXY=gzip")
    manifest = copy / "manifest.json"
    sealed = manifest.read_bytes()
    fields = unseal(sealed, "")
    manifest.write_bytes(seal({**fields, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99 is newer than this program's 1"):
        Dataset(str(copy))
    manifest.write_bytes(b"{")
    with pytest.raises(UserError, match=r"manifest.json: damaged"):
        Dataset(str(copy))
    manifest.unlink()
    with pytest.raises(UserError, match="not finished"):
        Dataset(str(copy))
    manifest.write_bytes(sealed)
    flip(copy / "meta/row_groups.parquet", 100)
    with pytest.raises(UserError, match=r"row_groups.parquet: damaged .*pipelines manifest"):
        Dataset(str(copy))
    (copy / "meta/row_groups.parquet").unlink()
    with pytest.raises(UserError, match=r"row_groups.parquet: missing"):
        Dataset(str(copy))


def test_a_comp_id_outside_of_the_vocabulary_names_the_document(copy: Path) -> None:
    manifest = copy / "manifest.json"
    fields = unseal(manifest.read_bytes(), "")
    fields["vocabulary"] = {"proxy": "bpe", "comp_symbols": 5, "size": 325}
    manifest.write_bytes(seal(fields))
    dataset = Dataset(str(copy))
    with pytest.raises(UserError, match=r"row group 0: damaged .document [0-9a-f]{32}: comp id"):
        dataset.read(0, COLUMNS).column("comp")


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The dataset in fsspec's memory file system, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("trainer.data.files.time.sleep", lambda _: None)
    url = f"memory://{tmp_path.name}/data"
    fsspec.filesystem("memory").put(str(made_dataset("bpe")), url, recursive=True)
    return url


def failing(monkeypatch: pytest.MonkeyPatch, fault: Callable[[int, bytes], bytes]) -> list[str]:
    """Every read of the memory file system goes through `fault(number, data)`; gives the list of reads."""
    kind = type(fsspec.filesystem("memory"))
    original = kind.cat_file
    reads: list[str] = []

    def cat_file(self: Any, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        reads.append(path)
        return fault(len(reads), original(self, path, start=start, end=end))

    monkeypatch.setattr(kind, "cat_file", cat_file)
    return reads


def test_remote_rows_are_the_same_and_kept_for_the_next_epoch(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows_of(Dataset(str(made_dataset("bpe"))))
    assert rows_of(Dataset(remote)) == expected
    reads = failing(monkeypatch, lambda _, data: data)
    again = Dataset(remote)
    assert rows_of(again) == expected
    assert not [path for path in reads if "part-" in path]
    assert rows_of(Dataset(remote, cache_bytes=0)) == expected
    assert [path for path in reads if "part-" in path]


def test_remote_faults_are_tried_again(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows_of(Dataset(remote, cache_bytes=0))

    def fault(number: int, data: bytes) -> bytes:
        if number % 5 == 1:
            raise OSError(503, "slow down")
        if number % 11 == 2:
            raise TimeoutError
        return data

    failing(monkeypatch, fault)
    assert rows_of(Dataset(remote, cache_bytes=0)) == expected


def test_wrong_remote_bytes_are_fetched_anew_once(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows_of(Dataset(remote, cache_bytes=0))
    dataset = Dataset(remote)
    failing(monkeypatch, lambda number, data: data[:-1] if number % 3 == 1 else data)
    assert rows_of(dataset) == expected


def test_a_store_that_never_answers_is_given_up_in_one_line(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(remote, cache_bytes=0)
    monkeypatch.setattr("trainer.data.files.DEADLINE_SECONDS", 0.1)

    def fault(number: int, data: bytes) -> bytes:
        raise OSError(503, "slow down")

    failing(monkeypatch, fault)
    with pytest.raises(UserError, match=r"part-.*no answer within 0 s of trying .*slow down"):
        dataset.read(0)


def test_a_request_that_hangs_counts_as_lost() -> None:
    import threading

    with pytest.raises(TimeoutError):
        files._within(0.05, threading.Event().wait)


def test_the_local_copy_stays_within_its_bound(tmp_path: Path) -> None:
    cache = files._Cache(tmp_path / "ranges", 10_000)
    for n in range(200):
        cache.put(f"{n}", bytes(500))
        assert sum(path.stat().st_size for path in (tmp_path / "ranges").iterdir()) <= 10_000
    assert cache.get("199") == bytes(500)
    assert cache.get("0") is None
    cache.put("large", bytes(20_000))
    assert cache.get("large") is None
