"""Peak memory and throughput of one worker on documents of every awkward shape, by proxy: a Markdown table for RESULTS.md.

Each case is a corpus that is made here; each cell is a process of its own that does what a worker does (`encode_shard`
of every unit at the default options) and reads its own peak from the kernel. Wants 4 GB of disk and some twenty
minutes for all; `--cases` and `--proxies` choose. MB are 10^6 bytes, MiB 2^20.
"""

import gzip
import json
import lzma
import pickle
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from compressor_model.artefact import PRETRAINED
from pipelines import proxies
from pipelines.job import Job
from pipelines.proxies.bpe import train
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.plan import MIB, PlanOptions, Unit, plan_units, row_group_bytes
from pipelines.reading.records import ReadOptions
from pipelines.runners.local_pool import use_one_thread
from pipelines.shard import encode_shard
from pipelines.storage import Folder
from schemas.manifest import Receipt

LIMIT_MB = 600
"""What a worker may take at the default options (docs/memory.md)."""

PROXIES = {
    "neural": f"neural:{PRETRAINED}?coder=codebook&bits=16",
    "neural-12": f"neural:{PRETRAINED}?coder=codebook&bits=12",
    "packed": f"neural:{PRETRAINED}?coder=codebook&bits=16&windows=packed",
    "equal-info": f"neural:{PRETRAINED}?coder=codebook&bits=16&windows=equal-info",
    "fuzz": f"neural:{PRETRAINED}?coder=codebook&bits=16&fuzz=tail",
    "range": f"neural:{PRETRAINED}?coder=range&bits=16",
    "bpe": "",
    "gzip": "gzip:",
    "identity": "identity:",
}
"""URIs by short name; bpe's is of the tokenizer that is given or trained."""


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """Peak memory of a worker, by case and proxy.

    Attributes:
        cases: of `CASES`; default all.
        proxies: of `PROXIES`; default all.
        scale: of the sizes of all cases; 1 is what the table in RESULTS.md holds.
        tokenizer: of bpe; default one trained on the standard library's sources.
    """

    cases: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    scale: float = 1
    tokenizer: str | None = None


@dataclass(frozen=True)
class Peak:
    """What one worker took.

    Attributes:
        megabytes: the most resident memory at any time, MB.
        seconds: of the units, without the start of the process.
        raw_bytes, rows, rejects: sums of the receipts.
    """

    megabytes: float
    seconds: float
    raw_bytes: int
    rows: int
    rejects: int


