"""`python -m benchmarks.loader`: packed batches beside a plain pyarrow scan of the same columns, on one core.

Prints a Markdown table and the machine. CPU seconds of one process with one thread, so that other load on the machine
disturbs little; the scan and the loader take turns and the median of the rounds counts. Both read the same shards,
warm. MB/s are raw bytes of documents; "raw-equivalent" counts a pair twice, as the trainer's log does.

Below the table: wall-clock seconds from opening the dataset to the first batch, at the start of an epoch and resumed at
90 % of one.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.preprocess import machine
from pipelines.runners.local_pool import use_one_thread
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.options import LoaderOptions
from trainer.data.rows import KEY_COLUMNS
from trainer.data.views import Mode


@dataclass(frozen=True, kw_only=True)
class LoaderBenchOptions:
    """The loader's figures.

    Attributes:
        data: folders of local datasets.
        rounds: of which the median counts.
        seconds: of packing in a round.
    """

    data: tuple[str, ...] = ("data/stdlib-neural",)
    rounds: int = 5
    seconds: float = 1.5


@dataclass(frozen=True)
class Case:
    """What is packed."""

    name: str
    sequence: int
    mode: Mode = Mode.PROXY
    ramp: int = 0
    raw_heads: int = 1


CASES = [
    Case("proxy, r = 0.9", 1024),
    Case("proxy, r = 0.9", 8192),
    Case("proxy, r = 0.9", 32_768),
    Case("proxy, r = 0.9, H = 8", 8192, raw_heads=7),
    Case("proxy, start of the ramp (2/3 pairs)", 8192, ramp=10**9),
    Case("always-pair", 8192, mode=Mode.ALWAYS_PAIR),
    Case("comp-only", 8192, mode=Mode.COMP_ONLY),
    Case("bytes", 8192, mode=Mode.BYTES),
]


def main(options: LoaderBenchOptions) -> None:
    """Run all."""
    use_one_thread()
    pa.set_cpu_count(1)
    # As in a training process, where larger tensors were freed long ago: from then on glibc keeps what is freed, and
    # batches are not made of fresh pages.
    np.empty(31 << 20, np.uint8)
    machine()
    for data in options.data:
        dataset = Dataset(data)
        size = int(dataset.raw_bytes.sum())
        print(f"## {data}: {size / 1e6:.0f} MB, {len(dataset)} row groups of {size / len(dataset) / 1e3:.0f} KB\n")
        print(
            "| batches of 8 sequences | T | raw-equivalent MB/s | documents MB/s | M ids/s | plain scan MB/s | documents / scan |"
        )
        print("|---|---|---|---|---|---|---|")
        for case in CASES:
            measure(options, data, case, size / 1e6)
        print(f"\n{resume(data)}\n")


def loader_of(data: str, case: Case) -> Loader:
    """Of 8 lanes, without a thread."""
    return Loader(
        LoaderOptions(
            data=(data,),
            batch=8,
            sequence=case.sequence,
            steps=1000,
            mode=case.mode,
            ramp=case.ramp,
            raw_heads=case.raw_heads,
            prefetch=0,
        )
    )


def resume(data: str) -> str:
    """How long the first batch takes at 0 % and at 90 % of an epoch."""
    case = Case("", 8192)
    loader = loader_of(data, case)
    while loader.epochs[0] < 0.9:
        next(loader)
    state = loader.state()

    def first_batch(state: dict[str, Any] | None) -> float:
        start = time.perf_counter()
        loader = loader_of(data, case)
        if state is not None:
            loader.load_state(state)
        next(loader)
        return time.perf_counter() - start

    fresh, late = (statistics.median(first_batch(given) for _ in range(5)) for given in (None, state))
    return f"First batch of 8 x 8,192 ids: {fresh:.3f} s at the start, {late:.3f} s resumed at 90 % of an epoch."


def measure(options: LoaderBenchOptions, data: str, case: Case, size: float) -> None:
    """One line of the table."""
    loader = loader_of(data, case)
    for _ in range(3):
        next(loader)
    rates = []
    for _ in range(options.rounds):
        before = scan(data, case.mode.columns)
        equivalent, epochs, ids = 0.0, loader.epochs[1], 0
        start = time.process_time()
        while (seconds := time.process_time() - start) < options.seconds:
            batch = next(loader)
            equivalent += batch.counts.raw_equivalent_bytes / 1e6
            ids += batch.arrays.ids.size
        documents = (loader.epochs[1] - epochs) * size
        plain = size / ((before + scan(data, case.mode.columns)) / 2)
        rates.append(
            (equivalent / seconds, documents / seconds, ids / 1e6 / seconds, plain, documents / seconds / plain)
        )
    cells = [statistics.median(column) for column in zip(*rates, strict=True)]
    print(
        f"| {case.name} | {case.sequence:,} | {cells[0]:.0f} | {cells[1]:.0f} | {cells[2]:.1f} | {cells[3]:.0f} | {cells[4]:.2f} |",
        flush=True,
    )


def scan(data: str, columns: tuple[str, ...]) -> float:
    """CPU seconds to decode the same columns of all shards, row group by row group, without any check."""
    names = [*KEY_COLUMNS, *columns]
    start = time.process_time()
    for path in sorted(Path(data).glob("*.parquet")):
        with pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups):
                parquet.read_row_group(group, columns=names, use_threads=False)
    return time.process_time() - start


if __name__ == "__main__":
    main(tyro.cli(LoaderBenchOptions, description=LoaderBenchOptions.__doc__))
