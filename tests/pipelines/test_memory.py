"""A worker's memory is bounded by its options, whatever the documents: measured in processes of their own.

The bound is the one of docs/memory.md: what a worker takes without documents, the run, and the larger of what the
longest record takes to parse and the longest document to encode, prove and write.
"""

import gzip
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.memory import CASES, LIMIT_MB, PROXIES, line_of, noise, peak_of, text
from pipelines.proxies.bpe import PART_BYTES
from pipelines.reading.plan import MIB
from pipelines.reading.records import ReadOptions

TOKENIZER = Path(__file__).parent.parent / "data" / "tokenizer.json"
URIS = {**PROXIES, "bpe": f"bpe:{TOKENIZER}"}

UNIT, DOCUMENT, RECORD = 2 * MIB, 2 * MIB, 8 * MIB
BOUND_MB = (36 * MIB + UNIT + max(8 * RECORD, 32 * DOCUMENT)) / 1e6
"""Above an idle worker, see docs/memory.md."""


@cache
def idle_mb(proxy: str, folder: Path) -> float:
    """The peak of a worker that has encoded next to nothing: bpe, a part of a document."""
    (folder / "idle.txt").write_bytes(text(PART_BYTES) if proxy == "bpe" else b"a line\n")
    return peak_of(str(folder / "idle.txt"), URIS[proxy], folder / "out").megabytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


def binaries(corpus: Path) -> None:
    for index in range(3):
        (corpus / f"{index}.bin").write_bytes(noise(5 * MIB, index))


def zeros(corpus: Path) -> None:
    (corpus / "zeros.bin").write_bytes(bytes(12 * MIB))


def texts(corpus: Path) -> None:
    (corpus / "long.txt").write_bytes(text(12 * MIB))


def wide_lines(corpus: Path) -> None:
    with (corpus / "lines.jsonl").open("wb") as file:
        for size in (RECORD, RECORD, 10 * RECORD):
            file.writelines(line_of(size))
            file.write(b"\n")


def brackets(corpus: Path) -> None:
    with (corpus / "nested.jsonl").open("wb") as file:
        for count in (RECORD // 32 - 8, RECORD // 3 - 40):
            file.write(b'{"text": "t", "a": [' + b"[]," * count + b"0]}\n")


def tiny_lines(corpus: Path) -> None:
    """So many that a run without an end, which holds each as an object, takes twice the bound."""
    with gzip.open(corpus / "tiny.jsonl.gz", "wb", compresslevel=1) as file:
        for start in range(0, 400_000, 10_000):
            file.write(b"".join(b'{"text": "n%d"}\n' % n for n in range(start, start + 10_000)))


def kept(corpus: Path) -> None:
    rng = random.Random(0)
    with (corpus / "kept.jsonl").open("w") as file:
        for index in range(60):
            file.write(json.dumps({"text": f"d{index}", "note": rng.randbytes(MIB // 2).hex()}) + "\n")


def values(corpus: Path) -> None:
    schema = pa.schema([("text", pa.binary())])
    with pq.ParquetWriter(corpus / "values.parquet", schema) as writer:
        for index in range(6):
            writer.write_table(pa.table({"text": [noise(2 * MIB, index)]}, schema))


@pytest.mark.parametrize(
    ("make", "proxy"),
    [
        (binaries, "neural"),
        (wide_lines, "identity"),
        (brackets, "identity"),
        (tiny_lines, "identity"),
        pytest.param(zeros, "neural", marks=pytest.mark.slow),
        pytest.param(kept, "identity", marks=pytest.mark.slow),
        pytest.param(values, "neural", marks=pytest.mark.slow),
        pytest.param(binaries, "gzip", marks=pytest.mark.slow),
        pytest.param(binaries, "packed", marks=pytest.mark.slow),
        pytest.param(binaries, "equal-info", marks=pytest.mark.slow),
        pytest.param(binaries, "fuzz", marks=pytest.mark.slow),
        pytest.param(zeros, "range", marks=pytest.mark.slow),
        pytest.param(texts, "bpe", marks=pytest.mark.slow),
        pytest.param(texts, "range", marks=pytest.mark.slow),
    ],
)
def test_peak_memory_follows_from_the_options(
    make: Callable[[Path], None], proxy: str, folder: Path, tmp_path: Path
) -> None:
    idle = idle_mb(proxy, folder)  # first: on a machine that has never run it, this compiles the encoder
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    make(corpus)
    read = ReadOptions(
        max_document_bytes=DOCUMENT, max_record_bytes=RECORD, keep_columns=("note",) if make is kept else ()
    )
    peak = peak_of(str(corpus), URIS[proxy], tmp_path / "out", read=read, unit_bytes=UNIT)
    assert peak.rows >= (1 if make is brackets else 2)
    # freed objects of the tokenizer lie between kept ones
    assert peak.megabytes - idle < BOUND_MB + (16 * DOCUMENT / 1e6 if proxy == "bpe" else 0)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # ten million documents
# A Parquet file's pages are as long as its writer made them: docs/memory.md says what one takes.
@pytest.mark.parametrize("case", [case for case in CASES if case != "Parquet values of 30 MiB"])
def test_a_worker_stays_below_600_mb_at_the_default_options(case: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    CASES[case](corpus, 1)
    peak = peak_of(str(corpus), PROXIES["neural"], tmp_path / "out")
    assert peak.megabytes < LIMIT_MB
