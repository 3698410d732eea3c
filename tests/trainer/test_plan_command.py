"""What `make plan` says of runs on GPUs that are not there."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from schemas.command_line import BAD_OPTIONS, FAILED, Command
from schemas.command_line import run as run_command
from schemas.errors import UserError
from trainer.model.evabyte import ModelConfig
from trainer.planning.memory import Share
from trainer.planning.plan import RESERVE, PlanOptions, lines, make_plan, share_of_first, to_json
from trainer.scales import scale_named

COMMANDS = {"plan": Command("trainer.planning.plan", "PlanOptions", "plan", "what a run takes")}

FULL_7B: dict[str, Any] = {"scale": "7b", "gpus": 64, "recompute": "full"}


def command(*arguments: str) -> int:
    return run_command("trainer", COMMANDS, ["plan", *arguments])


def test_a_published_run_is_planned_to_the_last_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--scale", "7b", "--gpus", "64", "--recompute", "full", "--price", "2.5", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["parameters"]["total"] == 7_520_653_312
    assert plan["parameters"]["trunk"] == 6_979_850_240
    assert plan["parameters"]["embedding"] == 65_856 * 4096
    assert plan["parameters"]["heads"] == (65_856 + 320) * 4096
    memory = plan["memory"]
    assert memory["parameters"] == 4 * plan["parameters"]["on_a_gpu"]
    assert memory["moments"] == 2 * memory["parameters"]
    assert memory["total"] == sum(size for part, size in memory.items() if part not in ("moment", "total"))
    assert plan["by_recompute"]["full"] == memory["total"]
    assert memory["working"] == plan["at_once"]["block"]
    # heads' gradients in fp32 twice and in bf16, two slices of 4,096 positions in bf16 and fp32, and the rest
    matrix, logits = 65_856 * 4096, 65_856 * 4096
    loss = plan["at_once"]["loss"] - 2 * 32_768 * 4096 * 2
    assert 2 * 4 * matrix + 6 * logits < loss < 3 * 4 * matrix + 12 * logits
    # a block's input for each of 32 blocks in bf16 and little else is kept
    assert 1 < memory["activations"] / (32 * 32_768 * 4096 * 2) < 1.1
    assert plan["capacity"] == (79 << 30) - RESERVE
    assert plan["fits"]
    assert plan["would_fit"] == {}
    cost = plan["cost"]
    assert cost["flops_per_step"] == cost["flops_per_symbol"] * 2_097_152
    assert cost["step_seconds"] == pytest.approx(cost["flops_per_step"] / (64 * 989e12 * 0.4))
    assert cost["symbols_per_second"] == pytest.approx(2_097_152 / cost["step_seconds"])
    assert (cost["steps"], cost["symbols"]) == (50_000, 50_000 * 2_097_152)
    assert cost["days"] == pytest.approx(50_000 * cost["step_seconds"] / 86_400)
    assert cost["gpu_hours"] == pytest.approx(64 * 24 * cost["days"])
    assert cost["price"] == pytest.approx(2.5 * cost["gpu_hours"])
    assert plan["checkpoint_bytes"] == 12 * 7_520_653_312


def test_the_lines_to_read_hold_every_part_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--scale", "7b", "--gpus", "64") == 0
    text = capsys.readouterr().out
    for word in (
        "7,520,653,312 parameters", "parameters", "moments", "gradients", "gathered", "reduction", "activations",
        "working", "batch", "total", "does not fit", "are missing", "would fit: --micro-batch 1 --recompute full",
        "checkpoint", "operations:", "ids/s", "50,000 steps", "GPU-hours", "2.69 bytes a symbol",
    ):  # fmt: skip
        assert word in text, word
    assert max(map(len, text.splitlines())) <= 160


def test_fsdp_gives_the_first_gpu_what_the_plan_says_and_leaves_no_group_behind() -> None:
    config = ModelConfig.of(scale_named("7b"), vocabulary_size=65_856, main_heads=1, raw_heads=1)
    share = share_of_first(config, 64, 1)
    assert not dist.is_initialized()
    # rows are rounded up; a layer's probes [1, h, 1, 1, d] cannot be cut and stay with the first
    by_block = (4 * 4096**2 + 3 * 4096 * 12_288) // 64 + 2 * 64 + 2 * 4096
    assert share.trunk == 32 * by_block + 64
    assert share.embedding == 1029 * 4096  # 65,856 = 64 x 1,029
    assert share.heads == (1029 + 5) * 4096
    assert share_of_first(config, 64, 8) == share_of_first(config, 8, 1)
    assert share_of_first(config, 1, 1) == Share.whole(config)
    assert share.total >= Share.whole(config).over(64).total


def test_a_process_of_a_group_is_refused() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(UserError, match="run it as one process, not by torchrun"):
            make_plan(PlanOptions(scale="tiny"))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "options",
    [
        {"scale": "7b", "gpus": 64},
        {"scale": "7b", "gpus": 8, "recompute": "selective"},
        {"scale": "14b", "gpus": 4},
        {"scale": "0.5b", "gpus": 1, "gpu_memory": 24.0},
        {"scale": "4b", "gpus": 16, "replicas": 2, "sequence": 65_536, "gpu": "h200"},
    ],
)
def test_what_is_said_to_fit_instead_does_fit_when_it_is_planned(options: dict[str, Any]) -> None:
    plan = make_plan(PlanOptions(**options))
    assert not plan.fits
    assert plan.fitting
    for setting, size in plan.fitting.items():
        words = setting.split()
        changes = {
            name.strip("-").replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)
        }
        numbers = {name: value if name == "recompute" else int(value) for name, value in changes.items()}
        other = make_plan(PlanOptions(**{**options, **numbers}))
        assert other.fits
        # the mean share of more GPUs against that of the first
        assert other.memory.total == pytest.approx(size, rel=0.01)


def test_what_nothing_can_hold_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--scale", "14b", "--batch", "2", "--gpu-memory", "24") == 0
    assert "no setting would fit: take more --batch and --gpus" in capsys.readouterr().out


def test_budgets_give_the_steps_that_they_pay_for() -> None:
    def cost(**options: Any) -> Any:
        return make_plan(PlanOptions(**FULL_7B, **options)).cost

    assert cost(symbols=10**11).steps == math.ceil(10**11 / 2_097_152)
    by_flops = cost(flops=1e21)
    assert by_flops.steps == math.ceil(1e21 / by_flops.flops_per_step)
    # r = 0.9 at 2.69 bytes a symbol: an id stands for 2.30 bytes of text, of which a tenth is shown raw
    by_bytes = cost(raw_bytes=10**9)
    share = 0.1 / (0.9 / 2.69 + 0.1)
    assert by_bytes.steps == math.ceil(10**9 / share / 2_097_152)
    assert by_bytes.raw_bytes == pytest.approx(by_bytes.symbols * share)
    assert by_bytes.text_bytes == pytest.approx(10 * by_bytes.raw_bytes)
    assert cost(raw_bytes=10**9, steps=100).steps == 100
    assert cost(raw_bytes=10**9, steps=10**6) == by_bytes


def test_bytes_alone_have_eight_heads_and_a_byte_an_id() -> None:
    plan = make_plan(PlanOptions(**FULL_7B, vocabulary=320))
    assert (plan.run.model.main_heads, plan.run.model.raw_heads) == (8, 0)
    assert to_json(plan)["parameters"]["total"] == 6_991_646_720
    assert plan.cost.text_bytes == plan.cost.raw_bytes == plan.cost.symbols


def test_another_vocabulary_says_nothing_of_text_unless_it_is_told() -> None:
    unknown = make_plan(PlanOptions(scale="tiny", vocabulary=4416))
    assert unknown.cost.text_bytes is None
    assert not any(line.startswith("text:") for line in lines(unknown, PlanOptions(scale="tiny", vocabulary=4416)))
    assert make_plan(PlanOptions(scale="tiny", vocabulary=4416, bytes_per_symbol=2.3)).cost.text_bytes is not None
    with pytest.raises(UserError, match="--raw-bytes 5: give --bytes-per-symbol too, or --data"):
        make_plan(PlanOptions(scale="tiny", vocabulary=4416, raw_bytes=5))


def test_a_dataset_gives_its_vocabulary_and_bytes_per_symbol(tmp_path: Path) -> None:
    from pipelines.preprocess import PreprocessOptions, preprocess
    from pipelines.proxies.options import ProxyOptions

    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.py").write_text("def f(x):\n    return x + 1\n" * 40)
    proxy = ProxyOptions(proxy="neural", bits=12, compressor="pretrained")
    preprocess(
        PreprocessOptions(
            corpus=str(tmp_path / "corpus"), out=str(tmp_path / "data"), proxy=proxy, quiet=True,
        )
    )  # fmt: skip
    plan = make_plan(PlanOptions(scale="tiny", data=str(tmp_path / "data")))
    assert plan.run.model.vocabulary_size == 320 + 4096
    assert plan.run.bytes_per_symbol is not None
    assert 1.5 < plan.run.bytes_per_symbol < 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "70b"], "scale '70b' is unknown"),
        (["--gpus", "0"], "--gpus 0: give 1 to"),
        (["--gpus", "3"], "--batch 64: --gpus 3 must divide it"),
        (["--gpus", "8", "--replicas", "3"], "--replicas 3: give a divisor of --gpus 8"),
        (["--gpus", "8", "--micro-batch", "3"], "--micro-batch 3: it must divide the 8 sequences of a GPU"),
        (["--sequence", "1000"], "--sequence 1000: expected a multiple of the window of 2048 ids"),
        (["--mfu", "1.5"], "--mfu 1.5: give a share above 0"),
        (["--price", "-1"], "--price -1.0: give a number above 0"),
        (["--precision", "fp32"], "--precision fp32: give --peak-tflops too"),
        (["--steps", "5", "--symbols", "9"], "--steps 5 and --symbols 9: give one of them"),
        (["--symbols", "9", "--raw-bytes", "9"], "--raw-bytes: give it alone or with --steps"),
        (["--raw-bytes", "0"], "--raw-bytes 0: give 1 or more"),
        (["--vocabulary", "320", "--data", "x"], "--vocabulary 320 and --data x: give one of them"),
        (["--vocabulary", "100"], "vocabulary_size is 100; expected 320 or more"),
        (["--data", "nowhere/data"], "no dataset there"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) in (BAD_OPTIONS, FAILED)
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_a_plan_needs_no_memory_to_speak_of() -> None:
    # 14b would be 60 GB in fp32; getrusage would tell of the process that this one was forked from
    code = (
        "from trainer.planning.plan import PlanOptions, make_plan; "
        "make_plan(PlanOptions(scale='14b', gpus=64, recompute='full')); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM:')).split()[1])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(found.stdout.splitlines()[-1]) * 1024 < 2 << 30
