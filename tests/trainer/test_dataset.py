"""Opening and reading datasets: digests before parsing, remote folders, messages."""

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import made_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UserError
from schemas.manifest import Manifest, ShardEntry, seal, unseal
from schemas.remote import within
from schemas.shard import chunk_ranges, footer_start, shard_schema, writer_options
from trainer.data import files, pages
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.options import LoaderOptions
from trainer.data.parquet import Chunks, Shard
from trainer.data.rows import RowGroup

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


def every_column(group: RowGroup) -> None:
    for name in COLUMNS:
        group.column(name)


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
                every_column(Dataset(str(copy)).read(group, COLUMNS))
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
    monkeypatch.setattr("schemas.remote.time.sleep", lambda _: None)
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


@pytest.mark.parametrize("name", ["manifest.json", "row_groups.parquet"])
def test_a_wrong_byte_in_the_list_of_shards_is_fetched_anew_once(
    remote: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(Dataset(remote, cache_bytes=0))
    wrong = 1

    def fault(_: int, data: bytes) -> bytes:
        return data[:-9] + b"x" + data[-8:] if reads[-1].endswith(name) and len(of_name()) <= wrong else data

    def of_name() -> list[str]:
        return [path for path in reads if path.endswith(name)]

    reads = failing(monkeypatch, fault)
    assert rows_of(Dataset(remote, cache_bytes=0)) == expected
    wrong = 100
    reads.clear()
    with pytest.raises(UserError, match=f"{name}: damaged"):
        Dataset(remote, cache_bytes=0)
    assert len(of_name()) == 2


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
        within(0.05, threading.Event().wait)


def test_the_local_copy_stays_within_its_bound(tmp_path: Path) -> None:
    cache = files._Cache(tmp_path / "ranges", 10_000)
    for n in range(200):
        cache.put(f"{n}", bytes(500))
        assert sum(path.stat().st_size for path in (tmp_path / "ranges").iterdir()) <= 10_000
    assert cache.get("199") == bytes(500)
    assert cache.get("0") is None
    cache.put("large", bytes(20_000))
    assert cache.get("large") is None


def table_of(seed: int, rows: int, longest: int, *, comp: bool = True, spans: bool = True) -> pa.Table:
    """Random rows of a shard: empty ones, long runs of equal lists, large numbers."""
    rng = random.Random(seed)
    lengths = [rng.choice([0, 1, rng.randint(0, longest), longest]) for _ in range(rows)]
    nothing = [None] * rows
    columns: dict[str, Any] = {
        "doc_id": [rng.randbytes(16).hex() for _ in range(rows)],
        "source": [rng.choice(["a", "é/中.py", "b" * rng.randint(1, 300)]) for _ in range(rows)],
        "record": [rng.choice([0, 1, 2**63, 2**64 - 1]) for _ in range(rows)],
        "piece": [rng.choice([0, 7, 2**32 - 1]) for _ in range(rows)],
        "group": ["py"] * rows,
        "raw": [rng.randbytes(length) for length in lengths],
        "comp": [[rng.choice([64, rng.randrange(1 << 31)]) for _ in range(n)] for n in lengths]
        if comp
        else [None] * rows,
        "spans": [[rng.randrange(1 << 16) for _ in range(n)] for n in lengths] if spans else nothing,
        "raw_bytes": lengths,
        "comp_symbols": lengths if comp else [0] * rows,
    }
    schema = shard_schema((), {})
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema=schema)


def written(table: pa.Table, **options: Any) -> tuple[Shard, Chunks]:
    """A shard with one row group, and all its chunks."""
    sink = io.BytesIO()
    given: dict[str, Any] = {**writer_options(table.schema), **options}
    pq.write_table(table, sink, row_group_size=1 << 30, **given)
    data = sink.getvalue()
    numbers = {"rows": table.num_rows, "raw_bytes": 0, "comp_symbols": 0, "row_groups": 1}
    entry = ShardEntry(name="s", size=len(data), sha256="", footer_digest="", content_digest="", **numbers)
    shard = Shard(entry, data[footer_start(data[-8:], len(data), "") :])
    ranges = zip(shard.columns, shard.ranges(0), strict=True)
    return shard, {name: (start, memoryview(data)[start : start + size]) for name, (start, size) in ranges}


