"""`python -m pipelines plan`: what a job of any size takes, from the size of its corpus or a listing of it.

Every number is arithmetic over measured rates (`rates.py`) and the format's own sizes; docs/scale.md has the
formulas and their errors. How workers end unevenly is simulated (`simulate.py`), and said to be.
"""

import io
import json
import math
import sys
from dataclasses import asdict, dataclass, field
from typing import Annotated

import pyarrow.parquet as pq
import tyro

from pipelines.planning.advice import MOST_SIMULATED, TAIL, UNIT_SECONDS, advise, shares_of, uncut_of, unit_times
from pipelines.planning.groups import groups_of_unit
from pipelines.planning.rates import RATES, Rates, measure, rates_of
from pipelines.planning.simulate import HOUR, Simulated, Troubles, simulate, simulate_each
from pipelines.planning.sizes import parse_size, show_size
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.columns import settled
from pipelines.reading.corpus import Corpus, InputFormat, list_corpus
from pipelines.reading.plan import (
    BLOCK_BYTES,
    MIB,
    PlanOptions,
    permuted_blocks,
    row_group_bytes,
    units_of,
)
from pipelines.reading.records import ReadOptions
from schemas.errors import UserError
from schemas.manifest import Receipt, RejectsEntry, RowGroupEntry, ShardEntry
from schemas.shard import REJECTS_SCHEMA, shard_schema
from schemas.terminal import visible

WORKER_MEMORY = 600_000_000
"""Bytes that a worker stays below at the defaults."""

REQUESTS = {"put": 3, "head": 7, "list": 1, "delete": 1, "get": 3}
"""Of a unit beside its input, as counted (docs/storage.md). Of an input a HEAD more, and a GET for each MiB."""

SAMPLE_BYTES = 16 * MIB
"""Of input for --measure: seconds with every proxy but range."""

_INPUT_BYTES = 70
"""Of an input in a receipt: a path of some 35 characters, size, time."""

_GROUP_BYTES = 132
"""Of a row group in the table: digests of 7 columns, 16 bytes each, do not compress; those of columns that are the
same in most groups (piece, group, source) do, and so do places and numbers."""

_CALM = Troubles(spread=0, slow_share=0, failures_per_hour=0)

MOST_WORKERS = 100_000


