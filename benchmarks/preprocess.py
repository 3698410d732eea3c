"""`make bench`: the pipeline's figures, each beside its alternative, in one run of about ten minutes.

Prints Markdown tables (for RESULTS.md) and the machine. Speeds are of single processes with one thread; "the job"
is `python -m pipelines preprocess` as users run it, its start-up (the same job on one tiny file) taken off.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.records import ReadOptions
from pipelines.runners.local_pool import ONE_THREAD, use_one_thread
from schemas.draws import may_fit
from schemas.machine import available_cores, processor
from schemas.manifest import Manifest, Receipt

ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The pipeline's figures.

    Attributes:
        corpus: for codecs, proxies and storage.
        large: of at least 100 MB, for the job's rate; default site-packages of this Python.
        workers: processes of the jobs that are compared with all cores.
    """

    corpus: str = "stdlib"
    large: str = "site-packages"
    workers: int = available_cores()


def main(options: BenchOptions) -> None:
    """Run all."""
    use_one_thread()
    machine()
    documents = [document.raw for document in Sampler(list_corpus(options.corpus), ReadOptions()).documents()]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder)
        jobs(options, place, documents)
        codecs(place, documents)
        stability(options)


def machine() -> None:
    """Where this runs."""
    memory = next((int(line.split()[1]) // 2**20 for line in _lines("/proc/meminfo") if "MemTotal" in line), 0)
    print(
        f"{processor()}, {os.cpu_count()} cores, {memory} GiB; Python {platform.python_version()}; one thread a process\n"
    )


def jobs(options: BenchOptions, place: Path, documents: list[bytes]) -> None:
    """The whole job for each proxy, the start-up taken off; the bare tokenizer beside it; what is stored."""
    (place / "tiny").mkdir()
    (place / "tiny" / "a.py").write_text("x = 1\n")
    jsonl = place / "corpus.jsonl.zst"
    raw = write_jsonl_zst(jsonl, documents)
    print("## The job\n")
    print(
        "| job | MB | workers | seconds beyond start-up | MB/s per worker | bytes/symbol | stored/raw | stages (share of worker time) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    neural = ["--compressor", "pretrained"]
    rates: dict[str, float] = {}
    cases: list[tuple[str, str, int, list[str]]] = [
        ("neural codebook 16", options.large, 1, neural),
        ("neural codebook 16", options.large, options.workers, neural),
        ("neural codebook 16, no proof", options.large, 1, [*neural, "--no-prove"]),
        ("neural codebook 16", options.corpus, 1, neural),
        ("neural codebook 12", options.corpus, 1, [*neural, "--bits", "12"]),
        ("neural range 16", options.corpus, 1, [*neural, "--coder", "range"]),
        ("bpe 32k", options.corpus, 1, ["--proxy", "bpe"]),
        ("bpe 32k", options.corpus, options.workers, ["--proxy", "bpe"]),
        ("gzip", options.corpus, 1, ["--proxy", "gzip"]),
        ("identity", options.corpus, 1, ["--proxy", "identity"]),
    ]
    for index, (name, corpus, workers, arguments) in enumerate(cases):
        job(place / "warm", str(place / "tiny"), 1, arguments)
        startup = min(job(place / f"start{n}", str(place / "tiny"), workers, arguments) for n in range(2))
        out = place / f"job{index}"
        if "bpe" in arguments:
            job(place / "warm", corpus, workers, arguments)  # the tokenizer is trained once and cached
        seconds = job(out, corpus, workers, arguments) - startup
        manifest = Manifest.from_bytes((out / "manifest.json").read_bytes(), str(out))
        totals = manifest.totals
        rate = totals.raw_bytes / 1e6 / seconds / workers
        rates[f"{name} x{workers}"] = rate * workers
        stored = sum(path.stat().st_size for path in out.glob("*.parquet")) / totals.raw_bytes
        ratio = f"{totals.raw_bytes / totals.comp_symbols:.2f}" if totals.comp_symbols else "-"
        print(
            f"| {name} | {totals.raw_bytes / 1e6:.0f} ({corpus}) | {workers} | {seconds:.1f} (start-up {startup:.1f}) | "
            f"{rate:.1f} | {ratio} | {stored:.3f} | {stages(out)} |",
            flush=True,
        )
        if name == "bpe 32k":
            (place / "tokenizer.json").write_bytes((out / "meta/proxy/tokenizer.json").read_bytes())
            bare = bare_tokenizer(place / "tokenizer.json", documents, workers)
            print(
                f"| bare `encode_batch` of the same tokenizer | {raw / 1e6:.0f} ({corpus}) | {workers} threads | | "
                f"{bare / workers:.1f} | | | the job is {rates[f'{name} x{workers}'] / bare:.2f} of it |"
            )
        shutil.rmtree(out)
    print(
        f"\nThe corpus {options.corpus} as .jsonl.zst (level 3): {jsonl.stat().st_size / raw:.3f} stored bytes per raw byte.\n"
    )


def codecs(place: Path, documents: list[bytes]) -> None:
    """Coders alone, in memory, one thread: median of rounds."""
    from compressor_model.artefact import PRETRAINED
    from pipelines import proxies

    held_out = [document for document in documents if not may_fit_raw(document)]
    sample = documents[: len(documents) // 4]
    size = sum(map(len, sample)) / 1e6
    print("## Coders alone (one thread)\n")
    print("| coder | encode MB/s | of bare `encode_batch` | decode MB/s | bytes/symbol on held-out documents |")
    print("|---|---|---|---|---|")
    tokenizer = proxies.load(f"bpe:{place / 'tokenizer.json'}")
    texts = [text for text in (utf8(document) for document in sample) if text is not None]
    bare = size / timed(lambda: bare_batch(place / "tokenizer.json", texts), 3)
    for name, proxy in {
        "neural codebook 16": proxies.load(f"neural:{PRETRAINED}?coder=codebook&bits=16"),
        "neural codebook 12": proxies.load(f"neural:{PRETRAINED}?coder=codebook&bits=12"),
        "neural range 16 (cold cache once)": proxies.load(f"neural:{PRETRAINED}?coder=range&bits=16"),
        "bpe 32k with spans and checks": tokenizer,
    }.items():
        rounds = ROUNDS if "codebook" in name else 1
        seconds = timed(lambda proxy=proxy: proxy.encode_batch(sample), rounds)
        hits = f", cache hits {proxy.cache_hits:.1%}" if hasattr(proxy, "cache_hits") else ""
        batch = proxy.encode_batch(sample)
        assert batch is not None
        decode = (
            size / timed(lambda proxy=proxy, batch=batch: proxy.decode_batch(batch), ROUNDS) if proxy.lossless else 0
        )
        view = proxy.encode_batch(held_out)
        assert view is not None
        print(
            f"| {name}{hits} | {size / seconds:.1f} | {size / seconds / bare:.1f} | {f'{decode:.0f}' if decode else '-'} | "
            f"{sum(map(len, held_out)) / len(view.ids):.3f} |",
            flush=True,
        )
    print(f"| bare `encode_batch` | {bare:.1f} | 1.0 | | |\n")


def stability(options: BenchOptions) -> None:
    """The stability of all proxies on the same held-out pieces."""
    print("## Stability (held-out pieces of 4,096 characters)\n")
    print("| proxy | bytes/symbol | 10 % of characters deleted [95 %] (floor) | 1 % | one edit: symbols (median) |")
    print("|---|---|---|---|---|")
    for bits, variants in (("16", []), ("12", ["--variants", "codebook"])):
        command = [sys.executable, "-m", "pipelines", "measure", "stability", "--corpus", options.corpus, "--json"]
        command += ["--compressor", "pretrained", "--bits", bits, *variants]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for result in json.loads(output)["variants"]:
            deleted = result["distances"]["deletion"]
            cells = [
                f"{deleted[rate]['mean']:.3f} [{deleted[rate]['low']:.3f}, {deleted[rate]['high']:.3f}] ({result['floors'][rate]:.3f})"
                for rate in ("0.1", "0.01")
            ]
            reach = result["resynchronisation"]["symbols"]["median"]
            name = result["variant"] + (" 12" if bits == "12" else "")
            size = result["bytes_per_symbol"]["mean"]
            print(f"| {name} | {size:.2f} | {cells[0]} | {cells[1]} | {reach:g} |", flush=True)


def job(out: Path, corpus: str, workers: int, arguments: list[str]) -> float:
    """Wall seconds of one job into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "pipelines", "preprocess", "--corpus", corpus, "--out", str(out), "--quiet"]
    start = time.perf_counter()
    subprocess.run([*command, "--workers", str(workers), *arguments], check=True)
    return time.perf_counter() - start


def stages(out: Path) -> str:
    """Where the workers' time went."""
    seconds: dict[str, float] = {}
    for path in out.glob("receipts/*.json"):
        for stage, spent in Receipt.from_bytes(path.read_bytes(), str(path)).seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    total = sum(seconds.values())
    return ", ".join(f"{stage} {spent / total:.0%}" for stage, spent in seconds.items())


def bare_tokenizer(tokenizer: Path, documents: list[bytes], threads: int) -> float:
    """MB/s of `encode_batch` on texts in memory, in a new process with this many threads."""
    with tempfile.TemporaryDirectory() as folder:
        texts = [text for text in (utf8(document) for document in documents) if text is not None]
        (Path(folder) / "texts.json").write_text(json.dumps(texts))
        program = (
            "import json, sys, time\nfrom benchmarks.preprocess import bare_batch\nfrom pathlib import Path\n"
            "texts = json.loads(Path(sys.argv[2]).read_text())\nbare_batch(Path(sys.argv[1]), texts[:8])\n"
            "start = time.perf_counter()\nbare_batch(Path(sys.argv[1]), texts)\nprint(time.perf_counter() - start)"
        )
        environment = {**os.environ, **dict.fromkeys(ONE_THREAD, str(threads)), "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, "-c", program, str(tokenizer), str(Path(folder) / "texts.json")]
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return sum(len(text.encode()) for text in texts) / 1e6 / float(output)


def bare_batch(path: Path, texts: list[str]) -> None:
    """What a user of `tokenizers` would write."""
    from tokenizers import Tokenizer

    for encoding in Tokenizer.from_file(str(path)).encode_batch(texts, add_special_tokens=False):
        np.array(encoding.ids, np.uint32)


def write_jsonl_zst(path: Path, documents: list[bytes]) -> int:
    """The corpus as one .jsonl.zst; returns its raw bytes."""
    import zstandard

    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as stream:
        for document in documents:
            stream.write(json.dumps({"text": document.decode("utf-8", "replace")}, ensure_ascii=False).encode() + b"\n")
    return sum(map(len, documents))


def timed(call: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call; the first of several is a warm-up."""
    seconds = []
    for _ in range(rounds + (rounds > 1)):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[-rounds:])


def utf8(raw: bytes) -> str | None:
    """The text of a document that is UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def may_fit_raw(raw: bytes) -> bool:
    """Whether a document may be fitted on."""
    from schemas.draws import document_id

    return may_fit(document_id(raw))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main(tyro.cli(BenchOptions))
