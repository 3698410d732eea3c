"""What the runner costs around the work, and where the work's time goes. About 15 minutes on two cores, in parts.

    python -m benchmarks.job [--parts overhead workers memory] [--rounds 3]

Commands are whole processes, as users start them, on a corpus of some 300 MB and on one of one tiny file, which takes
what the start costs. "Loop" is the same command with the runner replaced by `for unit in units` in its own process
(plain_loop.py); "calls" is the time within that loop. Commands of a round follow each other, the next round begins
with another one, and each ratio is formed within a round: figures are medians, with the smallest and largest.
"""

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.preprocess import machine
from benchmarks.watching import Watched, last_line, watch
from pipelines.reading.plan import MAX_UNIT_BYTES
from schemas.errors import UserError
from schemas.manifest import Receipt

Part = Literal["overhead", "workers", "memory"]

NEURAL = ("--proxy", "neural", "--compressor", "pretrained")
BPE = ("--proxy", "bpe")


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Overhead, scaling, stages and memory of the job.

    Attributes:
        parts: what to measure.
        corpus: of some hundred MB, so that 3 % of its time is more than the noise.
        include: files of it.
        small: corpus for bpe, which is slow.
        rounds: of each measurement.
        runners: to compare with the loop.
    """

    parts: tuple[Part, ...] = ("overhead", "workers", "memory")
    corpus: str = "site-packages"
    include: tuple[str, ...] = ("*.py", "*.pyi", "*.h", "*.hpp", "*.json", "*.md", "*.txt")
    small: str = "stdlib"
    rounds: int = 3
    runners: tuple[Literal["direct", "dask"], ...] = ("direct", "dask")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A corpus under a proxy.

    Attributes:
        name: for tables.
        arguments: of the preprocess command.
    """

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """Runs commands, each into a folder of its own that is removed after."""

    place: Path

    def job(self, case: Case, runner: str, workers: int, *more: str) -> "Run":
        """The command on a runner."""
        return self._run([sys.executable, "-m", "pipelines", "preprocess"], case, runner, workers, *more)

    def loop(self, case: Case) -> "Run":
        """The plain loop over all units."""
        return self._run([sys.executable, "-m", "benchmarks.plain_loop", "0", "1"], case, "direct", 1)

    def halves(self, case: Case) -> float:
        """Seconds of the calls when two plain loops share the units."""
        commands = [[sys.executable, "-m", "benchmarks.plain_loop", str(part), "2"] for part in range(2)]
        with ThreadPool(2) as pool:
            return max(pool.map(lambda command: self._run(command, case, "direct", 1).calls, commands))

    def _run(self, command: Sequence[str], case: Case, runner: str, workers: int, *more: str) -> "Run":
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            out = Path(folder) / "out"
            arguments = ["--out", str(out), "--runner", runner, "--workers", str(workers), "--quiet", *more]
            watched = watch([*command, *case.arguments, *arguments])
            if watched.status:
                raise UserError(f"{' '.join(command)}: ended with {watched.status}: {last_line(watched.errors)}")
            return Run.of(watched, out)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One command that ended well.

    Attributes:
        watched: time and memory.
        stages: seconds of all workers by stage.
        raw_bytes: of the dataset.
        shards: their digests.
    """

    watched: Watched
    stages: dict[str, float]
    raw_bytes: int
    shards: tuple[str, ...]

    @classmethod
    def of(cls, watched: Watched, out: Path) -> "Run":
        """Read what a command left."""
        receipts = [Receipt.from_bytes(path.read_bytes(), str(path)) for path in sorted(out.glob("receipts/*.json"))]
        stages: dict[str, float] = {}
        for receipt in receipts:
            for stage, seconds in receipt.seconds.items():
                stages[stage] = stages.get(stage, 0.0) + seconds
        return cls(
            watched=watched,
            stages=stages,
            raw_bytes=sum(receipt.shard.raw_bytes for receipt in receipts),
            shards=tuple(receipt.shard.sha256 for receipt in receipts),
        )

    @property
    def seconds(self) -> float:
        """Wall time of the whole command."""
        return self.watched.seconds

    @property
    def work(self) -> float:
        """Seconds of all stages of all units."""
        return sum(self.stages.values())

    @property
    def calls(self) -> float:
        """Seconds within the plain loop, if this was one."""
        return float(last_line(self.watched.output))

    @property
    def named(self) -> dict[str, float]:
        """Seconds by stage, with those that the sums ask for."""
        both = self.stages["encode"] + self.stages["write"]
        return {**self.stages, "encode + write": both, "named": self.work}


def main(options: JobOptions) -> None:
    """Run the parts."""
    start = time.perf_counter()
    machine()
    with tempfile.TemporaryDirectory(prefix="job-") as folder:
        (Path(folder) / "tiny").mkdir()
        (Path(folder) / "tiny" / "a.py").write_text("x = 1\n")
        bench = Bench(Path(folder))
        large = Case(name="neural", arguments=(*NEURAL, "--corpus", options.corpus, "--include", *options.include))
        small = Case(name="bpe", arguments=(*BPE, "--corpus", options.small))
        tiny = Case(name="tiny", arguments=(*NEURAL, "--corpus", f"{folder}/tiny"))
        bench.job(small, "direct", 2)  # trains the tokenizer, which is then cached
        size = bench.loop(large).raw_bytes  # and here every file comes into the page cache
        print(f"{options.corpus}: {size / 1e6:,.0f} MB of {', '.join(options.include)}; {options.rounds} rounds\n")
        if "overhead" in options.parts:
            overhead(bench, large, tiny, options)
        if "workers" in options.parts:
            workers(bench, [large, small], tiny, options.rounds)
        if "memory" in options.parts:
            memory(bench, options)
    print(f"All of this took {(time.perf_counter() - start) / 60:.1f} minutes.")


def overhead(bench: Bench, large: Case, tiny: Case, options: JobOptions) -> None:
    """What a runner takes beyond the plain loop: on the tiny corpus, and then per second of work."""
    found: dict[str, dict[str, list[float]]] = {runner: defaultdict(list) for runner in options.runners}
    calls = []
    for index in range(options.rounds):
        loops: dict[str, Run] = {}
        jobs: dict[tuple[str, str], Run] = {}
        for runner in rotated(["", *options.runners], index):
            for case in (tiny, large):
                if runner:
                    jobs[runner, case.name] = bench.job(case, runner, 1)
                else:
                    loops[case.name] = bench.loop(case)
        calls.append(loops[large.name].calls)
        for runner in options.runners:
            if jobs[runner, large.name].shards != loops[large.name].shards:
                raise UserError(f"{runner}: wrote other shards than the plain loop")
            more = {case.name: jobs[runner, case.name].seconds - loops[case.name].seconds for case in (tiny, large)}
            slower = {case.name: jobs[runner, case.name].work - loops[case.name].work for case in (tiny, large)}
            beyond = more[large.name] - more[tiny.name]
            beyond_in_work = slower[large.name] - slower[tiny.name]
            found[runner]["fixed"].append(more[tiny.name])
            found[runner]["beside"].append(100 * (beyond - beyond_in_work) / calls[-1])
            found[runner]["within"].append(100 * beyond_in_work / calls[-1])
            found[runner]["beyond"].append(100 * beyond / calls[-1])
            found[runner]["all"].append(jobs[runner, large.name].seconds - calls[-1])
    print("## Runners over a plain loop (one worker)\n")
    print(
        f"Calls of `encode_shard` in the loop: {spread(calls)} s. Shards are the same bytes on all. Fixed: on one tiny "
        "file, over the loop's command. Beyond: what is more on the large corpus, by the calls' time: beside the units, "
        "and within them, where the machine's own ups and downs are. All: the whole command less the calls, so with "
        "Python's start, listing, planning and the manifest.\n"
    )
    print("| runner | fixed, s | beside units, % | within units, % | beyond, % | all, s |\n|---|---|---|---|---|---|")
    for runner, figures in found.items():
        print(f"| {runner} | {' | '.join(spread(values) for values in figures.values())} |")
    print(flush=True)


def workers(bench: Bench, cases: Iterable[Case], tiny: Case, rounds: int) -> None:
    """One worker against two, and against what two plain processes get from this machine; where the time goes."""
    speedups: list[str] = []
    stages: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        whole, work, possible = [], [], []
        shares = stages.setdefault(case.name, defaultdict(list))
        for index in range(rounds):
            jobs, starts = {}, {}
            for count in rotated([1, 2], index):
                starts[count] = bench.job(tiny, "direct", count).seconds
                jobs[count] = bench.job(case, "direct", count)
            loop = bench.loop(case)
            whole.append(jobs[1].seconds / jobs[2].seconds)
            work.append((jobs[1].seconds - starts[1]) / (jobs[2].seconds - starts[2]))
            possible.append(loop.calls / bench.halves(case))
            for name, seconds in loop.named.items():
                shares[name].append(100 * seconds / loop.calls)
            shares["of the job"].append(100 * jobs[1].named["named"] / (jobs[1].seconds - starts[1]))
        speedups.append(f"| {case.name} | {spread(whole)} | {spread(work)} | {spread(possible)} |")
    print("## Two workers over one\n")
    print(
        "Work: the command's time less that on one tiny file. Machine: two plain loops at once, half of the units each, "
        "against one.\n"
    )
    print("| proxy | whole command | work | machine |\n|---|---|---|---|")
    print("\n".join(speedups) + "\n")
    print("## Stages\n")
    print(
        "Shares of the time within `encode_shard` (plain loop), in %; named: all stages together; of the job: all stages "
        "by the command's time less that on one tiny file (direct, one worker).\n"
    )
    names = list(dict.fromkeys(name for shares in stages.values() for name in shares))
    print(f"| stage | {' | '.join(stages)} |\n|---|{'---|' * len(stages)}")
    for name in names:
        print(
            f"| {name} | {' | '.join(spread(shares[name]) if name in shares else '-' for shares in stages.values())} |"
        )
    print(flush=True)


def memory(bench: Bench, options: JobOptions) -> None:
    """Peak memory with the units that a large corpus has by default."""
    print("## Peak memory (two workers, units of 64 MiB, the default from 1 GiB of corpus on)\n")
    print("| proxy | a worker, MB | driver, MB | all at one moment, MB | MB/s a worker |\n|---|---|---|---|---|")
    for name, proxy in (("neural", NEURAL), ("bpe", BPE)):
        case = Case(name=name, arguments=(*proxy, "--corpus", options.corpus, "--include", *options.include))
        run = bench.job(case, "direct", 2, "--unit-bytes", str(MAX_UNIT_BYTES))
        peaks = (run.watched.other_bytes, run.watched.first_bytes, run.watched.sum_bytes)
        rate = run.raw_bytes / 1e6 / sum(run.stages.values())
        print(f"| {name} | {' | '.join(f'{peak / 1e6:.0f}' for peak in peaks)} | {rate:.1f} |", flush=True)
    print()


def rotated(items: list[Any], by: int) -> list[Any]:
    """The items in turn, beginning with another one."""
    by %= len(items)
    return items[by:] + items[:by]


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    try:
        main(tyro.cli(JobOptions))
    except UserError as error:
        sys.exit(str(error))
