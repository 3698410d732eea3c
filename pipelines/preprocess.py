"""`python -m pipelines preprocess`: plan, run, and write the manifest last.

Stop it at any moment, in any way; the same command goes on where it was and ends with the same bytes.
"""

import fcntl
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import tyro

from pipelines import commit, dataset
from pipelines.corpus import Corpus, InputFormat, list_corpus
from pipelines.default_out import default_out
from pipelines.job import Job
from pipelines.plan import MIB, PlanOptions, Unit, plan_units, row_group_bytes
from pipelines.progress import ProgressReport
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.prepare import choose
from pipelines.proxies.sampler import Sampler
from pipelines.records import ReadOptions
from pipelines.running import RunnerOptions, interruptible, run_units
from pipelines.shard import encode_shard
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Manifest, Receipt
from schemas.remote import is_remote
from schemas.shard import shard_schema


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """Turn a corpus into verified Parquet shards with a raw and a comp view.

    Attributes:
        corpus: stdlib, site-packages, a file, folder or glob, or any fsspec URL.
        out: the dataset's folder, local or a URL; default data/<corpus>-<proxy>.
        proxy: which proxy.
        format: of the inputs; auto goes by file names.
        include: keep only inputs that match one of these patterns.
        read: how documents are read.
        seed: of the order in which the corpus is dealt to shards.
        unit_bytes: input bytes of a work unit, which becomes a shard; default 64 MiB, less for a small corpus.
        row_group_bytes: raw bytes of a row group; default 1 MiB, less for a small corpus.
        prove: decode each comp view and compare before it is written.
        max_reject_fraction: more rejects than this share of the documents fail the job.
        runner: where units run.
        overwrite: delete a dataset of another configuration at `out` first (only files that its receipts name).
        quiet: no progress, no summary.
    """

    corpus: str = "stdlib"
    out: str | None = None
    proxy: Annotated[ProxyOptions, tyro.conf.arg(name="")] = field(default_factory=ProxyOptions)
    format: InputFormat = "auto"
    include: tuple[str, ...] = ()
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    seed: int = 0
    unit_bytes: int | None = None
    row_group_bytes: int | None = None
    prove: bool = True
    max_reject_fraction: float = 0.01
    runner: Annotated[RunnerOptions, tyro.conf.arg(name="")] = field(default_factory=RunnerOptions)
    overwrite: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_reject_fraction <= 1:
            raise UserError(f"--max-reject-fraction {self.max_reject_fraction}: give a share between 0 and 1")
        if self.row_group_bytes is not None and not 1 <= self.row_group_bytes <= 64 * MIB:
            raise UserError(f"--row-group-bytes {self.row_group_bytes}: give 1 byte to 64 MiB")

    def out_or_default(self) -> str:
        """`out`, or as `default_out` names it."""
        if self.out is not None:
            return self.out
        return default_out(self.corpus, self.proxy.proxy, self.proxy.form)


def preprocess(options: PreprocessOptions) -> Manifest:
    """Run the job.

    Raises:
        UserError: anything that the user can mend, in one line.
    """
    say = partial(_say, options.quiet)
    out = Folder(options.out_or_default())
    corpus = list_corpus(options.corpus, format=options.format, include=options.include)
    _refuse_inside(out, corpus)
    if not options.overwrite:
        dataset.read(out)  # a folder of something else is refused before as much as a lock is put there
    with interruptible(), _locked(out):
        job, units, description = _prepare(out, corpus, options, say)
        say(f"{corpus.spec}: {len(corpus.inputs):,} files, {corpus.listed_bytes / 1e6:.1f} MB -> {out.url}")
        start = time.monotonic()
        names = [job.receipt_name(unit) for unit in units]
        run_units(partial(encode_shard, job), units, out, ProgressReport(out, names, options.quiet), options.runner)
        out.sweep()  # of workers that died
        dataset.remove_units(out, keep=set(names))  # of a plan that footers since mended made different
        receipts = commit.slim(commit.read_receipts(out, names))
        _check_rejects(out, receipts, options.max_reject_fraction)
        manifest = commit.write_manifest(out, description, job.proxy.vocabulary, receipts, names)
        out.remove(commit.ERROR_LOG)
    say(_summary(out, manifest, receipts, time.monotonic() - start))
    return manifest


