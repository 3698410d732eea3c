"""The Beam graph: Create(units) | Reshuffle | ParDo(work). Elements are units and outcomes only.

A unit may name a thousand files, which Beam would copy at every step: elements are places in a file of units
(`unit_file`), and for processes of this machine numbers.
Documents never cross a Beam edge; results are on storage when an outcome arrives, so the graph needs nothing
that any runner lacks (no writes, tags, states, side inputs, and no grouping: Dask's costs millions of tasks for ten
thousand units).
"""

import importlib
import io
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import redirect_stderr, suppress

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.reading.plan import Unit
from pipelines.runners.environment import difference, environment
from pipelines.runners.local_pool import LocalPool
from pipelines.runners.unit_file import Place, UnitFile, unit_file
from pipelines.shard import Outcome
from pipelines.storage import Folder
from schemas.errors import UserError

RUNNERS = {
    "direct": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "dask": "apache_beam.runners.dask.dask_runner.DaskRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
    "dataflow": "DataflowRunner",
    "portable": "PortableRunner",
}
"""By full name: the short names of local runners try to download another runner first."""

temporary_folders: list[str] = []
"""Of Beam's pipelines, which remove them at an orderly end; for who ends the process otherwise."""

_pools: dict[int, tuple[LocalPool, Callable[[Unit], Outcome], list[Unit]]] = {}
"""Pools of this process by id, with their work: the local runner pickles what it runs, and a pool cannot be pickled."""


_SERVED = frozenset({"flink", "spark", "portable"})
"""Runners behind a job server, which has options that Beam does not know until it asks there."""


def check(runner: str, options: list[str]) -> None:
    """Refuse options that Beam would drop, or end the process for.

    Args:
        runner: a key of RUNNERS.
        options: Beam's own options for it.

    Raises:
        UserError: a value that is none, or an option that nobody knows.
    """
    for before, word in zip(["", *options], options, strict=False):
        if not word.startswith("--") and (not before.startswith("--") or "=" in before):
            raise UserError(f"--beam-options: {word!r} is no option; write --name=value")
    if runner == "dask":
        with suppress(ModuleNotFoundError):  # told when the cluster is opened
            importlib.import_module("apache_beam.runners.dask.dask_runner")  # which has options of its own
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            given = PipelineOptions(options)
            known, all_given = (given.get_all_options(retain_unknown_options=kept) for kept in (False, True))
    except SystemExit:
        reason = said.getvalue().strip().rpartition("\n")[2].partition("error: ")[2]
        raise UserError(f"--beam-options: {reason or 'not what Beam takes'}") from None
    unknown = sorted(all_given.keys() - known.keys())
    if unknown and runner not in _SERVED:
        raise UserError(f"--beam-options: Beam has no option --{unknown[0]} for RUNNER={runner}; see its documentation")


def run(
    work: Callable[[Unit], Outcome],
    units: list[Unit],
    out: Folder,
    runner: str,
    options: Iterable[str],
    pool: LocalPool | None,
) -> None:
    """Run the units on a runner and wait.

    Args:
        work: for every unit; picklable.
        units: to do.
        out: the dataset's folder, by which they reach workers elsewhere.
        runner: a key of RUNNERS.
        options: Beam's own options for it.
        pool: the processes of the local runner.

    Raises:
        UserError: options that the runner needs are not there, or `out` cannot be written.
    """
    given = PipelineOptions([f"--runner={RUNNERS[runner]}", *options], save_main_session=False)
    try:
        pipeline = beam.Pipeline(options=given)
    except ValueError as error:  # what Beam finds missing
        raise UserError(f"RUNNER={runner}: {' '.join(str(error).split())} See --beam-options") from None
    temporary_folders.append(pipeline.local_tempdir)
    if pool is None:
        with unit_file(out, units) as (file, places):
            build(pipeline, DoUnit(work, file, environment()), places)
            pipeline.run().wait_until_finish()
        return
    _pools[id(pool)] = (pool, work, units)
    try:
        build(pipeline, _DoUnitInPool(id(pool)), range(len(units)))
        pipeline.run().wait_until_finish()
    finally:
        del _pools[id(pool)]


def build(pipeline: beam.Pipeline, do: beam.DoFn, units: Iterable[object]) -> None:
    """Add the graph to a pipeline; `units` are what the DoFn takes."""
    (
        pipeline
        | "units" >> beam.Create(units, reshuffle=False)
        | "spread" >> beam.Reshuffle()
        | "work" >> beam.ParDo(do)
    )


class DoUnit(beam.DoFn):  # type: ignore[misc]
    """Does a unit where Beam puts it, and counts it in the runner's metrics, if it has them."""

    def __init__(self, work: Callable[[Unit], Outcome], file: UnitFile, expected: dict[str, str]) -> None:
        self._work = work
        self._file = file
        self._expected = expected

    def setup(self) -> None:
        """Refuse to work in another environment than the driver's.

        Raises:
            UserError: a version differs.
        """
        differs = difference(self._expected)
        if differs:
            raise UserError(
                f"worker on {socket.gethostname()}: has {differs}; give all workers the same environment "
                "(docs/runners.md)"
            )

    def process(self, place: Place) -> Iterable[Outcome]:
        """Do the unit at a place of the file."""
        outcome = self._work(self._file.read(place))
        for name in ("documents", "raw_bytes", "rejects"):
            Metrics.counter("units", name).inc(getattr(outcome, name))
        Metrics.counter("units", "reused" if outcome.reused else "done").inc()
        Metrics.distribution("units", "milliseconds").update(round(outcome.seconds * 1000))
        yield outcome


class _DoUnitInPool(beam.DoFn):  # type: ignore[misc]
    """Queues all units for the processes of the local runner; Beam's own workers would each get a fixed share."""

    def __init__(self, pool: int) -> None:
        self._pool = pool
        self._waiting: list[Future[None]] = []

    def process(self, number: int) -> None:
        """Queue one unit."""
        pool, work, units = _pools[self._pool]
        self._waiting.append(pool.submit(work, units[number]))

    def finish_bundle(self) -> None:
        """Wait for the queued ones."""
        for future in self._waiting:
            future.result()
        self._waiting = []
