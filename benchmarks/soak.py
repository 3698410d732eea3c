"""Memory of a worker over thousands of units: does it stay where it was? A Markdown table for RESULTS.md.

    python -m benchmarks.soak [--minutes 6] [--proxies neural bpe range identity]

One process a proxy does what a worker does, the same units again and again into a folder that is emptied between, and
notes its resident memory after each unit. The slope is a least-squares line through the second half.
"""

import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro

from benchmarks.memory import PROXIES, job_of, tokenizer_of
from benchmarks.preprocess import machine
from pipelines.runners.local_pool import use_one_thread
from pipelines.shard import encode_shard

_PAGE = 4096


@dataclass(frozen=True, kw_only=True)
class SoakOptions:
    """Resident memory of a worker over many units.

    Attributes:
        corpus: whose units are done again and again.
        unit_bytes: of a unit: small ones, since it is their number that a leak would follow.
        minutes: for each proxy.
        proxies: of `benchmarks.memory.PROXIES`.
        tokenizer: of bpe; default one trained on the standard library's sources.
    """

    corpus: str = "stdlib"
    unit_bytes: int = 1 << 20
    minutes: float = 6
    proxies: tuple[str, ...] = ("neural", "range", "bpe", "gzip", "identity")
    tokenizer: str | None = None


def main(options: SoakOptions) -> None:
    """Print the table."""
    use_one_thread()
    machine()
    print("| proxy | units | GB raw | MB after 10 % | after 50 % | at the end | second half, MB an hour |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        for name in options.proxies:
            uri = PROXIES[name] or f"bpe:{tokenizer_of(options.tokenizer, Path(folder))}"
            job, units = job_of(options.corpus, uri, Path(folder) / "out", unit_bytes=options.unit_bytes)
            todo = Path(folder) / "work"
            todo.write_bytes(pickle.dumps((job, units, 60 * options.minutes)))
            command = [sys.executable, "-c", "from benchmarks.soak import work; work()", str(todo)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            times, resident, raw_bytes = json.loads(done.stdout)
            print(
                f"| {name} | {len(times):,} | {raw_bytes / 1e9:.1f} | {_cells(np.array(times), np.array(resident, np.float64))} |"
            )
            sys.stdout.flush()


def work() -> None:
    """The worker's side: times (s), resident bytes after each unit, raw bytes of all, as JSON to standard output."""
    job, units, seconds = pickle.loads(Path(sys.argv[1]).read_bytes())  # of the process that started this one
    times: list[float] = []
    resident: list[int] = []
    raw_bytes = 0
    start = time.monotonic()
    while not times or times[-1] < seconds:
        shutil.rmtree(job.out.path, ignore_errors=True)
        for unit in units:
            raw_bytes += encode_shard(job, unit).raw_bytes
            times.append(time.monotonic() - start)
            resident.append(_PAGE * int(Path("/proc/self/statm").read_text().split()[1]))
    print(json.dumps((times, resident, raw_bytes)))


def _cells(times: npt.NDArray[np.float64], resident: npt.NDArray[np.float64]) -> str:
    megabytes = resident / 1e6
    at = [megabytes[int(share * (len(times) - 1))] for share in (0.1, 0.5, 1)]
    half = len(times) // 2
    slope = np.polyfit(times[half:] / 3600, megabytes[half:], 1)[0]
    return " | ".join([*(f"{value:.0f}" for value in at), f"{slope:+.1f}"])


if __name__ == "__main__":
    main(tyro.cli(SoakOptions))