def _prepare(
    out: Folder, corpus: Corpus, options: PreprocessOptions, say: Callable[[str], None]
) -> tuple[Job, list[Unit], dict[str, Any]]:
    """Everything before the first unit: refuses another configuration before it writes or deletes anything."""
    plan = PlanOptions(seed=options.seed, unit_bytes=options.unit_bytes)
    stored = None if options.overwrite else dataset.read(out)
    if stored is not None:
        request = {"name": options.proxy.proxy, "request": options.proxy.request()}
        listing = {"digest": corpus.listing_digest, "files": len(corpus.inputs), "bytes": corpus.listed_bytes}
        known = {"corpus": listing, "proxy": request, "plan": {"seed": plan.seed}}
        dataset.check_same(out, stored, known)
    chosen = choose(options.proxy, Sampler(corpus, options.read), out, stored, say)
    units = plan_units(corpus, plan)
    job = Job(
        out=out,
        proxy_uri=chosen.proxy.uri,
        fingerprint=chosen.proxy.fingerprint,
        read=options.read,
        run_bytes=plan.resolved_unit_bytes(corpus.listed_bytes),
        row_group_bytes=options.row_group_bytes or row_group_bytes(corpus.listed_bytes),
        prove=options.prove,
    )
    shard_schema(options.read.keep_columns, {})  # refuses names that are taken
    description = dataset.describe(corpus, chosen, job, plan, units)
    if stored is not None:
        dataset.check_same(out, stored, description)
        description = stored  # names and versions of the run that began it, whoever goes on
    if options.overwrite:
        dataset.remove(out)
        dataset.read(out, beside_others=True)
    out.sweep()
    installed = chosen.install(out)
    dataset.write(out, description)
    return replace(job, proxy_uri=installed.uri), units, description


def _check_rejects(out: Folder, receipts: list[Receipt], limit: float) -> None:
    totals = commit.totals_of(receipts)
    if totals.rejects <= limit * totals.documents:
        return
    reasons: Counter[str] = Counter()
    for receipt in receipts:
        reasons.update(receipt.rejected)
    listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(5))
    raise UserError(
        f"{totals.rejects:,} of {totals.documents:,} documents were rejected, more than --max-reject-fraction "
        f"{limit:g} allows: {listed}{_example(out, receipts)}; look at them (make sql DATA={shlex.quote(out.url)} "
        "Q='from rejects'), then mend the corpus or allow more: what is done is kept"
    )


def _example(out: Folder, receipts: list[Receipt]) -> str:
    """One reject in words."""
    name = next((receipt.rejects.name for receipt in receipts if receipt.rejects.rows), None)
    if name is None:
        return ""
    with out.open(name) as file:
        row = pq.read_table(file, pre_buffer=False).slice(0, 1).to_pylist()[0]
    return f" (for example {row['source']}, record {row['record']}: {row['detail']})"


def _summary(out: Folder, manifest: Manifest, receipts: list[Receipt], seconds: float) -> str:
    totals = manifest.totals
    lines = [
        f"{out.url}: {totals.rows:,} documents in {len(manifest.shards)} shards, {totals.raw_bytes / 1e6:.1f} MB raw, "
        f"{totals.stored_bytes / 1e6:.1f} MB stored",
        f"  rejects: {totals.rejects:,}"
        + "".join(f", {reason} {count:,}" for reason, count in sorted(manifest.rejected.items())),
    ]
    if totals.comp_symbols:
        lines.append(
            f"  comp view: {totals.comp_symbols:,} symbols, {totals.raw_bytes / totals.comp_symbols:.3f} bytes a symbol"
            + (f", {totals.escaped_bytes / totals.raw_bytes:.2%} of bytes escaped" if totals.escaped_bytes else "")
            + (f", {totals.dropped_bytes / totals.raw_bytes:.2%} of bytes dropped" if totals.dropped_bytes else "")
        )
    stages: dict[str, float] = defaultdict(float)
    for receipt in receipts:
        for stage, spent in receipt.seconds.items():
            stages[stage] += spent
    work = sum(stages.values())
    if work:
        shares = ", ".join(f"{stage} {spent / work:.0%}" for stage, spent in stages.items())
        lines.append(f"  {seconds:.1f} s; {totals.raw_bytes / 1e6 / work:.1f} MB/s a worker ({shares})")
    data = f"DATA={shlex.quote(out.url)}"
    lines.append(f"  next: make verify {data}   make sql {data}   make inspect {data}")
    return "\n".join(lines)


def _say(quiet: bool, line: str) -> None:
    if not quiet:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _refuse_inside(out: Folder, corpus: Corpus) -> None:
    """A dataset inside a folder that is a corpus would be part of the corpus the next time."""
    for root in {file.root for file in corpus.inputs}:
        if is_remote(root) or not out.is_local:
            root_url = root.rstrip("/")
            inside = root_url == corpus.spec.rstrip("/") and out.url.startswith(f"{root_url}/")
        else:
            place = out.path.resolve()
            walked = Path(corpus.spec).is_dir() or "**" in corpus.spec
            inside = walked and (place == Path(root).resolve() or Path(root).resolve() in place.parents)
        if inside:
            raise UserError(f"OUT={out.url} lies inside the corpus {root}; choose a folder outside of it")


@contextmanager
def _locked(out: Folder) -> Iterator[None]:
    """One job at a time on a local folder; the lock ends with the process, however it ends."""
    if not out.is_local:
        yield
        return
    path = out.path / "meta" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(f"OUT={out.url}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"OUT={out.url}: another preprocess is writing there; wait for it or choose another"
            ) from None
        yield
