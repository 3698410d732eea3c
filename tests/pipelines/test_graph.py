"""The Beam graph holds only what Dask and the portable runners all support, and reaches for no network."""

import socket
from concurrent.futures import Future
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.runners.common import DoFnSignature
from job_runners import units

from pipelines.reading.plan import Unit
from pipelines.runners import beam as graph
from pipelines.runners.environment import difference, environment
from pipelines.runners.local_pool import LocalPool
from pipelines.runners.unit_file import UnitFile
from pipelines.shard import Outcome
from pipelines.storage import Folder

SAME = environment()
FILE = UnitFile(Folder("/nowhere"), "meta/units.bin")


def work(unit: Unit) -> Outcome:
    return Outcome(f"receipts/{unit.index}", False)


@pytest.fixture(scope="module")
def pipeline() -> beam.Pipeline:
    pipeline = beam.Pipeline(options=PipelineOptions([f"--runner={graph.RUNNERS['portable']}"]))
    graph.build(pipeline, graph.DoUnit(work, FILE, SAME), [(at, 1, bytes(16)) for at in range(7)])
    return pipeline


@pytest.fixture(scope="module")
def transforms(pipeline: beam.Pipeline) -> dict[str, Any]:
    return dict(pipeline.to_runner_api().components.transforms)


def test_only_transforms_that_every_runner_has(transforms: dict[str, Any]) -> None:
    primitives = common_urns.primitives
    steps = [one for one in transforms.values() if not one.subtransforms]
    found = {one.spec.urn for one in steps if set(one.inputs.values()) != set(one.outputs.values())}
    assert found == {primitives.IMPULSE.urn, primitives.PAR_DO.urn, primitives.GROUP_BY_KEY.urn}


def test_the_steps_are_of_the_classes_that_dask_translates(pipeline: beam.Pipeline) -> None:
    (root,) = pipeline.transforms_stack
    assert [type(part.transform) for part in root.parts] == [beam.Create, beam.Reshuffle, beam.ParDo]


def test_no_side_inputs_tags_states_or_timers(transforms: dict[str, Any]) -> None:
    steps = [one for one in transforms.values() if one.spec.urn == common_urns.primitives.PAR_DO.urn]
    assert steps
    for step in steps:
        payload = beam.portability.api.beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
        assert not payload.side_inputs
        assert not payload.state_specs
        assert not payload.timer_family_specs
        assert not payload.requires_stable_input
        assert not payload.requests_finalization
        assert not payload.restriction_coder_id
        assert len(step.outputs) == 1
        assert len(step.inputs) == 1


def test_exactly_one_leaf(transforms: dict[str, Any]) -> None:
    consumed = {name for one in transforms.values() for name in one.inputs.values()}
    steps = [one for one in transforms.values() if not one.subtransforms]
    assert [step.unique_name for step in steps if not set(step.outputs.values()) & consumed] == ["work"]


def test_outcomes_are_given_by_process_alone() -> None:
    """Dask drops what a bundle's end gives and never hands over batches."""
    signature = DoFnSignature(graph.DoUnit(work, FILE, SAME))
    assert not signature.is_stateful_dofn()
    assert not signature.is_splittable_dofn()
    for name in ("start_bundle", "finish_bundle", "process_batch"):
        assert getattr(graph.DoUnit, name) is getattr(beam.DoFn, name)


def test_elements_are_places_of_units_alone(transforms: dict[str, Any]) -> None:
    """A document, or a unit with its thousand files, would have to be in the graph's description, which is small."""
    assert sum(one.ByteSize() for one in transforms.values()) < 60_000


def test_a_local_run_opens_no_connection_but_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def connecting(self: socket.socket, address: Any) -> None:
        asked.append(address)
        connect(self, address)

    def resolving(host: Any, *rest: Any, **options: Any) -> Any:
        asked.append((host,))
        return resolve(host, *rest, **options)

    monkeypatch.setattr(socket.socket, "connect", connecting)
    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    done: list[int] = []

    class Here(LocalPool):
        """Notes units instead of doing them."""

        def __init__(self) -> None:
            pass

        def submit(self, work: Any, unit: Unit) -> "Future[None]":
            done.append(unit.index)
            future: Future[None] = Future()
            future.set_result(None)
            return future

    with pytest.raises(OSError, match=r"\[Errno"):  # the watch sees what is done
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    assert asked
    asked.clear()
    graph.run(work, units(5), Folder("/nowhere"), "direct", [], Here())
    assert sorted(done) == list(range(5))
    assert [address for address in asked if address[0] not in ("127.0.0.1", "localhost", "::1", None)] == []


def test_no_runner_is_named_in_the_short_form_that_downloads_another() -> None:
    assert graph.RUNNERS["direct"].endswith(".FnApiRunner")
    assert graph.RUNNERS["dask"].endswith(".DaskRunner")
    assert {"DirectRunner", "PrismRunner", "DaskRunner"}.isdisjoint(graph.RUNNERS.values())


def test_an_environment_is_the_same_as_itself_and_differs_by_name() -> None:
    assert difference(environment()) == ""
    assert difference(environment() | {"pyarrow": "1.0"}) == f"pyarrow {environment()['pyarrow']} instead of 1.0"
    do = graph.DoUnit(work, FILE, SAME)
    do.setup()
    do._expected = environment() | {"this program": "0"}
    with pytest.raises(ValueError, match=r"worker on \S+: has this program [0-9a-f]{12} instead of 0"):
        do.setup()
