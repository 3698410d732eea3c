"""Our preprocess beside what others use: the same JSONL files, the same tokenizer, the same machine, one run.

    python -m benchmarks.field --python FOLDER/bin/python [--parts speed kill bad] [--rounds 2]

FOLDER is an environment of field-requirements.txt. About 15 minutes on two cores with the default corpus. What was
measured is kept in the work folder, so parts can be run one at a time; each run ends with the table of all there is.
A tool's driver (peers/) is written the way its own documentation shows. Every process has one thread. The corpus
leaves out what is not UTF-8 and empty documents, since datatrove passes over those and an MDS writer stops at them.

Speed: raw MB by the seconds of the command, less those of the same command on one tiny document ("start").
Kill: all processes of a run by two workers die by SIGKILL after three shares of an undisturbed run's time (less its start),
and once more as soon as a data file is under its final name but smaller than it will be ("half file"). Then the same
command is run again, and its output's ids are compared with those of the undisturbed run.
Bad: one bad line in the middle of 300 good ones, once no JSON, once a record whose text is a number.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import tyro

from benchmarks.peers.common import counted
from benchmarks.preprocess import machine, utf8
from benchmarks.watching import Watched, last_line, watch
from pipelines.proxies import bpe
from pipelines.proxies.prepare import TOKENIZER_TEXT_BYTES
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.records import ReadOptions
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.names import MANIFEST
from schemas.vocabulary import COMP_OFFSET

Part = Literal["speed", "kill", "bad"]

FILES = 16
"""As others share work out by files, and our plan has 16 units for a small corpus, all restart from equal parts."""

WORKERS = (1, 2)
SHARES = (0.35, 0.6, 0.85)
"""Of an undisturbed run's time beyond its start, when it is killed."""

LIMIT_SECONDS = 600.0
"""A run that takes longer hangs."""

BAD_LINES = {"json": '{"id": "bad", "text": "never ends', "number": '{"id": "bad", "text": 12345}'}
GOOD_DOCUMENTS = 300

OURS_BPE = "ours, bpe"

Results = dict[str, dict[str, Any]]
"""By tool, then by part."""


