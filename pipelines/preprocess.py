"""`python -m pipelines preprocess`: plan, run, and write the manifest last.

Stop it at any moment, in any way; the same command goes on where it was and ends with the same bytes.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import tyro

from pipelines import commit, dataset
from pipelines.dedupe import drop_duplicates
from pipelines.default_out import default_out
from pipelines.job import Job
from pipelines.progress import ProgressReport
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.prepare import choose
from pipelines.proxies.sampler import Sampler
from pipelines.reading.apart import refuse_inside
from pipelines.reading.columns import settled
from pipelines.reading.corpus import Corpus, InputFormat, list_corpus
from pipelines.reading.filters import FilterOptions
from pipelines.reading.inputs import printable
from pipelines.reading.plan import MIB, PlanOptions, Unit, composition, plan_units, row_group_bytes
from pipelines.reading.records import ReadOptions
from pipelines.reject_limit import check_rejects
from pipelines.runners import unit_file
from pipelines.runners.running import RunnerOptions, Work, interruptible, run_units
from pipelines.shard import encode_shard
from pipelines.storage import Folder
from pipelines.summary import lines, summarise
from schemas.errors import FormatVersionError, UserError
from schemas.manifest import Manifest
from schemas.remote import StoreError
from schemas.secrets import redacted
from schemas.shard import shard_schema
from schemas.terminal import visible_lines


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """Turn a corpus into verified Parquet shards with a raw and a comp view.

    Attributes:
        corpus: stdlib, site-packages, a file, folder or glob, any fsspec URL, a dataset of ours, or a .toml file that
            names several corpora with weights and caps (docs/corpora.md).
        out: the dataset's folder, local or a URL; default data/<corpus>-<proxy>.
        proxy: which proxy.
        format: of the inputs; auto goes by file names.
        include: keep only inputs that match one of these patterns.
        read: how documents are read.
        filters: which documents are left out.
        dedupe: of documents with equal bytes keep the first only, over the whole corpus, which is read twice.
        seed: of the order in which the corpus is dealt to shards.
        unit_bytes: input bytes of a work unit, which becomes a shard; default 64 MiB, less for a small corpus.
        row_group_bytes: raw bytes of a row group; default 1 MiB, less for a small corpus.
        prove: decode each comp view and compare before it is written.
        max_reject_fraction: more rejects than this share of the documents, or more of the input's bytes in files that
            cannot be read, fail the job; if far more, before its end.
        runner: where units run.
        overwrite: delete a dataset of another configuration at `out` first (only files that its receipts name); one of
            this configuration is gone on with.
        quiet: no progress, no summary.
    """

    corpus: str = "stdlib"
    out: str | None = None
    proxy: Annotated[ProxyOptions, tyro.conf.arg(name="")] = field(default_factory=ProxyOptions)
    format: InputFormat = "auto"
    include: tuple[str, ...] = ()
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    filters: Annotated[FilterOptions, tyro.conf.arg(name="")] = field(default_factory=FilterOptions)
    dedupe: bool = False
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
    _refuse_no_folder(out)
    corpus = list_corpus(options.corpus, format=options.format, include=options.include)
    refuse_inside(out, corpus)
    _stored(out, options)  # a folder of something else is refused before as much as a lock is put there
    with interruptible(), _locked(out, say):
        job, units, description = _prepare(out, corpus, options, say)
        start = time.monotonic()
        forgotten = unit_file.left_over(out)
        if options.dedupe:
            units = drop_duplicates(job, units, partial(_run, out, options, title="dedupe"))
        names = [job.names(unit).receipt for unit in units]
        progress = _run(out, options, partial(encode_shard, job), units, names)
        out.sweep()  # of workers that died
        out.do_each(out.remove, forgotten)
        dataset.remove_units(out, keep=set(names))  # of a plan that footers since mended made different
        receipts = commit.slim(commit.read_receipts(out, names))
        check_rejects(out, receipts, options.max_reject_fraction)
        manifest = commit.write_manifest(out, description, job.proxy.vocabulary, receipts, names)
        out.remove(commit.ERROR_LOG)
    seconds = time.monotonic() - start
    say("\n".join(lines(summarise(receipts, out.url, units=len(units), job_seconds=seconds, before=progress.before))))
    return manifest


def _run(
    out: Folder, options: PreprocessOptions, work: Work, units: list[Unit], names: list[str], title: str = ""
) -> ProgressReport:
    """Do a piece of work for each unit; the names are of the files that say that a unit is done."""
    sizes = [unit.input_bytes for unit in units]
    progress = ProgressReport(out, names, options.quiet, sizes, title, max_reject_fraction=options.max_reject_fraction)
    run_units(work, units, out, progress, options.runner)
    return progress


def _prepare(
    out: Folder, corpus: Corpus, options: PreprocessOptions, say: Callable[[str], None]
) -> tuple[Job, list[Unit], dict[str, Any]]:
    """Everything before the first unit: refuses another configuration before it writes or deletes anything."""
    plan = PlanOptions(seed=options.seed, unit_bytes=options.unit_bytes)
    stored = _stored(out, options)
    if stored is not None:
        request = {"name": options.proxy.proxy, "request": options.proxy.request()}
        listing = {"digest": corpus.listing_digest, "files": len(corpus.inputs), "bytes": corpus.listed_bytes}
        known = {"corpus": listing, "proxy": request, "plan": {"seed": plan.seed}}
        stored = _same(out, options, stored, known, part=True)
    read, warnings = settled(corpus, options.read)
    filters = options.filters.resolve()
    chosen = choose(options.proxy, Sampler(corpus, read, filters), out, stored, say)
    units = plan_units(corpus, plan)
    job = Job(
        out=out,
        proxy_uri=chosen.proxy.uri,
        fingerprint=chosen.proxy.fingerprint,
        read=read,
        run_bytes=plan.resolved_unit_bytes(corpus.taken_bytes),
        row_group_bytes=options.row_group_bytes or row_group_bytes(corpus.taken_bytes),
        filters=filters,
        dedupe=options.dedupe,
        prove=options.prove,
    )
    shard_schema(read.keep_columns, {})  # refuses names that are taken
    description = dataset.describe(corpus, chosen, job, plan, units)
    if stored is not None:
        stored = _same(out, options, stored, description)
    if stored is not None:
        # Names and versions of the run that began it, whoever goes on; a file mended since may give another plan.
        description = {**stored, "plan": description["plan"]}
    elif options.overwrite:
        dataset.remove(out, replaced=chosen.files)
        dataset.read(out, beside_others=True)
    description = {**description, "max_reject_fraction": options.max_reject_fraction}
    out.sweep()
    installed = chosen.install(out)
    dataset.write(out, description)
    size = f"{len(corpus.inputs):,} files, {corpus.listed_bytes / 1e6:.1f} MB"
    say(f"{redacted(corpus.spec)}: {size} -> {redacted(out.url)}")
    for line in [*composition(corpus.parts, units), *warnings]:
        say(line)
    return replace(job, proxy_uri=installed.uri), units, description


def _refuse_no_folder(out: Folder) -> None:
    if out.url.lower().startswith(("http://", "https://")):
        raise UserError(f"OUT={redacted(out.url)}: cannot be written by HTTP; give a folder or an object store's URL")
    if "::" in out.url:
        raise UserError(f"OUT={redacted(out.url)}: chained URLs are not supported; give the store's own URL")
    if not out.is_local:
        return
    if not out.url.isprintable() or "?" in out.url:  # surrogates of invalid bytes are not
        raise UserError(f"OUT={printable(out.url)!r}: names with '?', control or invalid characters are not supported")
    with suppress(OSError):  # what may not be looked at is told when it is read
        for path in (out.path, *out.path.parents):
            if path.is_file():
                raise UserError(f"OUT={out.url}: {path} is a file; give a folder")


def _stored(out: Folder, options: PreprocessOptions) -> dict[str, Any] | None:
    """The description of the dataset there; under --overwrite none if it is damaged: then it is made anew."""
    try:
        return dataset.read(out, beside_others=options.overwrite)
    except (FormatVersionError, StoreError):
        raise
    except UserError:
        if not options.overwrite:
            raise
        return None


def _same(
    out: Folder, options: PreprocessOptions, stored: dict[str, Any], wanted: dict[str, Any], *, part: bool = False
) -> dict[str, Any] | None:
    """`stored`, if it is of what is asked for; under --overwrite None if not: then it is made anew."""
    try:
        dataset.check_same(out, stored, wanted, part=part)
    except UserError:
        if not options.overwrite:
            raise
        return None
    return stored


def _say(quiet: bool, line: str) -> None:
    if not quiet:
        sys.stderr.write(visible_lines(line) + "\n")
        sys.stderr.flush()


@contextmanager
def _locked(out: Folder, say: Callable[[str], None]) -> Iterator[None]:
    """One job at a time on a local folder; the lock ends with the process, however it ends."""
    if not out.is_local:
        yield
        return
    path = out.path / "meta" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # never truncated, and no link: a dataset of somebody else's may name any file by one
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644), "r+b")
    except OSError as error:
        raise UserError(f"OUT={out.url}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"OUT={out.url}: another preprocess is writing there; wait for it or choose another"
            ) from None
        except OSError as error:  # network file systems need not have locks
            say(f"OUT={out.url}: no lock on this file system ({error.strerror}); run one preprocess at a time there")
        yield
