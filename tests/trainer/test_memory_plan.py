"""Memory and operations that a model needs, against what real steps hand out and do."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from schemas.errors import UserError
from trainer import optim
from trainer.model.evabyte import EvaByte, ModelConfig, Recompute, parameters
from trainer.parallel import Processes, shard
from trainer.planning.limits import (
    PREDICTED_WITHIN,
    _most_activations,
    available_bytes,
    check_fits,
    executed_flops_per_symbol,
    flops_per_symbol,
    peak_flops,
    peak_memory,
    state_bytes,
    steps_that_fit,
)
from trainer.planning.memory import RECOMPUTES, Memory, Share, StepShape, predict
from trainer.scales import SCALES, scale_named

CPU = torch.device("cpu")


def config_of(scale: str, vocabulary_size: int = 65_856) -> ModelConfig:
    return ModelConfig.of(scale_named(scale), vocabulary_size=vocabulary_size, main_heads=1, raw_heads=1)


def small(**changes: int) -> ModelConfig:
    return replace(config_of("tiny", 4416), **changes)


class Meter:
    """Most bytes that torch's allocator had handed out at once inside it, by the profiler's record of each.

    Attributes:
        peak: bytes, known at the end.
    """

    peak = 0

    def __enter__(self) -> "Meter":
        gc.collect()  # what others left must not be given back in here
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._profile.__exit__(None, None, None)
        now = 0
        for event in self._profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                self.peak = max(self.peak, now)


@contextmanager
def pretended_group(world: int) -> Iterator[Processes]:
    """The first of some processes whose others are not there: FSDP's buffers are real, what is in them is not."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield Processes(0, world, CPU)
    finally:
        dist.destroy_process_group()


def measured_peak(config: ModelConfig, step: StepShape, processes: Processes | None = None) -> int:
    """Bytes at the fullest moment of two real steps, model and optimiser included."""
    with Meter() as meter:
        with torch.device("meta" if processes else "cpu"):
            model = EvaByte(config)
        for layer in model.layers:
            layer.recompute = step.recompute
        if processes:
            shard(model, processes, replicas=1, precision=torch.bfloat16 if step.precision == "bf16" else None)
            model.to_empty(device="cpu")
        for parameter in model.parameters():
            (parameter.to_local() if processes else parameter).data.fill_(0.01)
        optimiser = optim.adamw(model.parameters(), 1e-3)
        shape, heads = (step.micro_batch, step.sequence), config.main_heads + config.raw_heads
        for _ in range(2):
            for _ in range(step.micro_batches):
                ids = torch.full(shape, 70, dtype=torch.int32)
                labels = torch.full((*shape, heads), 70, dtype=torch.int32)
                model.loss(ids, torch.zeros_like(ids), torch.zeros_like(ids), labels, torch.ones(*shape, heads))[
                    0
                ].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    return meter.peak


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("recompute", RECOMPUTES)
def test_a_real_step_of_one_process_takes_the_predicted_memory(recompute: Recompute, micro_batches: int) -> None:
    config = small()
    step = StepShape(sequence=512, micro_batch=2, micro_batches=micro_batches, recompute=recompute)
    predicted = predict(config, step, Share.whole(config)).total
    assert predicted == pytest.approx(measured_peak(config, step), rel=0.06)


@pytest.mark.parametrize("recompute", RECOMPUTES)
def test_a_model_of_mostly_vocabulary_or_of_many_blocks_takes_the_predicted_memory_too(recompute: Recompute) -> None:
    for config in (small(vocabulary_size=12_000, layers=1), small(layers=8)):
        step = StepShape(sequence=256, micro_batch=1, recompute=recompute)
        predicted = predict(config, step, Share.whole(config)).total
        assert predicted == pytest.approx(measured_peak(config, step), rel=0.06)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("recompute", RECOMPUTES)
def test_a_step_of_a_shared_model_takes_the_predicted_memory(recompute: Recompute, micro_batches: int) -> None:
    config = small(dim=256, ffn=768, layers=6)
    step = StepShape(
        sequence=512,
        micro_batch=1,
        micro_batches=micro_batches,
        recompute=recompute,
        precision="bf16",
        shared=True,
    )
    predicted = predict(config, step, Share.whole(config).over(4)).total
    with pretended_group(4) as processes:
        measured = measured_peak(config, step, processes)
    assert predicted == pytest.approx(measured, rel=PREDICTED_WITHIN)


def test_masks_that_are_made_anew_by_each_window_are_predicted_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(layers=3)
    step = StepShape(sequence=1024, micro_batch=1)
    kept = predict(config, step, Share.whole(config))
    monkeypatch.setattr("trainer.model.attention.AttentionPlan.of", _without_masks())
    other = replace(config, eps=2e-6)  # not the one that was measured before
    anew = predict(other, step, Share.whole(other))
    assert anew.activations < kept.activations
    assert anew.total == pytest.approx(measured_peak(other, step), rel=0.06)