@dataclass(frozen=True, kw_only=True)
class FieldOptions:
    """Our preprocess beside other tools.

    Attributes:
        python: of the environment with the other tools.
        corpus: written to JSONL files once.
        work: where corpus, tokenizer and results are kept.
        parts: what to measure.
        rounds: of the speed part.
    """

    python: Path
    corpus: str = "stdlib"
    work: Path = Path("data/field")
    parts: tuple[Part, ...] = ("speed", "kill", "bad")
    rounds: int = 2


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A way to turn JSONL into what a trainer reads.

    Attributes:
        name: for the table.
        command: corpus, out, workers -> what is run; the result lies in out/data.
        read: out -> documents, ids, digest of what is there, or None if it cannot be read.
        pattern: of the data files' final names.
        rejects: out -> how many records it says it left out; None if it does not say.
    """

    name: str
    command: Callable[[Path, Path, int], list[str]]
    read: Callable[[Path], dict[str, Any] | None]
    pattern: str
    rejects: Callable[[Path], int | None]

    def run(self, corpus: Path, out: Path, workers: int, kill_when: Callable[[float], bool] | None = None) -> Watched:
        """Run to the end, unless it hangs, or until the condition holds."""

        def kill(seconds: float) -> bool:
            return seconds > LIMIT_SECONDS or (kill_when is not None and kill_when(seconds))

        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "home")}
        return watch(self.command(corpus, out, workers), environment=offline, kill_when=kill)

    def sizes(self, out: Path) -> dict[str, int]:
        """Bytes of the data files under their final names."""
        found = {}
        for path in (out / "data").rglob(self.pattern):
            try:
                found[str(path.relative_to(out))] = path.stat().st_size
            except FileNotFoundError:
                continue  # renamed or removed meanwhile
        return found


def main(options: FieldOptions) -> None:
    """Run the parts and print the table of all that is known."""
    start = time.perf_counter()
    if not options.python.exists():
        raise UserError(f"--python {options.python}: not there; benchmarks/field-requirements.txt says how to make it")
    listed = list_corpus(options.corpus)
    place = options.work.resolve() / listed.listing_digest[:8]
    raw_bytes = prepare(place, Sampler(listed, ReadOptions()))
    kept = place / "results.json"
    results: Results = json.loads(kept.read_text()) if kept.exists() else {}
    with tempfile.TemporaryDirectory(prefix="field-", dir=place) as folder:
        for part in options.parts:
            measured = {"speed": speed, "kill": kill, "bad": bad}[part](
                tools(options.python, place), place / "corpus", Path(folder), options.rounds
            )
            for name, found in measured.items():
                results.setdefault(name, {})[part] = found
            kept.write_text(json.dumps(results, indent=1))
    machine()
    documents = sum(1 for path in (place / "corpus").iterdir() for _ in path.open())
    print(f"{options.corpus}: {documents:,} documents, {raw_bytes / 1e6:.1f} MB raw, in {FILES} JSONL files\n")
    table(results, raw_bytes)
    print(f"\nThe parts {', '.join(options.parts)} took {(time.perf_counter() - start) / 60:.1f} minutes.")


def prepare(place: Path, sampler: Sampler) -> int:
    """Write the corpus and train the tokenizer, once; return the raw bytes."""
    done = place / "prepared.json"
    if not done.exists():
        (place / "corpus").mkdir(parents=True, exist_ok=True)
        texts = [text for text in (utf8(document.raw) for document in sampler.documents()) if text]
        for index in range(FILES):
            write_jsonl(place / "corpus" / f"{index:02d}.jsonl", texts[index::FILES])
        (place / "tokenizer.json").write_bytes(bpe.train(sampler.training(TOKENIZER_TEXT_BYTES), bpe.DEFAULT_SIZE))
        done.write_text(json.dumps(sum(len(text.encode()) for text in texts)))
    return int(json.loads(done.read_text()))


def write_jsonl(path: Path, texts: list[str]) -> None:
    """One record a line."""
    lines = [
        json.dumps({"id": str(index), "text": text}, ensure_ascii=False) + "\n" for index, text in enumerate(texts)
    ]
    path.write_bytes("".join(lines).encode())


def tools(python: Path, place: Path) -> list[Tool]:
    """All that are compared."""
    return [
        ours("bpe", "--tokenizer", str(place / "tokenizer.json")),
        peer("datatrove", "datatrove_tokens", "*.ds", python, place),
        peer("Streaming (MDS)", "mds", "*.mds.zstd", python, place),
        peer("datasets", "hf_datasets", "*.parquet", python, place),
        ours("neural", "--compressor", "pretrained"),
        ours("identity"),
    ]


def ours(proxy: str, *arguments: str) -> Tool:
    """The command of this repository."""

    def command(corpus: Path, out: Path, workers: int) -> list[str]:
        program = [sys.executable, "-m", "pipelines", "preprocess", "--proxy", proxy, *arguments, "--quiet"]
        return [*program, "--corpus", str(corpus), "--out", str(out / "data"), "--workers", str(workers)]

    def read(out: Path) -> dict[str, Any] | None:
        try:
            shards = _manifest(out).shards
        except FileNotFoundError:
            return None
        return counted(ids for shard in shards for ids in _ids(out / "data" / shard.name, proxy))

    def rejects(out: Path) -> int:
        return _manifest(out).totals.rejects

    return Tool(name=f"ours, {proxy}", command=command, read=read, pattern="part-*.parquet", rejects=rejects)


def _manifest(out: Path) -> Manifest:
    path = out / "data" / MANIFEST
    return Manifest.from_bytes(path.read_bytes(), str(path))


def _ids(shard: Path, proxy: str) -> Iterator[np.ndarray]:
    """Ids as the tokenizer numbers them; bytes where there is no comp view."""
    for batch in pq.ParquetFile(shard).iter_batches(columns=["raw", "comp"]):
        for raw, comp in zip(batch["raw"], batch["comp"], strict=True):
            ids = np.frombuffer(raw.as_py(), np.uint8) if comp.values is None else np.array(comp.values)
            yield ids.astype(np.uint32) - np.uint32(COMP_OFFSET if proxy == "bpe" else 0)


def peer(name: str, driver: str, pattern: str, python: Path, place: Path) -> Tool:
    """A driver in the other environment."""
    program = [str(python), str(Path(__file__).parent / "peers" / f"{driver}.py")]

    def command(corpus: Path, out: Path, workers: int) -> list[str]:
        return [*program, "run", str(corpus), str(place / "tokenizer.json"), str(out), str(workers)]

    def read(out: Path) -> dict[str, Any] | None:
        watched = watch([*program, "read", str(out)])
        return None if watched.status else json.loads(last_line(watched.output))

    def rejects(out: Path) -> int | None:
        """Its statistics, where it writes any, by what a count of such records may be called."""
        path = out / "logs" / "stats.json"
        blocks = json.loads(path.read_text()) if path.exists() else []
        names = ("drop", "skip", "fail", "error", "reject")
        counts = [
            int(value["total"] if isinstance(value, dict) else value)
            for block in blocks
            for key, value in block["stats"].items()
            if any(name in key for name in names)
        ]
        return sum(counts) if counts else None

    return Tool(name=name, command=command, read=read, pattern=pattern, rejects=rejects)


def speed(tools: list[Tool], corpus: Path, folder: Path, rounds: int) -> Results:
    """Every tool with one worker and two, in turn, round after round."""
    tiny = tiny_corpus(folder)
    found: Results = {tool.name: {"start": [], **{f"seconds {n}": [] for n in WORKERS}} for tool in tools}
    for _ in range(rounds):
        for tool in tools:
            record = found[tool.name]
            record["start"].append(finished(tool, tiny, folder / "out", 1).seconds)
            for workers in WORKERS:
                watched = finished(tool, corpus, folder / "out", workers)
                record[f"seconds {workers}"].append(watched.seconds)
                record["process_bytes"] = max(watched.first_bytes, watched.other_bytes)
                record["sum_bytes"] = watched.sum_bytes
            record["stored_bytes"] = _bytes(folder / "out" / "data")
            record["beside_bytes"] = _bytes(folder / "out") - record["stored_bytes"]
            record["output"] = tool.read(folder / "out")
    return found


def tiny_corpus(folder: Path) -> Path:
    """One document, whose time is what the start costs."""
    tiny = folder / "tiny"
    tiny.mkdir(exist_ok=True)
    write_jsonl(tiny / "00.jsonl", ["x = 1\n"])
    return tiny


def finished(tool: Tool, corpus: Path, out: Path, workers: int) -> Watched:
    """A run into a new folder that must end well."""
    shutil.rmtree(out, ignore_errors=True)
    watched = tool.run(corpus, out, workers)
    if watched.status:
        raise UserError(f"{tool.name}: ended with {watched.status}: {last_line(watched.errors)}")
    return watched


def kill(tools: list[Tool], corpus: Path, folder: Path, _: int) -> Results:
    """Kill, look at what is there, run again, compare; of ours the slowest, as one way of committing serves all."""
    return {
        tool.name: _kill(tool, corpus, folder)
        for tool in tools
        if tool.name == OURS_BPE or not tool.name.startswith("ours")
    }


def _kill(tool: Tool, corpus: Path, folder: Path) -> dict[str, Any]:
    out, tiny = folder / "out", tiny_corpus(folder)
    start = finished(tool, tiny, out, max(WORKERS)).seconds
    whole = finished(tool, corpus, out, max(WORKERS)).seconds
    sizes, wanted = tool.sizes(out), tool.read(out)

    def half() -> list[str]:
        return [name for name, size in tool.sizes(out).items() if size < sizes.get(name, 0)]

    def due(at: float | None, seconds: float) -> bool:
        return half() != [] if at is None else seconds > at

    runs = []
    for at in (*(start + share * (whole - start) for share in SHARES), None):
        shutil.rmtree(out)
        killed = tool.run(corpus, out, max(WORKERS), partial(due, at))
        if killed.status == 0:
            continue  # it was faster than before, or no half file was ever seen
        run: dict[str, Any] = {"timed": at is not None, "half": half(), "unfinished": tool.read(out)}
        written = {name: (out / name).stat().st_mtime_ns for name in tool.sizes(out) if name not in run["half"]}
        again = tool.run(corpus, out, max(WORKERS))
        run |= {"again": again.status, "error": last_line(again.errors), "time": again.seconds / whole}
        run["written"] = len(written)
        run["kept"] = sum(
            (out / name).exists() and (out / name).stat().st_mtime_ns == stamp for name, stamp in written.items()
        )
        run["right"] = again.status == 0 and tool.read(out) == wanted
        runs.append(run)
    return {"documents": wanted["documents"] if wanted else 0, "runs": runs}


def bad(tools: list[Tool], corpus: Path, folder: Path, _: int) -> Results:
    """One bad line among good ones."""
    lines = [line for path in sorted(corpus.iterdir()) for line in path.open()][:GOOD_DOCUMENTS]
    found: Results = {}
    for tool in tools:
        found[tool.name] = {}
        for kind, line in BAD_LINES.items():
            place = folder / f"bad-{kind}"
            place.mkdir(exist_ok=True)
            middle = len(lines) // 2
            (place / "00.jsonl").write_text("".join([*lines[:middle], line + "\n", *lines[middle:]]))
            shutil.rmtree(folder / "out", ignore_errors=True)
            watched = tool.run(place, folder / "out", 1)
            output = tool.read(folder / "out") if watched.status == 0 else None
            found[tool.name][kind] = {
                "status": watched.status,
                "error": last_line(watched.errors),
                "more": output["documents"] - len(lines) if output else None,
                "rejects": tool.rejects(folder / "out") if watched.status == 0 else None,
            }
    return found


def table(results: Results, raw_bytes: int) -> None:
    """All that was measured, as Markdown."""
    print(
        "| tool | start, s | MB/s, 1 worker | MB/s, 2 workers | peak of a process, MB | of all at a moment, MB | stored/raw "
        "(+ beside) | ids as ours | half file under a final name | unfinished output | rerun after kill -9 | invalid JSON "
        "line | a number as text |"
    )
    print("|" + "---|" * 13)
    known = results.get(OURS_BPE, {}).get("speed", {}).get("output")
    for name, parts in results.items():
        same = None if name.startswith("ours") else known  # our other proxies have other symbols
        cells = [*speed_cells(parts.get("speed"), raw_bytes, same), *kill_cells(parts.get("kill")), *bad_cells(parts)]
        print(f"| {name} | {' | '.join(cells)} |")


def speed_cells(found: dict[str, Any] | None, raw_bytes: int, known: dict[str, Any] | None) -> list[str]:
    """Start, speeds, memory, size, and whether the ids are those of our bpe."""
    if found is None:
        return [""] * 7
    start = statistics.median(found["start"])
    rates = []
    for workers in WORKERS:
        seconds = [raw_bytes / 1e6 / (seconds - start) for seconds in found[f"seconds {workers}"]]
        rates.append(f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})")
    return [
        f"{start:.1f}",
        *rates,
        f"{found['process_bytes'] / 1e6:.0f}",
        f"{found['sum_bytes'] / 1e6:.0f}",
        f"{found['stored_bytes'] / raw_bytes:.2f} (+ {found['beside_bytes'] / raw_bytes:.2f})",
        "-" if known is None else "yes" if found["output"] == known else "no",
    ]


def kill_cells(found: dict[str, Any] | None) -> list[str]:
    """Half files, what a reader makes of an unfinished output, and how a rerun ends."""
    if found is None:
        return [""] * 3
    runs = found["runs"]
    if not runs:
        return ["never seen", "", "always ended before it was killed"]
    halves = sum(bool(run["half"]) for run in runs)
    read = [run["unfinished"]["documents"] for run in runs if run["unfinished"]]
    some = f"read as {min(read):,} to {max(read):,} of {found['documents']:,} documents" if read else "refused"
    refused = sorted({run["error"][:80] for run in runs if run["again"]})
    times = ", ".join(f"{run['time']:.2f}" for run in runs if run["timed"] and not run["again"])
    again = f"right in {sum(run['right'] for run in runs)} of {len(runs)}"
    again += f"; takes {times} of a whole run" if times else ""
    redone = [run for run in runs if not run["again"]]
    if redone:
        kept, written = (sum(run[key] for run in redone) for key in ("kept", "written"))
        again += f"; keeps {kept} of {written} whole files"
    return [
        f"yes, in {halves} of {len(runs)} kills" if halves else "never seen",
        some,
        again + "".join(f"; stops: `{error}`" for error in refused),
    ]


def bad_cells(parts: dict[str, Any]) -> list[str]:
    """What became of a bad line, by kind."""
    if "bad" not in parts:
        return [""] * len(BAD_LINES)
    return [bad_cell(parts["bad"][kind]) for kind in BAD_LINES]


def bad_cell(found: dict[str, Any]) -> str:
    """In words."""
    if found["status"]:
        return f"stops: `{found['error'][:80]}`"
    if found["more"] == 0:
        return f"left out, {found['rejects']} counted" if found["rejects"] else "left out, not counted"
    return "kept as text" if found["more"] == 1 else f"{-found['more']:,} good documents lost"


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    try:
        main(tyro.cli(FieldOptions))
    except UserError as error:
        sys.exit(str(error))
