"""Plans against a real small job, and their arithmetic by hand."""

import gzip
import json
import lzma
import math
import random
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import zstandard
from job_runners import ROOT

from pipelines import cli, commit
from pipelines.planning import advice, plan_job, sample
from pipelines.planning.advice import advise
from pipelines.planning.groups import groups_of_unit, spread_of
from pipelines.planning.plan_job import PlanJobOptions
from pipelines.planning.rates import RATES, measure, rates_from, rates_of
from pipelines.planning.simulate import Troubles, simulate
from pipelines.planning.sizes import parse_size, show_size
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading import inputs
from pipelines.reading.corpus import list_corpus
from pipelines.reading.plan import MIB, plan_units
from pipelines.reading.records import ReadOptions
from pipelines.rows import group_limit, group_rows
from pipelines.runners.running import RunnerOptions
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.names import ROW_GROUPS


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("3.3TB", 3_300_000_000_000),
        ("3.3 TiB", round(3.3 * 2**40)),
        ("64MiB", 64 << 20),
        ("500 gb", 500 * 10**9),
        ("1_000", 1000),
        ("31,5k", 315_000),
        ("2e6", 2_000_000),
        ("7b", 7),
        ("1Pi", 2**50),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text, "--corpus-bytes") == size


@pytest.mark.parametrize("text", ["", "TB", "-3TB", "3.3 XB", "3 3TB", "0", "nan", "inf", "0.0001kB"])
def test_what_is_no_size_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(UserError, match="--corpus-bytes"):
        parse_size(text, "--corpus-bytes")


@pytest.mark.parametrize(
    ("size", "text"),
    [(7, "7 B"), (1000, "1 kB"), (67_108_864, "67.1 MB"), (999_600, "1 MB"), (123_456, "123 kB"), (2e18, "2000 PB")],
)
def test_sizes_are_shown(size: float, text: str) -> None:
    assert show_size(size) == text


def test_a_plan_by_hand() -> None:
    plan = plan_job.plan_job(PlanJobOptions(corpus_bytes="1TB", workers=100, price_per_core_hour=0.05))
    units = math.ceil(10**12 / (64 * MIB))
    assert (plan.units, plan.raw_bytes) == (units, 10**12)
    hours = (10**12 / (RATES["neural"].mb_per_second * 1e6) + units * advice.UNIT_SECONDS) / 3600
    assert plan.core_hours == pytest.approx(hours)
    assert plan.price == pytest.approx(hours * 0.05)
    assert plan.wall_seconds == pytest.approx(math.ceil(units / 100) * hours * 3600 / units)
    assert plan.memory == 60_000_000_000
    assert plan.storage["shards"] == round(10**12 * RATES["neural"].stored_per_raw)
    blocks = math.ceil(10**12 / MIB)
    assert plan.requests == {
        "put": 3 * units,
        "head": pytest.approx(7 * units + blocks, rel=0.01),
        "list": units,
        "delete": units,
        "get": 3 * units + blocks,
    }
    assert plan.core_hours_by_proxy["bpe"] > plan.core_hours_by_proxy["neural"]
    assert plan.simulated is not None
    assert plan.simulated.makespan >= plan.simulated.ideal


@pytest.mark.parametrize("spread", [0.0, 0.7, 1.4])
@pytest.mark.parametrize("documents_a_group", [0.2, 0.6, 1, 2.5, 10, 300])
@pytest.mark.parametrize("unit_groups", [20, 2000])
def test_row_groups_of_a_unit_are_those_that_the_writer_makes(
    unit_groups: int, documents_a_group: float, spread: float
) -> None:
    """Units of some groups, and of so many that later ones hold more."""
    most = 4096
    mean = most / documents_a_group
    rng = np.random.default_rng(1)
    made, raw_bytes = [], unit_groups * max(most, mean)
    for _ in range(20 if unit_groups < 100 else 1):
        written: list[int] = []
        lengths = (mean * rng.lognormal(-(spread**2) / 2, spread, round(raw_bytes / mean))).round().astype(int)
        for rows in group_rows(lengths.tolist(), lambda written=written: group_limit(most, len(written))):  # type: ignore[misc]
            written.append(rows)
        assert sum(written) == len(lengths)
        made.append(len(written))
    assert groups_of_unit(raw_bytes, mean, most, spread) == pytest.approx(np.mean(made), rel=0.12)


