"""`python -m pipelines summary`: what a dataset's receipts say of the job that made it, finished or not.

`summarise(receipts) -> Summary` goes once over any number of receipts and holds sums and the slowest units;
`lines(summary)` and `table(summary)` show them in a log and on a terminal. Seconds are those of the workers'
stages, from whichever run made a unit; wall time is known only to the job that is running.
"""

import heapq
import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import commit, dataset
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Receipt
from schemas.names import DATASET
from schemas.secrets import redacted
from schemas.terminal import visible

SLOWEST = 5
"""Units that are named."""

QUERY = (
    'from "{shards}" select "group", count(*) as documents, sum(raw_bytes) as raw_bytes, '
    "round(sum(raw_bytes) / nullif(sum(comp_symbols), 0), 3) as bytes_per_symbol group by all order by raw_bytes desc"
)
"""Shows a dataset by groups in any DuckDB, without this program."""


@dataclass(frozen=True, kw_only=True)
class SummaryOptions:
    """Say what a job did: documents, rejects, speed, stages, slowest units.

    Attributes:
        data: the dataset's folder, local or a URL; it need not be finished.
        json: print one JSON object.
    """

    data: str = "data/stdlib-neural"
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class SlowUnit:
    """A unit that took long.

    Attributes:
        unit: its index.
        seconds: of all its stages.
        mb_per_second: of raw bytes, 1e6 bytes each.
        largest_input: path of the largest file that it read from; empty if it read none.
        largest_input_bytes: its stored size, of which the unit may have read a part only.
    """

    unit: int
    seconds: float
    mb_per_second: float
    largest_input: str
    largest_input_bytes: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Sums over the receipts that are there.

    Attributes:
        place: the dataset's folder, without credentials.
        units_done: number of receipts.
        units: of the plan.
        rejected: rejects by reason.
        filtered: documents left out, by filter.
        seconds: of workers, by stage.
        job_seconds: wall time of the run that just ended; None: not known.
        job_raw_bytes: raw bytes of the units which that run made.
        slowest: longest first.
        damaged: receipts that cannot be read; their units will be redone.
    """

    place: str
    units_done: int = 0
    units: int = 0
    documents: int = 0
    rows: int = 0
    row_groups: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    raw_bytes: int = 0
    stored_bytes: int = 0
    comp_symbols: int = 0
    escaped_bytes: int = 0
    dropped_bytes: int = 0
    retries: int = 0
    lost_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    job_seconds: float | None = None
    job_raw_bytes: int = 0
    slowest: list[SlowUnit] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def rejects(self) -> int:
        """All rejects."""
        return sum(self.rejected.values())

    @property
    def worker_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())

    @property
    def mb_per_second_a_worker(self) -> float | None:
        """Raw bytes / 1e6 by seconds of work."""
        return _ratio(self.raw_bytes / 1e6, self.worker_seconds)

    @property
    def mb_per_second(self) -> float | None:
        """Of the job: what the run that just ended made in its wall time, start-up included."""
        return None if self.job_seconds is None else _ratio(self.job_raw_bytes / 1e6, self.job_seconds)

    @property
    def bytes_per_symbol(self) -> float | None:
        """Of the comp views."""
        return _ratio(self.raw_bytes, self.comp_symbols)

    @property
    def stored_per_raw(self) -> float | None:
        """Bytes of the shards by raw bytes."""
        return _ratio(self.stored_bytes, self.raw_bytes)

    def to_json(self) -> dict[str, Any]:
        """All fields and ratios."""
        ratios = ("rejects", "mb_per_second_a_worker", "mb_per_second", "bytes_per_symbol", "stored_per_raw")
        return {**asdict(self), **{name: getattr(self, name) for name in ratios}, "query": query(self.place)}


def summarise(
    receipts: Iterable[Receipt],
    place: str,
    *,
    units: int | None = None,
    job_seconds: float | None = None,
    before: frozenset[str] = frozenset(),
) -> Summary:
    """Sum up receipts.

    Args:
        receipts: gone over once.
        place: the dataset's folder or URL.
        units: of the plan; None: as the receipts say.
        job_seconds: wall time of a run that made those of them that are not in `before`.
        before: names of receipts that were there when it began.
    """
    sums: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    filtered: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    slowest: list[tuple[float, int, SlowUnit]] = []
    planned = units or 0
    for receipt in receipts:
        planned = units or receipt.units
        sums.update(
            units_done=1,
            documents=receipt.documents,
            rows=receipt.shard.rows,
            row_groups=receipt.shard.row_groups,
            duplicates=receipt.duplicates,
            raw_bytes=receipt.shard.raw_bytes,
            stored_bytes=receipt.shard.size,
            comp_symbols=receipt.shard.comp_symbols,
            escaped_bytes=receipt.escaped_bytes,
            dropped_bytes=receipt.dropped_bytes,
            retries=receipt.retries,
            lost_bytes=receipt.lost_bytes,
        )
        if job_seconds is not None and f"receipts/{Path(receipt.shard.name).stem}.json" not in before:
            sums["job_raw_bytes"] += receipt.shard.raw_bytes
        rejected.update(receipt.rejected)
        filtered.update(receipt.filtered)
        for stage, spent in receipt.seconds.items():
            seconds[stage] += spent
        slow = _slow_unit(receipt)
        heapq.heappush(slowest, (slow.seconds, -slow.unit, slow))
        if len(slowest) > SLOWEST:
            heapq.heappop(slowest)
    counted: dict[str, Any] = dict(sums)
    return Summary(
        place=redacted(place),
        units=planned,
        rejected=dict(sorted(rejected.items())),
        filtered=dict(sorted(filtered.items())),
        seconds={stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
        job_seconds=job_seconds,
        slowest=[slow for _, _, slow in sorted(slowest, reverse=True)],
        **counted,
    )


def _slow_unit(receipt: Receipt) -> SlowUnit:
    seconds = sum(receipt.seconds.values())
    path, size, _ = receipt.largest_input
    return SlowUnit(
        unit=receipt.unit,
        seconds=round(seconds, 3),
        mb_per_second=round(receipt.shard.raw_bytes / 1e6 / seconds, 3) if seconds else 0.0,
        largest_input=path,
        largest_input_bytes=size,
    )


def summary_of(data: str) -> Summary:
    """The summary of a dataset, finished or not.

    Raises:
        UserError: there is none, or its description is damaged.
    """
    folder = Folder(data)
    described = dataset.read_or_none(folder)
    if described is None:
        raise UserError(f"DATA={data}: no {DATASET} there; make a dataset with: make preprocess OUT={data}")
    damaged: list[str] = []
    receipts = commit.read_receipts(folder, commit.receipt_names(folder), damaged)
    return replace(summarise(receipts, data, units=described["plan"]["units"]), damaged=damaged)


def query(place: str) -> str:
    """SQL that shows a dataset by groups, for any DuckDB."""
    return QUERY.format(shards=f"{place.rstrip('/')}/*.parquet".replace('"', '""'))


def lines(summary: Summary) -> list[str]:
    """The summary as plain lines."""
    one = summary
    state = "" if one.units_done == one.units else f" ({one.units_done:,} of {one.units:,} units: not finished)"
    text = [
        f"{one.place}: {one.rows:,} documents in {one.units_done:,} shards, {one.raw_bytes / 1e6:.1f} MB raw, "
        f"{one.stored_bytes / 1e6:.1f} MB stored{_percent(one.stored_per_raw)}{state}",
        f"  rejects: {one.rejects:,}{_listed(one.rejected)}"
        + (f"; {one.lost_bytes / 1e6:,.1f} MB of input not read" if one.lost_bytes else ""),
    ]
    if one.duplicates or one.filtered:
        text.append(f"  left out: duplicates {one.duplicates:,}{_listed(one.filtered)}")
    if one.bytes_per_symbol is not None:
        text.append(
            f"  comp view: {one.comp_symbols:,} symbols, {one.bytes_per_symbol:.3f} bytes a symbol"
            + (f", {one.escaped_bytes / one.raw_bytes:.2%} of bytes escaped" if one.escaped_bytes else "")
            + (f", {one.dropped_bytes / one.raw_bytes:.2%} of bytes dropped" if one.dropped_bytes else "")
        )
    if one.mb_per_second_a_worker is not None:
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in _shares(one))
        job = ""
        if one.job_seconds is not None:
            job = f"{one.job_seconds:.1f} s, {one.mb_per_second or 0:.1f} MB/s; "
        text.append(f"  {job}{one.mb_per_second_a_worker:.1f} MB/s a worker ({shares})")
    for slow in one.slowest[:1]:
        text.append(f"  slowest unit: {_slow_text(slow)}")
    if one.retries:
        text.append(f"  remote calls made again: {one.retries:,}")
    if one.damaged:
        text.append(f"  damaged receipts: {len(one.damaged):,}, {one.damaged[0]}")
    data = f"DATA={shlex.quote(one.place)}"
    text.append(f"  next: make verify {data}   make inspect {data}   make summary {data}")
    if one.rows:
        text.append(f"  see it: make sql {data} Q={shlex.quote(query(one.place))}   (Q runs in any DuckDB)")
    return text


def table(summary: Summary) -> list[Table]:
    """Stages and slowest units as tables for a terminal."""
    stages = Table("stage", "worker seconds", "share", title="where the time went", title_justify="left")
    for stage, share in _shares(summary):
        stages.add_row(stage, f"{summary.seconds[stage]:,.1f}", f"{share:.0%}")
    slowest = Table("unit", "seconds", "MB/s", "largest input", "its MB", title="slowest units", title_justify="left")
    for slow in summary.slowest:
        size = f"{slow.largest_input_bytes / 1e6:,.1f}"
        source = Text(visible(slow.largest_input))  # a name may look like markup
        slowest.add_row(str(slow.unit), f"{slow.seconds:,.1f}", f"{slow.mb_per_second:.1f}", source, size)
    return [one for one in (stages, slowest) if one.row_count]


def run(options: SummaryOptions) -> None:
    """The `summary` command.

    Raises:
        UserError: see `summary_of`.
    """
    summary = summary_of(options.data)
    if options.json:
        sys.stdout.write(json.dumps(summary.to_json(), indent=1) + "\n")
        return
    if sys.stdout.isatty():
        console = Console()
        for one in table(summary):
            console.print(one)
    sys.stdout.write("\n".join(lines(summary)) + "\n")


def _ratio(one: float, other: float) -> float | None:
    return one / other if other else None


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.1%})"


def _listed(counts: dict[str, int]) -> str:
    return "".join(f", {name} {count:,}" for name, count in counts.items())


def _shares(summary: Summary) -> list[tuple[str, float]]:
    total = summary.worker_seconds
    longest = sorted(summary.seconds.items(), key=lambda item: -item[1])
    return [(stage, spent / total) for stage, spent in longest] if total else []


def _slow_text(slow: SlowUnit) -> str:
    source = f", largest input {visible(slow.largest_input)} ({slow.largest_input_bytes / 1e6:.1f} MB)"
    text = f"{slow.unit}, {slow.seconds:.1f} s, {slow.mb_per_second:.1f} MB/s"
    return text + (source if slow.largest_input else "")