def _without_masks() -> classmethod:  # type: ignore[type-arg]  # of AttentionPlan
    from trainer.model.attention import AttentionPlan

    original = AttentionPlan.of.__func__  # type: ignore[attr-defined]  # a class method

    def of(cls: type[AttentionPlan], *args: torch.Tensor, **options: object) -> AttentionPlan:
        plan: AttentionPlan = original(cls, *args, **{**options, "mask_bytes": 0})
        return plan

    return classmethod(of)


@pytest.mark.parametrize("gpu", [False, True])
def test_each_way_to_recompute_keeps_less_than_the_one_before_and_parts_sum_to_the_total(gpu: bool) -> None:
    config = small()
    step = StepShape(sequence=1024, micro_batch=2, precision="bf16", shared=True, gpu=gpu)
    found = [predict(config, replace(step, recompute=way), Share.whole(config).over(2)) for way in RECOMPUTES]
    kept = [memory.activations for memory in found]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 1.5 * kept[1] > 3 * kept[2]
    assert all(memory.total == sum(memory.parts.values()) for memory in found)


def test_kernels_of_gpus_keep_what_is_stated_of_them() -> None:
    # bf16, n ids, in units of n D bytes: what a block keeps at F = 3 D, counted by hand
    config = small(dim=256, ffn=768, heads=2)
    step = StepShape(sequence=1024, micro_batch=1, precision="bf16", shared=True, gpu=True)
    one, two = (predict(replace(config, layers=layers), step, Share.whole(config)).activations for layers in (8, 9))
    unit = 1024 * config.dim
    norms = 2 * (4 + 2)  # the input in fp32, the result in bf16
    attention = 2 * 4  # q, k, v and the result
    feed_forward = 2 * 3 * 4  # gate, up, silu of gate, their product
    by_head = 1024 * config.heads * (4 + 2 * 2 * 768 / 1024)  # log-sums; shares of two poolings of three windows
    summaries = 2 * 2 * config.dim * 768 // config.chunk
    gains = 2 * 4 * (1024 + config.dim)  # a number for each row of a norm, its gain in fp32
    expected = unit * (norms + attention + feed_forward) + by_head + summaries + gains
    assert two - one == pytest.approx(expected, rel=0.01)


def test_parameters_by_part_are_those_of_the_table_and_of_the_model() -> None:
    published = {
        "0.5b": 605_078_528, "1.5b": 1_612_744_704, "4b": 4_331_867_136, "7b": 7_520_653_312, "14b": 14_937_461_760,
    }  # fmt: skip
    for scale, number in published.items():
        assert Share.whole(config_of(scale)).total == parameters(config_of(scale)) == number
    with torch.device("meta"):
        model = EvaByte(config_of("7b"))
    assert Share.of(model) == Share.whole(config_of("7b"))
    assert Share.whole(config_of("7b")).trunk == 6_979_850_240


def test_the_published_7b_model_needs_16_bytes_for_each_of_its_parameters() -> None:
    assert state_bytes(config_of("7b")) == 16 * 7_520_653_312


def test_a_model_that_fits_exactly_is_taken_and_one_byte_less_is_refused_with_what_fits() -> None:
    needed = state_bytes(config_of("7b"))
    check_fits("7b", config_of("7b"), needed)
    check_fits("7b", config_of("7b"), None)
    with pytest.raises(UserError, match=r"SCALE=7b: 7,520,653,312 parameters need 120\.3 GB.*SCALE=4b would fit"):
        check_fits("7b", config_of("7b"), needed - 1)
    with pytest.raises(UserError, match="no scale would fit"):
        check_fits("tiny", config_of("tiny"), 1000)


def test_a_laptop_is_told_what_7b_lacks_and_what_it_can_train() -> None:
    step = StepShape(sequence=32_768, micro_batch=64)
    with pytest.raises(UserError) as refused:
        check_fits("7b", config_of("7b"), 16_000_000_000, step=step)
    text = str(refused.value)
    assert "need 120.3 GB" in text
    assert "16.0 GB of memory are free, 104.3 GB too few" in text
    assert "8 processes with as much memory" in text
    assert "SCALE=100m ARGS='--micro-batch 1 --recompute full' would fit" in text
    assert "\n" not in text