@dataclass(frozen=True, kw_only=True)
class PlanJobOptions:
    """Say what a preprocessing job takes: units, core-hours, wall time, storage, requests, memory, price.

    Attributes:
        corpus_bytes: of text, like 3.3TB; or give --corpus.
        corpus: a real one, to be listed.
        format: of its inputs; auto goes by file names.
        include: keep only inputs that match one of these patterns.
        read: how its documents are read, for --measure.
        measure: encode a sample of --corpus here instead of taking the table's rates.
        proxy: which proxy.
        workers: cores that work at once; with it, wall time and a simulation.
        price_per_core_hour: in any currency.
        unit_bytes: input bytes of a work unit; default as for preprocess.
        document_bytes: mean size of a document, like 4kB; default that of the corpus that the rates were measured on.
        troubles: of the simulated workers.
        json: print one JSON object.
    """

    corpus_bytes: str | None = None
    corpus: str | None = None
    format: InputFormat = "auto"
    include: tuple[str, ...] = ()
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    measure: bool = False
    proxy: Annotated[ProxyOptions, tyro.conf.arg(name="")] = field(default_factory=ProxyOptions)
    workers: int | None = None
    price_per_core_hour: float | None = None
    unit_bytes: str | None = None
    document_bytes: str | None = None
    troubles: Annotated[Troubles, tyro.conf.arg(name="")] = field(default_factory=Troubles)
    json: bool = False

    def __post_init__(self) -> None:
        if (self.corpus_bytes is None) == (self.corpus is None):
            raise UserError("give --corpus-bytes 3.3TB or --corpus FOLDER, one of them")
        if self.measure and self.corpus is None:
            raise UserError("--measure: give the corpus too: --corpus FOLDER")
        if self.corpus is None and (self.format != "auto" or self.include):
            raise UserError("--format and --include say what is read of a corpus; give it: --corpus FOLDER")
        if not self.measure and self.read != ReadOptions():
            raise UserError("options of reading hold for --measure alone; give it, or leave them out")
        if self.workers is not None and not 1 <= self.workers <= MOST_WORKERS:
            raise UserError(f"--workers {self.workers}: give 1 to {MOST_WORKERS:,}")
        if self.price_per_core_hour is not None and not self.price_per_core_hour >= 0:
            raise UserError(f"--price-per-core-hour {self.price_per_core_hour}: give 0 or more")


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What a job takes. Sizes in bytes.

    Attributes:
        corpus_bytes: as listed; of a mix those that are taken.
        raw_bytes: of its documents.
        units: work units; each leaves a shard, a rejects file and a receipt.
        unit_bytes: input bytes of each at most about.
        row_groups: of all shards.
        uncut: name and bytes of the largest input, or part of one, that no unit size cuts further; None: all can be cut
            into `BLOCK_BYTES`, or the corpus is not listed.
        unit_seconds: mean time of a unit on one worker.
        core_hours: of all units.
        storage: by part.
        requests: on an object store, by kind.
        memory: of all workers.
        wall_seconds: without a slow or failing worker; None: no number of workers was given.
        simulated: with them.
        advised_unit_bytes: the largest that keep the simulated tail below `TAIL`; None: none of 1 to 64 MiB does.
        advised_if_cut: where none does, the largest that would if all inputs could be cut.
        price: of the core-hours.
    """

    corpus_bytes: int
    raw_bytes: int
    proxy: str
    rates: Rates
    units: int
    unit_bytes: int
    row_groups: int
    uncut: tuple[str, int] | None
    unit_seconds: float
    core_hours: float
    core_hours_by_proxy: dict[str, float]
    storage: dict[str, int]
    requests: dict[str, int]
    workers: int | None
    memory: int
    wall_seconds: float | None
    simulated: Simulated | None
    advised_unit_bytes: int | None
    advised_if_cut: int | None
    price: float | None


def run(options: PlanJobOptions) -> None:
    """The `plan` command.

    Raises:
        UserError: sizes that are none, no corpus, no proxy, failures that no unit outlives.
    """
    made = plan_job(options)
    text = json.dumps(asdict(made), indent=1) if options.json else "\n".join(lines(made, options))
    sys.stdout.write(text + "\n")


def plan_job(options: PlanJobOptions) -> JobPlan:
    """The plan.

    Raises:
        UserError: see `run`.
    """
    corpus = None
    if options.corpus is not None:
        corpus = list_corpus(options.corpus, format=options.format, include=options.include)
    rates = _rates(options, corpus)
    listed = corpus.taken_bytes if corpus else parse_size(options.corpus_bytes or "", "--corpus-bytes")
    given = None if options.unit_bytes is None else parse_size(options.unit_bytes, "--unit-bytes")
    plan = PlanOptions(unit_bytes=given)
    unit_bytes = plan.resolved_unit_bytes(listed)
    blocks = permuted_blocks(corpus, plan) if corpus else None
    if blocks is not None:
        planned = units_of(blocks, unit_bytes)
        units = len(planned)
        inputs = sum(len(unit.files) for unit in planned)
    else:
        units = max(1, math.ceil(listed / unit_bytes))
        inputs = units * max(1, round(listed / units / BLOCK_BYTES))  # each block of another file
    raw_bytes = round(listed * rates.raw_per_input)
    document_bytes = rates.document_bytes
    if options.document_bytes is not None:
        document_bytes = parse_size(options.document_bytes, "--document-bytes")
    most = row_group_bytes(listed)
    shares = [1 / units] if blocks is None else shares_of(planned)
    row_groups = round(
        sum(groups_of_unit(raw_bytes * share, document_bytes, most, rates.document_spread) for share in shares)
        * (units / len(shares))
    )
    core_hours = _core_hours(raw_bytes, units, rates)
    workers, uncut = options.workers, uncut_of(blocks)
    wall = simulated = advised = if_cut = None
    if workers is not None:
        if units > MOST_SIMULATED:
            raise UserError(f"--workers: {units:,} units are too many to simulate; give larger --unit-bytes")
        remedy = "smaller --unit-bytes"
        if uncut is not None and uncut[1] > unit_bytes:
            remedy = f"cut {_shown(uncut)} into smaller files"
        seconds = unit_times(raw_bytes, shares, units, rates)
        simulated = simulate(seconds, workers, options.troubles, remedy)
        if blocks is None:
            wall = math.ceil(units / workers) * seconds[0]
        else:
            wall = simulate_each(seconds, workers, _CALM).makespan
        advised = advise(raw_bytes, rates, workers, options.troubles, blocks)
        if advised is None and uncut is not None:
            if_cut = advise(raw_bytes, rates, workers, options.troubles)
    return JobPlan(
        corpus_bytes=listed,
        raw_bytes=raw_bytes,
        proxy=options.proxy.proxy,
        rates=rates,
        units=units,
        unit_bytes=unit_bytes,
        row_groups=row_groups,
        uncut=uncut,
        unit_seconds=core_hours * HOUR / units,
        core_hours=core_hours,
        core_hours_by_proxy={name: _core_hours(raw_bytes, units, one) for name, one in RATES.items()},
        storage=storage_of(raw_bytes, units, row_groups, inputs, rates),
        requests=_requests(listed, units, inputs),
        workers=workers,
        memory=WORKER_MEMORY * (workers or 1),
        wall_seconds=wall,
        simulated=simulated,
        advised_unit_bytes=advised,
        advised_if_cut=if_cut,
        price=None if options.price_per_core_hour is None else core_hours * options.price_per_core_hour,
    )


def storage_of(raw_bytes: int, units: int, row_groups: int, inputs: int, rates: Rates) -> dict[str, int]:
    """Bytes of the dataset's files by part; those beside the shards from the format itself, with made-up values.

    Args:
        raw_bytes: of all documents.
        units: number of shards.
        row_groups: of all shards.
        inputs: files of each unit, summed.
        rates: of the proxy.
    """
    columns = len(shard_schema((), {}))
    group = RowGroupEntry(
        offset=10**7, length=10**6, rows=100, raw_bytes=10**6, comp_symbols=10**5, digests="0" * 32 * columns
    )
    stem = "part-00000-of-00000-00000000"
    shard = ShardEntry(
        name=f"{stem}.parquet",
        size=10**7,
        sha256="0" * 64,
        footer_digest="0" * 64,
        content_digest="0" * 64,
        rows=10**4,
        raw_bytes=10**7,
        comp_symbols=10**7,
        row_groups=64,
    )
    rejects = RejectsEntry(name=f"rejects/{stem}.parquet", size=10**3, sha256="0" * 64, rows=0)
    receipt = Receipt(
        unit=0,
        units=units,
        unit_digest="0" * 64,
        shard=shard,
        rejects=rejects,
        documents=10**4,
        escaped_bytes=0,
        rejected={},
        inputs=[],
        row_groups=[],
        seconds=dict.fromkeys(("read", "encode", "prove", "write", "digest"), 1.2345),
    )
    return {
        "shards": round(raw_bytes * rates.stored_per_raw),
        "rejects": units * _empty_rejects(),
        "receipts": units * len(receipt.to_bytes())
        + row_groups * (len(json.dumps(asdict(group))) + 4)
        + inputs * _INPUT_BYTES,
        "row-group table": row_groups * _GROUP_BYTES,
        "manifest": units * (len(json.dumps(asdict(shard))) + len(json.dumps(asdict(rejects))) + 8),
    }


def _empty_rejects() -> int:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, REJECTS_SCHEMA, compression="zstd"):
        pass
    return buffer.getbuffer().nbytes


def _shown(uncut: tuple[str, int]) -> str:
    return f"{visible(uncut[0])} ({show_size(uncut[1])})"


def lines(plan: JobPlan, options: PlanJobOptions) -> list[str]:
    """For people."""
    rates = plan.rates
    uncut = plan.uncut if plan.uncut is not None and plan.uncut[1] > plan.unit_bytes else None
    symbols = "" if rates.bytes_per_symbol is None else f", {plan.raw_bytes / rates.bytes_per_symbol:.3g} symbols"
    text = [
        f"corpus: {show_size(plan.corpus_bytes)} listed, {show_size(plan.raw_bytes)} raw{symbols}",
        f"rates of {plan.proxy}: {rates.mb_per_second:.1f} MB/s a worker, {rates.stored_per_raw:.3f} stored/raw "
        f"(measured: {rates.measured})",
        f"units: {plan.units:,} of {show_size(plan.unit_bytes)} at most about, {plan.unit_seconds:.1f} s each"
        + ("" if uncut is None else f" in the mean; of {_shown(uncut)}, which cannot be cut, one")
        + f"; as many shards, {plan.row_groups:,} row groups",
        f"core-hours: {_hours(plan.core_hours)}" + ("" if plan.price is None else f", price {plan.price:,.2f}"),
        "  by proxy: " + ", ".join(f"{name} {_hours(hours)}" for name, hours in plan.core_hours_by_proxy.items()),
        "storage: "
        + show_size(sum(plan.storage.values()))
        + " ("
        + ", ".join(f"{part} {show_size(size)}" for part, size in plan.storage.items())
        + ")",
        "requests on an object store: " + ", ".join(f"{kind} {count:,}" for kind, count in plan.requests.items()),
        f"memory: {show_size(plan.memory)} ({show_size(WORKER_MEMORY)} a worker)",
    ]
    if plan.workers is None or plan.simulated is None or plan.wall_seconds is None:
        return [*text, "wall time: give --workers n"]
    seen, troubles = plan.simulated, options.troubles
    text += [
        f"wall time with {plan.workers:,} workers: {show_time(plan.wall_seconds)} if all are alike and none fails",
        f"a simulation (not a measurement; seed {troubles.simulation_seed}): {troubles.slow_share:.0%} of the workers "
        f"{troubles.slow_factor:g} times as slow, {troubles.failures_per_hour:g} failures an hour each, unit times "
        f"spread by {troubles.spread:.0%}, {'with' if troubles.copies else 'without'} copies of late units:",
        f"  {show_time(seen.makespan)} against {show_time(seen.ideal)} ideal; {seen.utilisation:.1%} of the workers' "
        f"time used; tail {seen.tail:.1%}",
        f"  failures: {seen.failures:,}, {seen.lost_seconds / HOUR:.2f} core-hours redone; copies: {seen.copies:,}, "
        f"{seen.copy_seconds / HOUR:.2f} core-hours",
    ]
    if plan.advised_unit_bytes is None:
        remedy = "use fewer workers"
        if plan.uncut is not None and plan.advised_if_cut is not None:
            cut = f"cut {_shown(plan.uncut)} and its like into files of {show_size(plan.advised_if_cut)}"
            remedy = f"{cut} or less, or {remedy}"
        return [*text, f"  a tail below {TAIL:.0%}: no unit size gives it; {remedy}"]
    known = "" if options.corpus is not None else ", where inputs can be cut: a compressed file is one unit at least"
    return [*text, f"  largest units with a tail below {TAIL:.0%}: --unit-bytes {plan.advised_unit_bytes}{known}"]


def show_time(seconds: float) -> str:
    """In the unit that suits."""
    for name, size in (("days", 24 * HOUR), ("h", HOUR), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2g}"


def _rates(options: PlanJobOptions, corpus: Corpus | None) -> Rates:
    if corpus is None or not options.measure:
        return rates_of(options.proxy)
    return measure(corpus, options.proxy, settled(corpus, options.read)[0], SAMPLE_BYTES)


def _core_hours(raw_bytes: float, units: int, rates: Rates) -> float:
    return (raw_bytes / 1e6 / rates.mb_per_second + units * UNIT_SECONDS) / HOUR


def _requests(listed: int, units: int, inputs: int) -> dict[str, int]:
    requests = {kind: units * count for kind, count in REQUESTS.items()}
    requests["head"] += inputs
    requests["get"] += math.ceil(listed / MIB)
    return requests