def decoded(shard: Shard, chunks: Chunks, rows: int) -> list[Any]:
    """Keys, lengths and columns as Python objects."""
    columns = [shard.column(0, chunks, name) for name in COLUMNS]
    kinds = [None if column is None else (column.values.dtype.str, column.largest) for column in columns]
    lists = [None if column is None else [column.row(row).tolist() for row in range(rows)] for column in columns]
    return [*shard.keys(0, chunks), kinds, *lists]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 40),
    longest=st.sampled_from([0, 1, 9, 300, 3000]),
    page=st.sampled_from([64, 1000, 1 << 20]),
    comp=st.booleans(),
    spans=st.booleans(),
)
def test_pages_are_decoded_as_arrow_decodes_them(
    seed: int, rows: int, longest: int, page: int, comp: bool, spans: bool
) -> None:
    table = table_of(seed, rows, longest, comp=comp, spans=spans)
    shard, chunks = written(table, data_page_size=page, write_batch_size=7 if page < 1000 else 1024)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shard, "_table", None)  # no column falls back to Arrow's reader
        found = decoded(shard, chunks, rows)
    shard, chunks = written(table, compression="snappy", compression_level=None)  # Arrow's reader decodes these
    with pytest.MonkeyPatch.context() as patch:
        for name in ("byte_strings", "lists", "numbers"):
            patch.setattr(pages, name, None)
        assert found == decoded(shard, chunks, rows)
    for name, known, column in zip(COLUMNS, (True, comp, spans), found[3:], strict=True):
        assert column == ([list(value) for value in table[name].to_pylist()] if known else None)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none", "compression_level": None},
        {"use_dictionary": True, "column_encoding": None},
        {"data_page_version": "2.0"},
        {"column_encoding": {"comp.list.element": "DELTA_BINARY_PACKED", "doc_id": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"raw": "DELTA_LENGTH_BYTE_ARRAY", "record": "BYTE_STREAM_SPLIT"}},
    ],
)
def test_shards_of_other_writers_hold_the_same(options: dict[str, Any]) -> None:
    table = table_of(5, 30, 200)
    expected = decoded(*written(table), 30)
    assert decoded(*written(table, **options), 30) == expected


def test_lists_of_which_some_are_null_are_damage() -> None:
    table = table_of(5, 3, 20)
    comp = pa.array([[64], None, []], table.schema.field("comp").type)
    shard, chunks = written(table.set_column(table.schema.names.index("comp"), table.schema.field("comp"), comp))
    with pytest.raises(ValueError, match="comp is null in 1 of 3 rows"):
        shard.column(0, chunks, "comp")


def test_damaged_pages_that_were_not_caught_before_are_refused_or_wrong_but_never_read_beyond() -> None:
    """Digests come first; should they fail, no bytes outside of a chunk are touched and no other error is raised."""
    rng = random.Random(0)
    _, chunks = written(table_of(7, 20, 60))
    decode = {"raw": pages.byte_strings, "comp": lambda c: pages.lists(c, np.int32), "source": pages.dictionary_strings}
    refused = 0
    for _ in range(1500):
        name = rng.choice(list(decode))
        chunk = bytearray(chunks[name][1])
        chunk[rng.randrange(min(len(chunk), 60))] ^= 1 << rng.randrange(8)
        try:
            decode[name](memoryview(bytes(chunk)))
        except (pages.UnusualPageError, IndexError, UnicodeDecodeError):
            refused += 1
    assert refused > 500


def test_raw_bytes_that_are_not_the_lengths_of_raw_are_damage(copy: Path) -> None:
    dataset = Dataset(str(copy))
    group = dataset.read(0, COLUMNS)
    assert len(set(group.raw_bytes)) > 1
    with pytest.MonkeyPatch.context() as patch:
        keys, lengths = group.keys, [*group.raw_bytes[1:], group.raw_bytes[0]]
        patch.setattr(Shard, "keys", lambda *_: (keys, lengths))
        with pytest.raises(UserError, match="raw_bytes are not the lengths of raw"):
            dataset.read(0, COLUMNS).column("raw")