@pytest.mark.parametrize(("gpu", "free"), [(False, 1_500_000_000), (True, 700_000_000)])
def test_a_step_that_is_too_large_is_refused_with_settings_that_do_fit(gpu: bool, free: int) -> None:
    config = config_of("tiny", 4416)
    step = StepShape(sequence=1024, micro_batch=64, precision="bf16" if gpu else "fp32", shared=gpu, gpu=gpu)
    with pytest.raises(UserError, match=r"a step of --micro-batch 64 --recompute none needs .* would fit: ") as refused:
        check_fits("tiny", config, free, step=step)
    found = list(steps_that_fit(config, step, Share.whole(config), free))
    assert [other.recompute for other, _ in found] == list(RECOMPUTES)
    for other, memory in found:
        assert f"--micro-batch {other.micro_batch} --recompute {other.recompute}" in str(refused.value)
        assert other.micro_batch * other.micro_batches == 64
        assert predict(config, other, Share.whole(config)) == memory
        assert memory.total <= free
        check_fits("tiny", config, free, step=other)
        if other.micro_batch < 64:
            larger = replace(other, micro_batch=2 * other.micro_batch, micro_batches=other.micro_batches // 2)
            assert predict(config, larger, Share.whole(config)).total > free


def test_micro_batches_one_after_the_other_keep_a_share_of_the_gradient_between_them() -> None:
    config = config_of("14b")
    step = StepShape(sequence=32_768, micro_batch=2, recompute="full", precision="bf16", shared=True, gpu=True)
    share = Share.whole(config).over(32)
    apart = replace(step, micro_batch=1, micro_batches=2)
    together = predict(config, step, share).total
    assert predict(config, apart, share).total < together - predict(config, apart, share).activations / 2
    assert apart in [other for other, _ in steps_that_fit(config, step, share, together - 1)]


def test_one_micro_batch_is_offered_where_several_would_keep_the_whole_gradient() -> None:
    # alone: two sequences at once fit, one after the other the whole gradient stays between them
    config = config_of("0.5b")
    step = StepShape(sequence=2048, micro_batch=2, recompute="full")
    share = Share.whole(config)
    free = predict(config, step, share).total
    assert predict(config, replace(step, micro_batch=1, micro_batches=2), share).total > free
    assert [other for other, _ in steps_that_fit(config, step, share, free)] == [step]


@pytest.mark.parametrize("scale", ["tiny", "100m", "0.5b"])
@pytest.mark.parametrize("gpu", [False, True])
def test_what_is_taken_without_a_prediction_would_be_taken_with_it(scale: str, gpu: bool) -> None:
    sizes = SCALES[scale]
    for vocabulary_size in (320, 65_856):
        config = config_of(scale, vocabulary_size)
        for recompute in RECOMPUTES:
            sequence = min(sizes.sequence, 4 * sizes.window)
            step = StepShape(sequence=sequence, micro_batch=1, recompute=recompute, gpu=gpu)
            predicted: Memory = predict(config, step, Share.whole(config))
            assert predicted.total <= state_bytes(config) + _most_activations(config, step)


def test_operations_a_symbol_are_the_published_formula() -> None:
    # 7b at 32,768 ids: 6 (parameters - V D) + 14 * 32 * 4096 * (0.5 * 32768 / 8 + 2048)
    expected = 6 * (7_520_653_312 - 65_856 * 4096) + 14 * 32 * 4096 * (2048 + 2048)
    assert flops_per_symbol(config_of("7b"), 32_768) == expected


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_products_of_a_real_step_are_those_that_are_said_to_be_done(recompute: Recompute) -> None:
    config, length = small(), 512
    model = EvaByte(config)
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    for layer in model.layers:
        layer.recompute = recompute
    ids, weights = torch.full((1, length), 70), torch.ones(1, length, 2)
    with FlopCounterMode(display=False) as counter:
        model.loss(ids, torch.zeros_like(ids), torch.zeros_like(ids), torch.full((1, length, 2), 70), weights)[
            0
        ].backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(
        count for operation, count in counts.items() if operation in (torch.ops.aten.mm, torch.ops.aten.addmm)
    )
    # the counter does not know addmm_, by which slices add up the heads' gradient
    products += 2 * length * Share.whole(config).heads
    step = StepShape(sequence=length, micro_batch=1, recompute=recompute)
    keys = (config.window + 1) / 2 + (length - config.window) / (2 * config.chunk)
    attention = (18 if recompute == "full" else 14) * config.layers * config.dim * keys
    assert products / length == pytest.approx(executed_flops_per_symbol(config, step) - attention)


def test_a_cpu_has_no_known_peak_and_a_process_has_held_some_memory() -> None:
    assert peak_flops(CPU) is None
    assert 1 << 26 < peak_memory(CPU) < 1 << 40


def test_free_memory_is_found_on_this_system_and_asked_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    available = available_bytes()
    assert available is not None
    assert 1 << 20 < available < 1 << 50
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_bytes() == pytest.approx(available / 4, rel=0.3)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 << 30, device.index))
    assert available_bytes(torch.device("cuda", 1)) == 7 << 30
