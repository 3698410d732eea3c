"""What a run says of itself while it goes, and what it does when something is wrong with its numbers."""

import gzip
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_runs import losses, options_for

from schemas.errors import UserError
from trainer.checkpoints.restore import restore
from trainer.data.dataset import Dataset
from trainer.data.held_out import sampled
from trainer.data.views import Mode
from trainer.evaluate.blocks import blocks_of
from trainer.evaluate.bpb import code_length
from trainer.model.heads import Loss, reweighted
from trainer.plot import PlotOptions, plot
from trainer.run_log import read_metrics
from trainer.spikes import BAD_STEPS, ENOUGH, WINDOW, StepGuard
from trainer.trainer import Trainer
from trainer.validate import Validation


class TestGuard:
    def test_a_norm_far_above_the_median_is_a_spike(self) -> None:
        guard = StepGuard(10.0, skip_spikes=False)
        norms = [1.0 + (n % 7) / 10 for n in range(ENOUGH)]
        assert all(guard.judge(n, 1.0, norm) == (True, False) for n, norm in enumerate(norms))
        median = statistics.median(norms)
        assert guard.judge(50, 1.0, 9.9 * median) == (True, False)
        assert guard.judge(51, 1.0, 11 * median) == (True, True)
        assert StepGuard(10.0, skip_spikes=True).judge(0, 1.0, 1e9) == (True, False)  # nothing to compare with yet

    def test_a_run_may_leave_spikes_out(self) -> None:
        guard = StepGuard(3.0, skip_spikes=True)
        for n in range(ENOUGH):
            guard.judge(n, 1.0, 1.0)
        assert guard.judge(99, 1.0, 3.5) == (False, True)
        assert guard.judge(100, 1.0, 1.0) == (True, False)

    def test_norms_that_stay_high_are_soon_the_usual(self) -> None:
        guard = StepGuard(3.0, skip_spikes=False)
        for n in range(WINDOW):
            guard.judge(n, 1.0, 1.0)
        judged = [guard.judge(n, 1.0, 10.0)[1] for n in range(WINDOW)]
        assert judged[0]
        assert not judged[-1]

    @pytest.mark.parametrize("bad", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
    def test_what_is_not_finite_is_left_out_and_ends_the_run_if_it_stays(self, bad: tuple[float, float]) -> None:
        guard = StepGuard(10.0, skip_spikes=False)
        for _ in range(3):
            for step in range(BAD_STEPS - 1):
                assert guard.judge(step, *bad) == (False, False)
            assert guard.judge(5, 1.0, 1.0) == (True, False)
        for step in range(BAD_STEPS - 1):
            guard.judge(step, *bad)
        with pytest.raises(UserError, match=r"step 9: the loss is .* not finite 3 times in a row.*lower --peak-rate"):
            guard.judge(9, *bad)

    @given(st.lists(st.sampled_from([0.5, 1.0, 40.0, math.nan]), max_size=200), st.integers(0, 200), st.booleans())
    def test_a_resumed_guard_judges_the_same(self, norms: list[float], cut: int, skip: bool) -> None:
        def judge(guard: StepGuard, some: list[float]) -> list[Any]:
            found: list[Any] = []
            for norm in some:
                try:
                    found.append(guard.judge(0, 1.0, norm))
                except UserError:
                    found.append("ended")
            return found

        whole, first, second = (StepGuard(10.0, skip_spikes=skip) for _ in range(3))
        expected = judge(whole, norms)
        before = judge(first, norms[:cut])
        second.load_state(json.loads(json.dumps(first.state())))
        assert before + judge(second, norms[cut:]) == expected


def poisoned(trainer: Trainer, steps: tuple[int, ...]) -> None:
    """Give the trainer's model a loss that is not a number at some steps."""
    loss = trainer.model.loss

    def bad_loss(*arguments: Any) -> Loss:
        found = loss(*arguments)
        return found._replace(total=found.total * math.nan) if trainer.step in steps else found

    trainer.model.loss = bad_loss


def test_a_bad_step_changes_nothing_and_the_run_goes_on(datasets: dict[str, Path], tmp_path: Path) -> None:
    trainer = Trainer(options_for(datasets["neural"], tmp_path))
    poisoned(trainer, (2,))
    for step in range(4):
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        metrics = trainer.train_step()
        same = all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
        assert same == (step == 2)
        assert metrics["skipped"] == (step == 2)
        assert (metrics["loss"] is None) == (step == 2)
        json.dumps(metrics, allow_nan=False)
        trainer._line({**metrics, "validation_bits_per_byte": None})
    assert trainer.step == 4


def test_a_run_that_stays_broken_ends_and_keeps_its_last_checkpoint(datasets: dict[str, Path], tmp_path: Path) -> None:
    trainer = Trainer(options_for(datasets["neural"], tmp_path, steps=20, checkpoint_every=4))
    poisoned(trainer, tuple(range(5, 20)))
    with pytest.raises(UserError, match="step 7: the loss is nan"):
        trainer.train()
    assert Trainer(options_for(datasets["neural"], tmp_path, steps=20, checkpoint_every=4)).step == 4


def test_a_broken_run_killed_among_bad_steps_ends_at_the_same_step(datasets: dict[str, Path], tmp_path: Path) -> None:
    for stop in range(5, 7):
        run = tmp_path / str(stop)
        first = Trainer(options_for(datasets["neural"], run, steps=20))
        poisoned(first, tuple(range(4, 20)))
        while first.step < stop:
            first.train_step()
        first.save()
        first.saver.wait()
        second = Trainer(options_for(datasets["neural"], run, steps=20))
        poisoned(second, tuple(range(4, 20)))
        with pytest.raises(UserError, match="step 6: the loss is nan"):
            second.train()


@pytest.mark.parametrize("mode", [Mode.PROXY, Mode.BYTES, Mode.NO_SENTINELS])
def test_validation_is_the_evaluation_of_the_same_documents(
    datasets: dict[str, Path], tmp_path: Path, mode: Mode
) -> None:
    options = options_for(
        datasets["neural"], tmp_path, steps=4, mode=mode, validate_every=2, validate_bytes=2500, micro_batch=1
    )
    Trainer(options).train()
    found = [line["validation_bits_per_byte"] for line in read_metrics(tmp_path)]
    assert [value is None for value in found] == [True, False, True, False]
    documents: list[bytes] = []
    for document in sampled(Dataset(str(datasets["neural"])), 0.1, 2500):
        assert document.raw is not None
        documents.append(document.raw.tobytes())
    size = sum(map(len, documents))
    assert len(documents) > 1
    model = restore(str(tmp_path)).model
    blocks = [blocks_of(raw, 256, mode is not Mode.NO_SENTINELS) for raw in documents]
    assert found[-1] == pytest.approx(sum(code_length(model, one, 256) for one in blocks) / size, rel=1e-5)


def test_validation_changes_no_loss(datasets: dict[str, Path], tmp_path: Path) -> None:
    Trainer(options_for(datasets["neural"], tmp_path / "with", validate_every=1)).train()
    Trainer(options_for(datasets["neural"], tmp_path / "without", validate_every=0)).train()
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert all(line["validation_bits_per_byte"] is None for line in read_metrics(tmp_path / "without"))


def test_without_held_out_documents_there_is_no_figure(datasets: dict[str, Path], tmp_path: Path) -> None:
    trainer = Trainer(options_for(datasets["neural"], tmp_path, val_fraction=0.0, steps=1))
    trainer.train()
    assert [line["validation_bits_per_byte"] for line in read_metrics(tmp_path)] == [None]
    assert isinstance(trainer.validation, Validation)
    assert Trainer(options_for(datasets["neural"], tmp_path / "b", mode=Mode.COMP_ONLY)).validation is None


def test_a_trace_is_written_on_request(datasets: dict[str, Path], tmp_path: Path) -> None:
    Trainer(options_for(datasets["neural"], tmp_path, steps=9, profile_steps=2)).train()
    with gzip.open(tmp_path / "traces" / "rank-0.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name", "")).startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#5", "ProfilerStep#6"}
    assert any("scaled_dot_product" in str(event.get("name")) for event in events)


