"""The shard format: the schema, version rules, byte ranges, and a shard of version 1 that stays readable."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from schemas import shard
from schemas.errors import UserError

DATA = Path(__file__).parent.parent / "data"
GOLDEN_SHARD = DATA / "shard-v1.parquet"
GOLDEN_ROWS = DATA / "shard-v1.json"

DOCUMENTS = {
    "a.py": b"def f(x):\n    return x + 1\n",
    "dir/empty.txt": b"",
    "dir/\xc3\xa9.md".encode("latin-1").decode(): "na\u00efve caf\u00e9 \u4e2d\n".encode(),
    "zeros.bin": b"\0\0\xff\xfe" * 5,
}


def make_shard(folder: Path) -> tuple[Path, dict[str, object]]:
    """The tiny dataset of the golden files: its shard and what must be the same for ever."""
    for name, raw in DOCUMENTS.items():
        path = folder / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    out = folder / "out"
    options = PreprocessOptions(corpus=str(folder / "corpus"), out=str(out), proxy=ProxyOptions(bits=12), quiet=True)
    manifest = preprocess(options)
    rows = pq.read_table(out / manifest.shards[0].name).to_pylist()
    for row in rows:
        row["raw"] = row["raw"].hex()
    return out / manifest.shards[0].name, {"rows": rows, "content_digest": manifest.shards[0].content_digest}


def test_shard_of_version_1_is_still_read() -> None:
    table = pq.read_table(GOLDEN_SHARD)
    metadata = shard.metadata_of(table.schema, str(GOLDEN_SHARD))
    assert metadata["format_version"] == 1
    assert metadata["vocabulary"]["size"] == 320 + 4096
    rows = table.to_pylist()
    for row in rows:
        row["raw"] = row["raw"].hex()
    assert rows == json.loads(GOLDEN_ROWS.read_text())["rows"]


def test_the_same_corpus_still_gives_the_same_rows(tmp_path: Path) -> None:
    path, made = make_shard(tmp_path)
    assert made == json.loads(GOLDEN_ROWS.read_text())
    if path.name == json.loads((DATA / "shard-v1.name.json").read_text()):  # same pyarrow version
        assert path.read_bytes() == GOLDEN_SHARD.read_bytes()


def test_columns_types_and_encodings_are_those_of_the_format() -> None:
    file = pq.ParquetFile(GOLDEN_SHARD)
    assert file.schema_arrow.names == list(shard.COLUMN_NAMES)
    assert file.schema_arrow.equals(shard.shard_schema((), {}), check_metadata=False)
    group = file.metadata.row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    for name in ("comp.list.element", "spans.list.element"):
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
        assert not columns[name].has_dictionary_page
    assert columns["source"].has_dictionary_page


def test_chunk_ranges_cover_the_file_up_to_the_footer() -> None:
    data = GOLDEN_SHARD.read_bytes()
    metadata = pq.read_metadata(GOLDEN_SHARD)
    ranges = [item for group in range(metadata.num_row_groups) for item in shard.chunk_ranges(metadata, group)]
    assert ranges[0][0] == 4  # after the magic
    assert all(a + length == b for (a, length), (b, _) in pairwise(ranges))
    assert sum(ranges[-1]) == shard.footer_start(data[-8:], len(data), "x")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, "newer than this program's 1; update it"),
        (0, "older than 1"),
        (None, "damaged or foreign"),
        ("1", "damaged"),
    ],
)
def test_other_versions_are_refused(version: object, message: str) -> None:
    with pytest.raises(UserError, match=f"x: format version .*{message}"):
        shard.check_version(version, "x")


def test_foreign_parquet_is_refused() -> None:
    with pytest.raises(UserError, match="not a shard of this project"):
        shard.metadata_of(pa.schema([("a", pa.int32())]), "x")


@pytest.mark.parametrize("tail", [b"", b"PAR1", b"\xff\xff\xff\xffPAR1", b"\x10\0\0\0PARE"])
def test_truncated_file_is_refused(tail: bytes) -> None:
    with pytest.raises(UserError, match="truncated or damaged"):
        shard.footer_start(tail, 20, "x")


if __name__ == "__main__":  # after the shipped compressor was made anew: python -m tests.schemas.test_shard
    with tempfile.TemporaryDirectory() as folder:
        path, made = make_shard(Path(folder))
        GOLDEN_ROWS.write_text(json.dumps(made, indent=1) + "\n")
        GOLDEN_SHARD.write_bytes(path.read_bytes())
        (DATA / "shard-v1.name.json").write_text(json.dumps(path.name) + "\n")
