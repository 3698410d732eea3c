"""The Beam graph: Create(units) | Reshuffle | ParDo(work) | GroupBy. Elements are units and outcomes only.

Documents never cross a Beam edge; results are on storage when an element arrives, so the graph needs nothing
that any runner lacks (no writes, tags, states or side inputs).
"""

from collections.abc import Callable, Iterable

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.local_pool import LocalPool
from pipelines.plan import Unit
from pipelines.shard import Outcome

RUNNERS = {
    "direct": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "dask": "apache_beam.runners.dask.dask_runner.DaskRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
    "dataflow": "DataflowRunner",
}
"""By full name: the short names of local runners try to download another runner first."""

temporary_folders: list[str] = []
"""Of Beam's pipelines, which remove them at an orderly end; for who ends the process otherwise."""

_pools: dict[int, LocalPool] = {}
"""Pools of this process by id: the local runner pickles what it runs, and a pool cannot be pickled."""


def run(
    work: Callable[[Unit], Outcome],
    units: list[Unit],
    runner: str,
    options: Iterable[str],
    pool: LocalPool | None,
    workers: int,
) -> None:
    """Run the units on a runner and wait.

    Args:
        work: for every unit; picklable.
        units: to do.
        runner: a key of RUNNERS.
        options: Beam's own options for it.
        pool: the processes of the local runner.
        workers: units at a time on the local runner.
    """
    arguments = [f"--runner={RUNNERS[runner]}", *options]
    if pool is not None:
        _pools[id(pool)] = pool
        arguments += ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
    if runner == "dask":
        arguments.append(f"--dask_npartitions={len(units)}")
    pipeline = beam.Pipeline(options=PipelineOptions(arguments, save_main_session=False))
    temporary_folders.append(pipeline.local_tempdir)
    build(pipeline, work, units, None if pool is None else id(pool))
    try:
        pipeline.run().wait_until_finish()
    finally:
        if pool is not None:
            del _pools[id(pool)]


def build(pipeline: beam.Pipeline, work: Callable[[Unit], Outcome], units: list[Unit], pool: int | None) -> None:
    """Add the graph to a pipeline."""
    (
        pipeline
        | "units" >> beam.Create(units, reshuffle=False)
        | "spread" >> beam.Reshuffle()
        | "work" >> beam.ParDo(_DoUnit(work, pool))
        | "gather" >> beam.GroupBy(lambda outcome: outcome.reused)
    )


class _DoUnit(beam.DoFn):  # type: ignore[misc]
    """A thin caller of the work."""

    def __init__(self, work: Callable[[Unit], Outcome], pool: int | None) -> None:
        self._work = work
        self._pool = pool

    def process(self, unit: Unit) -> Iterable[Outcome]:
        """Do one unit."""
        if self._pool is None:
            yield self._work(unit)
            return
        outcome = _pools[self._pool].run(self._work, unit)
        if outcome is not None:
            yield outcome
