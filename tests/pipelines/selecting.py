"""Datasets made unit by unit in this process, from whatever is selected: `make` gives the receipts."""

from collections.abc import Callable
from pathlib import Path

from pipelines import dedupe, proxies
from pipelines.commit import read_receipts
from pipelines.job import Job
from pipelines.reading.corpus import Corpus, list_corpus
from pipelines.reading.filters import Filters
from pipelines.reading.plan import PlanOptions, Unit, plan_units
from pipelines.reading.records import ReadOptions
from pipelines.shard import Outcome, encode_shard
from pipelines.storage import Folder
from schemas.manifest import Receipt


def job_of(out: Path, read: ReadOptions | None = None, filters: Filters | None = None, dedupe: bool = False) -> Job:
    proxy = proxies.load("identity:")
    return Job(
        out=Folder(str(out)),
        proxy_uri="identity:",
        fingerprint=proxy.fingerprint,
        read=read or ReadOptions(),
        run_bytes=20_000,
        row_group_bytes=4096,
        filters=filters or Filters(),
        dedupe=dedupe,
    )


def run_each(work: Callable[[Unit], Outcome], units: list[Unit], names: list[str]) -> None:
    assert [work(unit).receipt for unit in units] == names


def make(
    corpus: str | Path | Corpus,
    out: Path,
    *,
    read: ReadOptions | None = None,
    filters: Filters | None = None,
    distinct: bool = False,
    plan: PlanOptions | None = None,
) -> list[Receipt]:
    """The receipts of a dataset of `identity`; `distinct` leaves duplicates out."""
    if not isinstance(corpus, Corpus):
        corpus = list_corpus(str(corpus))
    job = job_of(out, read, filters, distinct)
    units = plan_units(corpus, plan or PlanOptions(unit_bytes=20_000))
    if distinct:
        units = dedupe.drop_duplicates(job, units, run_each)
    for unit in units:
        encode_shard(job, unit)
    return list(read_receipts(job.out, [job.names(unit).receipt for unit in units]))