def main(options: MemoryOptions) -> None:
    """Print the table."""
    use_one_thread()
    print("| case | proxy | peak MB | MB/s | rows | rejects |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        place = Path(folder)
        for case in options.cases or tuple(CASES):
            corpus = place / case
            corpus.mkdir()
            CASES[case](corpus, options.scale)
            for name in options.proxies or tuple(PROXIES):
                uri = PROXIES[name] or f"bpe:{tokenizer_of(options.tokenizer, place)}"
                peak = peak_of(str(corpus), uri, place / "out")
                over = " (over)" if peak.megabytes > LIMIT_MB else ""
                print(
                    f"| {case} | {name} | {peak.megabytes:.0f}{over} | {peak.raw_bytes / 1e6 / peak.seconds:.1f} | "
                    f"{peak.rows:,} | {peak.rejects:,} |",
                    flush=True,
                )
            shutil.rmtree(corpus)


def peak_of(
    corpus: str, uri: str, out: Path, *, read: ReadOptions | None = None, unit_bytes: int | None = None
) -> Peak:
    """Run all units of a corpus in a new process and read its peak.

    Args:
        corpus: as `--corpus`.
        uri: of the proxy.
        out: a folder to write to; deleted first and afterwards.
        read: options of reading; None: the defaults.
        unit_bytes: as `--unit-bytes`.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "work").write_bytes(pickle.dumps(job_of(corpus, uri, out, read=read, unit_bytes=unit_bytes)))
    command = [sys.executable, "-c", "from benchmarks.memory import work; work()", str(out / "work")]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    shutil.rmtree(out)
    return Peak(**json.loads(done.stdout))


def job_of(
    corpus: str, uri: str, out: Path, *, read: ReadOptions | None = None, unit_bytes: int | None = None
) -> tuple[Job, list[Unit]]:
    """What a worker needs, and the units of a plan; arguments as of `peak_of`."""
    proxy = proxies.load(uri)
    listed = list_corpus(corpus)
    plan = PlanOptions(unit_bytes=unit_bytes)
    job = Job(
        out=Folder(str(out)),
        proxy_uri=proxy.uri,
        fingerprint=proxy.fingerprint,
        read=read or ReadOptions(),
        run_bytes=plan.resolved_unit_bytes(listed.listed_bytes),
        row_group_bytes=row_group_bytes(listed.listed_bytes),
    )
    return job, plan_units(listed, plan)


def work() -> None:
    """The worker's side: units from the file that is named, the peak as JSON to standard output."""
    job, units = _unpickled(Path(sys.argv[1]))
    start = time.perf_counter()
    receipts = [_receipt(job, encode_shard(job, unit).receipt) for unit in units]
    seconds = time.perf_counter() - start
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    result = {
        "megabytes": int(found[1]) * 1024 / 1e6,
        "seconds": seconds,
        "raw_bytes": sum(receipt.shard.raw_bytes for receipt in receipts),
        "rows": sum(receipt.shard.rows for receipt in receipts),
        "rejects": sum(receipt.rejects.rows for receipt in receipts),
    }
    print(json.dumps(result))


def _unpickled(path: Path) -> tuple[Job, list[Unit]]:
    job, units = pickle.loads(path.read_bytes())  # of the process that started this one
    return job, units


def _receipt(job: Job, name: str) -> Receipt:
    return Receipt.from_bytes(job.out.read(name), name)


def tokenizer_of(given: str | None, place: Path) -> str:
    """The tokenizer that is given, or one trained on the standard library's sources once in this folder."""
    if given is not None:
        return given
    path = place / "tokenizer.json"
    if not path.exists():
        documents = Sampler(list_corpus("stdlib"), ReadOptions()).documents()
        path.write_bytes(train(document.raw for document in documents))
    return str(path)


def text(size: int, seed: int = 0) -> bytes:
    """Lines that look like text, of words of a few thousand kinds: exactly `size` bytes."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(1, 9))) for _ in range(4000)]
    block = "".join(" ".join(rng.choices(words, k=12)) + "\n" for _ in range(4000)).encode()
    return (block * (size // len(block) + 1))[:size]


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes without any order."""
    return np.random.default_rng(seed).bytes(size)


def _sized(scale: float, size: int) -> int:
    return max(1, int(scale * size))


def _many(make: Callable[[int, int], bytes], size: int, count: int) -> Callable[[Path, float], None]:
    def write(folder: Path, scale: float) -> None:
        for index in range(count):
            (folder / f"{index}.bin").write_bytes(make(_sized(scale, size), index))

    return write


def _long_text(folder: Path, scale: float) -> None:
    block = text(_sized(scale, 16 * MIB))
    with (folder / "long.txt").open("wb") as file:
        for _ in range(64):
            file.write(block)


def line_of(size: int) -> Iterator[bytes]:
    """A JSON line of exactly `size` bytes whose one character beyond the BMP makes Python take four bytes for each."""
    yield b'{"text": "\xf0\x9f\x98\x80'
    left = size - len(b'{"text": "\xf0\x9f\x98\x80"}')
    block = b"some words of a very long line " * (MIB // 31)
    while left:
        part = block[:left]
        yield part
        left -= len(part)
    yield b'"}'


def _lines(sizes: Callable[[], list[int]]) -> Callable[[Path, float], None]:
    def write(folder: Path, scale: float) -> None:
        with (folder / "lines.jsonl").open("wb") as file:
            for size in sizes():
                file.writelines(line_of(_sized(scale, size)))
                file.write(b'\n{"text": "a short one"}\n')

    return write


def _nested(folder: Path, scale: float) -> None:
    """Lines that take most memory to parse: as many brackets as a record may have, and a line full of them."""
    limit = _sized(scale, ReadOptions().max_record_bytes)
    with (folder / "nested.jsonl").open("wb") as file:
        for count in (limit // 32 - 8, (limit - 40) // 3):
            file.write(b'{"text": "t", "a": [' + b"[]," * count + b"0]}\n")


def _tiny(folder: Path, scale: float) -> None:
    with (folder / "tiny.jsonl").open("wb") as file:
        for start in range(0, _sized(scale, 10_000_000), 100_000):
            file.write(b"".join(b'{"text": "n%d"}\n' % n for n in range(start, start + 100_000)))


def _empty_rows(folder: Path, scale: float) -> None:
    count = _sized(scale, 10_000_000)
    pq.write_table(pa.table({"text": pa.array([""] * count)}), folder / "empty.parquet", row_group_size=MIB)


def _huge_values(folder: Path, scale: float) -> None:
    size = _sized(scale, 30 * MIB)
    schema = pa.schema([("text", pa.binary())])
    with pq.ParquetWriter(folder / "huge.parquet", schema) as writer:
        for index in range(4):
            writer.write_table(pa.table({"text": [text(size, index), noise(size, index)]}, schema))


def _kept(folder: Path, scale: float) -> None:
    """Short texts beside kept columns of 1 MiB."""
    with (folder / "kept.jsonl").open("wb") as file:
        for index in range(256):
            kept = text(_sized(scale, MIB), index).decode()
            file.write(json.dumps({"text": f"document {index}", "note": kept}).encode() + b"\n")


def _compressed(suffix: str, opened: Callable[[Path], Any]) -> Callable[[Path, float], None]:
    def write(folder: Path, scale: float) -> None:
        body, rng = text(4000).decode(), random.Random(0)
        stream: BinaryIO
        with opened(folder / f"documents.jsonl.{suffix}") as stream:
            for index in range(_sized(scale, 25_000)):
                line = {"text": f"{index} {rng.randbytes(64).hex()} {body}"}  # else a good compressor makes a bomb
                stream.write(json.dumps(line).encode() + b"\n")

    return write


def _zstd(path: Path) -> Any:
    return pa.CompressedOutputStream(str(path), "zstd")


CASES: dict[str, Callable[[Path, float], None]] = {
    "64 texts of 1 MiB": _many(text, MIB, 64),
    "64 binaries of 1 MiB": _many(noise, MIB, 64),
    "6 texts of 16 MiB": _many(text, 16 * MIB, 6),
    "6 binaries of 16 MiB": _many(noise, 16 * MIB, 6),
    "6 files of 16 MiB zeros": _many(lambda size, _: bytes(size), 16 * MIB, 6),
    "one text of 1 GiB": _long_text,
    "JSON lines of 1 GB": _lines(lambda: [10**9, 10**9]),
    "JSON lines just under the limit": _lines(lambda: 4 * [ReadOptions().max_record_bytes]),
    "JSON lines of brackets": _nested,
    "10 million tiny JSON lines": _tiny,
    "10 million empty Parquet rows": _empty_rows,
    "Parquet values of 30 MiB": _huge_values,
    "kept columns of 1 MiB": _kept,
    "jsonl.gz, 100 MB": _compressed("gz", partial(gzip.GzipFile, mode="wb", compresslevel=1)),
    "jsonl.zst, 100 MB": _compressed("zst", _zstd),
    "jsonl.xz, 100 MB": _compressed("xz", partial(lzma.LZMAFile, mode="wb", preset=0)),
    "jsonl.xz of level 9, 100 MB": _compressed("xz", partial(lzma.LZMAFile, mode="wb", preset=9)),
}
"""Makers of a corpus in a folder, at a scale, by what it is."""


if __name__ == "__main__":
    main(tyro.cli(MemoryOptions))