def test_row_groups_by_hand() -> None:
    assert groups_of_unit(10_000, 5000, 16 << 10) == pytest.approx(1, abs=0.4)
    assert groups_of_unit(100 * MIB, 10 * MIB, MIB, 0) == 10, "a document that is longer is a row group of its own"
    assert groups_of_unit(100_000, 1000, 2048 + 2 * 64, 0) == 50 + 0.25, "two fit; of an odd number one is left over"
    assert spread_of(np.array([7] * 9)) == 0
    drawn = np.random.default_rng(0).lognormal(10, 0.8, 100_000)
    assert spread_of(drawn) == pytest.approx(0.8, rel=0.03)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("shape", ["spread", "one length"])
@pytest.mark.parametrize("documents_a_group", [0.4, 0.9, 1.9, 20])
def test_a_plan_predicts_row_groups_of_real_jobs(documents_a_group: float, shape: str, tmp_path: Path) -> None:
    """Documents longer than row groups (16 KiB), as long, half as long and much shorter."""
    mean = (16 << 10) / documents_a_group
    rng = np.random.default_rng(2)
    lengths = mean * (rng.exponential(1, 400) if shape == "spread" else np.ones(400))
    corpus = tmp_path / "corpus.jsonl"
    with corpus.open("w") as file:
        for number, length in enumerate(lengths):
            file.write(json.dumps({"text": f"{number} {'text ' * round(length / 5)}"}) + "\n")
    options = {"corpus": str(corpus), "proxy": ProxyOptions(proxy="identity")}
    made = preprocess(
        PreprocessOptions(
            **options,
            out=str(tmp_path / "out"),
            unit_bytes=MIB,
            row_group_bytes=16 << 10,
            quiet=True,  # type: ignore[arg-type]
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_job, "row_group_bytes", lambda _: 16 << 10)
        plan = plan_job.plan_job(PlanJobOptions(**options, unit_bytes="1MiB", measure=True))  # type: ignore[arg-type]
    assert plan.units == len(made.shards)
    assert plan.row_groups == pytest.approx(sum(shard.row_groups for shard in made.shards), rel=0.15)


@pytest.fixture(scope="module")
def plain_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 MB of JSON lines: six blocks, so that small units are several."""
    path = tmp_path_factory.mktemp("plain") / "corpus.jsonl"
    words = [f"name_{n} = value[{n * 7919 % 97}]\n" for n in range(200)]
    with path.open("w") as file:
        for n in range(2000):
            text = "".join(words[(n * 31 + k * k) % 200] for k in range(40 + n % 240))
            file.write(json.dumps({"text": text}) + "\n")
    return path


@pytest.mark.usefixtures("in_this_process")
def test_a_plan_predicts_a_real_job(plain_corpus: Path, tmp_path: Path) -> None:
    """Units exactly; shards, by rates measured on a third of it, within 5 %; the other files within 30 %."""
    out, proxy = tmp_path / "out", ProxyOptions(proxy="gzip")
    preprocess(
        PreprocessOptions(
            corpus=str(plain_corpus),
            out=str(out),
            proxy=proxy,
            runner=RunnerOptions(workers=1),
            unit_bytes=2 * MIB,
            quiet=True,
        )
    )
    receipts = list(commit.read_receipts(Folder(str(out)), commit.receipt_names(Folder(str(out)))))
    rates = measure(list_corpus(str(plain_corpus)), proxy, ReadOptions(), 2 * MIB)
    options = PlanJobOptions(corpus=str(plain_corpus), proxy=proxy, unit_bytes="2MiB", measure=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_job, "measure", lambda *_: rates)
        plan = plan_job.plan_job(options)
    assert plan.units == len(receipts) > 2
    assert plan.raw_bytes == pytest.approx(sum(one.shard.raw_bytes for one in receipts), rel=0.05)
    assert plan.row_groups == pytest.approx(sum(one.shard.row_groups for one in receipts), rel=0.1)
    real = {
        "shards": sum(path.stat().st_size for path in out.glob("*.parquet")),
        "rejects": sum(path.stat().st_size for path in out.glob("rejects/*")),
        "receipts": sum(path.stat().st_size for path in out.glob("receipts/*")),
        "row-group table": (out / ROW_GROUPS).stat().st_size,
    }
    for part, size in real.items():
        assert plan.storage[part] == pytest.approx(size, rel=0.05 if part == "shards" else 0.3), (part, size)


def test_measured_rates_are_the_receipts(make_dataset: Callable[..., Path]) -> None:
    folder = Folder(str(make_dataset("bpe")))
    receipts = [
        replace(one, seconds={"encode": 2.0}) for one in commit.read_receipts(folder, commit.receipt_names(folder))
    ]
    raw = sum(one.shard.raw_bytes for one in receipts)
    rates = rates_from(receipts, raw * 2, "here")
    assert rates.mb_per_second == pytest.approx(raw / 1e6 / (2 * len(receipts)))
    assert rates.raw_per_input == 0.5
    assert rates.bytes_per_symbol == pytest.approx(raw / sum(one.shard.comp_symbols for one in receipts))


def test_the_advised_size_keeps_the_tail_and_twice_it_does_not() -> None:
    rates, troubles = RATES["bpe"], Troubles()
    size = advise(10**11, rates, 200, troubles)
    assert size is not None
    assert size < 64 * MIB
    for each, good in ((size, True), (2 * size, False)):
        units = math.ceil(10**11 / each)
        seconds = (10**11 / 1e6 / rates.mb_per_second) / units + advice.UNIT_SECONDS
        assert (simulate([seconds] * units, 200, troubles).tail < advice.TAIL) is good
    assert advise(10**7, rates, 5000, troubles) is None


def _of_lines(folder: Path, sizes: list[int], suffix: str) -> None:
    """Files of these sizes. A plan opens neither lines nor compressed files."""
    for number, size in enumerate(sizes):
        with (folder / f"{number:03}{suffix}").open("wb") as file:
            file.truncate(size)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt"])
def test_smaller_units_are_advised_only_where_inputs_can_be_cut(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight files of 1 GB for 5 workers: two rounds, the second of three files, where they cannot be cut."""
    _of_lines(tmp_path, [10**9] * 8, suffix)
    calm = ["--spread", "0", "--slow-share", "0", "--failures-per-hour", "0"]
    assert cli.run(["plan", "--corpus", str(tmp_path), "--workers", "5", *calm]) == 0
    text = capsys.readouterr().out
    plan = plan_job.plan_job(PlanJobOptions(corpus=str(tmp_path), workers=5))
    if suffix == ".jsonl":
        assert "  largest units with a tail below 5%: --unit-bytes 67108864\n" in text
        assert plan.uncut is None
        return
    assert "--unit-bytes" not in text
    assert f"no unit size gives it; cut 000{suffix} (1 GB) and its like into files of 67.1 MB or less, or use" in text
    assert "which cannot be cut, one; as many shards" in text
    assert (plan.units, plan.uncut) == (8, (f"000{suffix}", 10**9))
    assert plan.wall_seconds == pytest.approx(2 * plan.unit_seconds)


def test_of_a_listed_corpus_each_unit_takes_its_own_time(tmp_path: Path) -> None:
    """One file of 2 GB that cannot be cut beside little ones: the job lasts as long as it."""
    _of_lines(tmp_path, [2 * 10**9] + [10**6] * 50, ".jsonl.gz")
    plan = plan_job.plan_job(
        PlanJobOptions(corpus=str(tmp_path), workers=20, troubles=Troubles(spread=0, slow_share=0))
    )
    alone = 2 * 10**9 / 1e6 / plan.rates.mb_per_second + advice.UNIT_SECONDS
    assert plan.wall_seconds is not None
    assert alone <= plan.wall_seconds < alone * 1.1
    assert plan.unit_seconds < alone * 0.6
    assert plan.advised_unit_bytes is None
    assert plan.advised_if_cut is not None


def test_where_too_many_workers_are_to_blame_no_input_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _of_lines(tmp_path, [3 * MIB] * 2, ".jsonl.gz")
    assert cli.run(["plan", "--corpus", str(tmp_path), "--workers", "900"]) == 0
    assert capsys.readouterr().out.endswith("no unit size gives it; use fewer workers\n")


def test_a_file_that_outlasts_failures_is_to_be_cut(tmp_path: Path) -> None:
    _of_lines(tmp_path, [10**9], ".jsonl.gz")
    often = Troubles(failures_per_hour=900)
    with pytest.raises(UserError, match=r"give fewer, or cut 000.jsonl.gz \(1 GB\) into smaller files$"):
        plan_job.plan_job(PlanJobOptions(corpus=str(tmp_path), workers=5, troubles=often))
    with pytest.raises(UserError, match=r"give fewer, or smaller --unit-bytes$"):
        plan_job.plan_job(PlanJobOptions(corpus_bytes="1GB", unit_bytes="1GB", workers=5, troubles=often))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("plan", "plan: give --corpus-bytes 3.3TB or --corpus FOLDER"),
        ("plan --corpus-bytes 1TB --measure", "plan: --measure: give the corpus too"),
        ("plan --corpus-bytes lots", "plan: --corpus-bytes 'lots': not a size"),
        ("plan --corpus-bytes 1TB --workers 0", "plan: --workers 0: give 1 to"),
        ("plan --corpus-bytes 1TB --workers 9 --slow-share 7", "plan: --slow-share 7"),
        ("plan --corpus-bytes 1PB --workers 9 --unit-bytes 1MB", "too many to simulate"),
        ("plan --corpus-bytes 1TB --workers 9 --failures-per-hour 9e9", "--failures-per-hour 9e+09: a unit of"),
        ("plan --corpus-bytes 1TB --bits 12", "plan: PROXY=neural with bits=12: no measured rate; measure it"),
        ("plan --corpus-bytes 1TB --segmentation lm", "PROXY=neural with segmentation=lm: no measured rate"),
        ("plan --corpus-bytes 1TB --windows packed --fuzz tail", "with windows=packed, fuzz=tail: no measured rate"),
        ("plan --corpus-bytes 1TB --coder range --bits 14", "PROXY=neural with bits=14: no measured rate"),
        ("plan --corpus-bytes 1TB --proxy bpe --vocab-size 999", "PROXY=bpe with vocab_size=999: no measured rate"),
        ("plan --corpus-bytes 1TB --format jsonl", "plan: --format and --include say what is read of a corpus"),
        ("plan --corpus-bytes 1TB --include *.py", "plan: --format and --include say what is read of a corpus"),
        ("plan --corpus-bytes 1TB --field body", "plan: options of reading hold for --measure alone"),
    ],
)
def test_bad_options_are_one_line(arguments: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments.split()) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_the_command_prints_lines_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.run(
            ["plan", "--corpus-bytes", "100GB", "--workers", "50", "--price-per-core-hour", "0.04", "--proxy", "gzip"]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "a simulation (not a measurement" in text
    assert text.endswith(", where inputs can be cut: a compressed file is one unit at least\n")
    assert "core-hours" in text
    assert cli.run(["plan", "--corpus-bytes", "100GB", "--json"]) == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert made["units"] == math.ceil(10**11 / (64 * MIB))
    assert made["simulated"] is None


def test_the_table_is_taken_for_the_forms_that_it_has() -> None:
    for proxy, name in (
        (ProxyOptions(), "neural"),
        (ProxyOptions(coder="range"), "neural-range"),
        (ProxyOptions(proxy="bpe"), "bpe"),
        (ProxyOptions(proxy="gzip", bits=12), "gzip"),  # of the neural proxy, which this is not
    ):
        assert rates_of(proxy) == RATES[name]


@pytest.mark.parametrize(
    ("corpus", "coder", "name"), [("site-packages", "codebook", "neural"), ("stdlib", "range", "neural-range")]
)
def test_the_table_is_of_the_shipped_compressor(corpus: str, coder: Any, name: str) -> None:
    """On a sample of what it was measured on; the compressor before was 8 to 11 % off."""
    proxy = ProxyOptions(compressor="pretrained", coder=coder)
    rates = measure(list_corpus(corpus), proxy, ReadOptions(), 3 * MIB)
    assert rates.bytes_per_symbol == pytest.approx(RATES[name].bytes_per_symbol, rel=0.06)
    assert rates.stored_per_raw == pytest.approx(RATES[name].stored_per_raw, rel=0.06)


@pytest.fixture(scope="module")
def two_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, and lines whose text is in a field of an own name, in files of another suffix."""
    folder = tmp_path_factory.mktemp("two-kinds")
    for n in range(40):
        (folder / f"{n}.txt").write_text(f"text {n} " * 1000)
    for n in range(4):
        (folder / f"{n}.lines").write_text("".join(json.dumps({"body": f"line {k} " * 200}) + "\n" for k in range(99)))
    return folder


def test_a_plan_of_a_corpus_reads_what_preprocess_would(two_kinds: Path) -> None:
    texts = sum(path.stat().st_size for path in two_kinds.glob("*.txt"))
    lines = sum(path.stat().st_size for path in two_kinds.glob("*.lines"))

    def plan(**options: Any) -> plan_job.JobPlan:
        return plan_job.plan_job(PlanJobOptions(corpus=str(two_kinds), proxy=ProxyOptions(proxy="identity"), **options))

    assert plan().corpus_bytes == texts + lines
    assert plan(include=("*.txt",)).corpus_bytes == texts
    read = {"include": ("*.lines",), "format": "jsonl", "measure": True}
    measured = plan(**read, read=ReadOptions(field="body"))
    assert measured.corpus_bytes == lines
    assert measured.raw_bytes < lines, "of the field, not of the lines"
    with pytest.raises(UserError, match="no text in a sample"):
        plan(**read, read=ReadOptions(field="nothing"))


class _Counted:
    """A file of an input that counts what is read of it."""

    read_bytes = 0

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        _Counted.read_bytes += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Counted":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[_Counted]:
    """Counts what is read of inputs below `tmp_path`."""
    open_input = inputs.open_input

    def opened(file: inputs.InputFile, **options: Any) -> Any:
        found = open_input(file, **options)
        return _Counted(found) if file.root == str(tmp_path) else found

    monkeypatch.setattr(inputs, "open_input", opened)
    monkeypatch.setattr(_Counted, "read_bytes", 0)
    return _Counted


def _compressed(path: Path, data: bytes) -> int:
    stored = {
        ".gz": lambda: gzip.compress(data, 1),
        ".zst": lambda: zstandard.compress(data, 1),
        ".xz": lambda: lzma.compress(data, preset=0),
    }.get(path.suffix, lambda: data)()
    path.write_bytes(stored)
    return len(stored)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".txt.gz", ".txt.zst", ".txt.xz", ".txt"])
def test_of_a_long_file_that_cannot_be_cut_a_sample_is_measured(
    suffix: str, tmp_path: Path, counted: type[_Counted]
) -> None:
    """With the rates of all of it; nothing else is read of it but what decoders read ahead."""
    rng = random.Random(0)
    lines = [json.dumps({"text": rng.randbytes(800).hex()}) for _ in range(9_000)]
    size = _compressed(tmp_path / f"long{suffix}", "\n".join(lines).encode())
    corpus, read = list_corpus(str(tmp_path)), ReadOptions(max_document_bytes=2 * MIB)
    whole = measure(corpus, ProxyOptions(proxy="identity"), read, 1 << 40)
    counted.read_bytes = 0
    rates = measure(corpus, ProxyOptions(proxy="identity"), read, MIB)
    assert counted.read_bytes < 2.3 * MIB < size / 2
    for name in ("stored_per_raw", "raw_per_input", "document_bytes"):
        assert getattr(rates, name) == pytest.approx(getattr(whole, name), rel=0.1), name


@pytest.mark.parametrize("record_bytes", [400_000, 1_500_000])
def test_of_many_long_files_of_long_records_whole_records_are_measured(tmp_path: Path, record_bytes: int) -> None:
    rng = random.Random(0)
    for n in range(10):
        lines = [json.dumps({"text": rng.randbytes(record_bytes // 2).hex()}) for _ in range(5_000_000 // record_bytes)]
        _compressed(tmp_path / f"{n}.jsonl.gz", "".join(f"{line}\n" for line in lines).encode())
    corpus, read = list_corpus(str(tmp_path)), ReadOptions(max_document_bytes=2 * MIB)
    whole = measure(corpus, ProxyOptions(proxy="identity"), read, 1 << 40)
    rates = measure(corpus, ProxyOptions(proxy="identity"), read, 4 * MIB)
    for name in ("stored_per_raw", "raw_per_input", "document_bytes"):
        assert getattr(rates, name) == pytest.approx(getattr(whole, name), rel=0.02), name


def test_of_a_bomb_little_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "BLOCK_BYTES", 64 << 10)  # else it would take a gigabyte to be longer
    line = json.dumps({"text": "x" * 1000}).encode() + b"\n"
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb") as file:
        for _ in range(100):
            file.write(line * 1000)
    rates = measure(list_corpus(str(tmp_path)), ProxyOptions(proxy="identity"), ReadOptions(), 64 << 10)
    assert rates.measured.endswith("on 1.0 MB of it")


def test_a_damaged_long_file_is_measured_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    lines = [json.dumps({"text": random.Random(n).randbytes(300).hex()}) for n in range(9_000)]
    path = tmp_path / "damaged.jsonl.gz"
    data = gzip.compress("\n".join(lines).encode(), 1)
    path.write_bytes(data[: MIB // 2] + bytes(9999) + data[MIB // 2 :])
    rates = measure(list_corpus(str(tmp_path)), ProxyOptions(proxy="identity"), ReadOptions(), MIB)
    assert rates.document_bytes == pytest.approx(600, rel=0.01)


def test_of_a_mix_what_is_taken_is_planned(two_kinds: Path, tmp_path: Path) -> None:
    mix = tmp_path / "mix.toml"
    mix.write_text(
        f'[corpora.a]\ncorpus = "{two_kinds}"\ninclude = ["*.txt"]\nweight = 1\nmax_bytes = "100kB"\n'
        f'[corpora.b]\ncorpus = "{two_kinds}"\ninclude = ["*.lines"]\nweight = 1\nmax_bytes = "50kB"\n'
    )
    corpus = list_corpus(str(mix))
    plan = plan_job.plan_job(PlanJobOptions(corpus=str(mix)))
    assert plan.corpus_bytes == corpus.taken_bytes < corpus.listed_bytes / 2
    assert plan.units == len(plan_units(corpus))
    assert plan.requests["head"] == 7 * plan.units + sum(len(unit.files) for unit in plan_units(corpus))


def test_make_plan_passes_the_proxys_options_on() -> None:
    given = ["CORPUS_BYTES=3TB", "PROXY=neural", "CODER=range", "BITS=14", "SEGMENTATION=lm", "WORKERS=9"]
    command = ["make", "--no-print-directory", "-n", "plan", *given]  # as a test may be run by make
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    command = shlex.split(made.stdout.splitlines()[-1])
    options = "plan --corpus-bytes 3TB --proxy neural --coder range --bits 14 --segmentation lm --workers 9"
    assert command[-len(options.split()) :] == options.split()