def test_the_plot_shows_held_out_figures_and_bad_steps(datasets: dict[str, Path], tmp_path: Path) -> None:
    trainer = Trainer(options_for(datasets["neural"], tmp_path, validate_every=2))
    poisoned(trainer, (3,))
    trainer.train()
    plot(PlotOptions(run=(str(tmp_path),)))
    assert (tmp_path / "loss.png").stat().st_size > 5000


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=5),
    st.lists(st.floats(0, 4), min_size=3, max_size=3),
)
def test_head_weights_share_out_what_a_position_weighs(rows: list[list[float]], heads: list[float]) -> None:
    weights = torch.tensor(rows)[None]
    found = reweighted(weights, heads)
    for before, after in zip(weights[0], found[0], strict=True):
        products = before * torch.tensor(heads)
        expected = before.sum() * products / products.sum() if products.sum() > 0 else torch.zeros(3)
        assert torch.allclose(after, expected, atol=1e-6)
    assert reweighted(weights, ()) is weights


def test_head_weights_are_part_of_the_run(datasets: dict[str, Path], tmp_path: Path) -> None:
    for name, head_weights in {"a": (2.0,) * 8, "b": (), "c": (1.0, *(0.0,) * 7)}.items():
        options = options_for(
            datasets["neural"], tmp_path / name, steps=2, mode=Mode.BYTES, head_weights=head_weights
        )  # fmt: skip
        Trainer(options).train()
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-6)
    assert losses(tmp_path / "c")[0] != pytest.approx(losses(tmp_path / "b")[0], rel=1e-3)
    with pytest.raises(UserError, match="head_weights"):
        Trainer(options_for(datasets["neural"], tmp_path / "a", steps=2, mode=Mode.BYTES))
    for wrong in ((1.0,), (0.0, 1.0), (1.0, -1.0)):
        with pytest.raises(UserError, match="give 2 numbers, one a head"):
            Trainer(options_for(datasets["neural"], tmp_path / "d", head_weights=wrong))
