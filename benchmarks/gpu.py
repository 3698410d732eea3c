"""`python -m benchmarks.gpu`: all that only a GPU can show, in one run of at most ten minutes.

  attention   forward and backward of the compiled kernel, of its twin (one masked attention over all keys and
              summaries), of the windows that CPUs have and of plain causal attention over the whole sequence; the
              kernel's differences from the windows in fp32 and bf16
  step        a training step of the trainer itself: symbols/s, MFU and peak memory beside `plan`, and the same model
              with plain causal attention in turns; below `--wanted-mfu` a trace of it
  curve       a real run until the time is over: bits per byte by view and on held-out documents
  decoding    bytes/s of that run's model, multi-byte and plain

Each part is printed as it is done, so a run that is cut off has shown the parts before. `--toy` is the same on a CPU at
sizes that take a minute. Everything is written below `--out` too.
"""

import contextlib
import gc
import json
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from benchmarks.preprocess import machine
from schemas.errors import UserError
from schemas.vocabulary import EOS
from trainer.config import TrainOptions
from trainer.data.views import Mode
from trainer.inference.decoding import Generator
from trainer.model import attention, flex
from trainer.parallel import Processes
from trainer.planning import limits
from trainer.planning.memory import Share, StepShape, predict
from trainer.plot import PlotOptions, plot
from trainer.run_log import read_metrics
from trainer.scales import scale_named
from trainer.trainer import Trainer

Part = Literal["attention", "step", "curve", "decoding"]

PROMPTS = ("import ", "def read(path", "class Node:\n", "    return self.")


@dataclass(frozen=True, kw_only=True)
class GpuBenchOptions:
    """What a GPU shows.

    Attributes:
        data: dataset of the steps and the curve.
        scale: of the steps.
        sequence: T of the steps and the attention.
        micro_batch: sequences of a forward pass.
        passes: forward passes of a step.
        recompute: activations made anew in the steps.
        steps: of which the median counts.
        curve_scale: of the run.
        curve_mode: of the run; bytes has the heads that multi-byte decoding needs.
        minutes: of the whole program.
        parts: of it; decoding takes the curve's run.
        wanted_mfu: below it a trace is written.
        out: folder for pictures, logs, traces and figures.
        toy: sizes for a CPU.
    """

    data: str = "data/stdlib-neural"
    scale: str = "1.5b"
    sequence: int = 16384
    micro_batch: int = 1
    passes: int = 1
    recompute: str = "none"
    steps: int = 12
    curve_scale: str = "100m"
    curve_mode: str = "bytes"
    minutes: float = 9.0
    parts: tuple[Part, ...] = ("attention", "step", "curve", "decoding")
    wanted_mfu: float = 0.5
    out: str = "runs/gpu-bench"
    toy: bool = False


def main(options: GpuBenchOptions) -> int:
    """Run all parts; the exit status says whether all of them came to an end."""
    if options.toy:
        small = {"scale": "tiny", "sequence": 1024, "curve_scale": "tiny", "steps": 4}
        options = replace(options, **small, minutes=min(options.minutes, 1.5))
    elif not torch.cuda.is_available():
        raise UserError("no CUDA device here; --toy tries the program on a CPU")
    until = time.monotonic() + 60 * options.minutes
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    machine()
    device = Processes.join("cpu" if options.toy else "cuda").device
    print(f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}\n")
    figures: dict[str, Any] = {}
    failed = False
    for name, part in {
        "attention": partial(attention_figures, options, device),
        "step": partial(step_figures, options, out),
        "curve": partial(curve_figures, options, out, until),
        "decoding": partial(decoding_figures, options, out, until),
    }.items():
        if name not in options.parts:
            continue
        start = time.monotonic()
        try:
            figures[name] = part()
        except Exception:  # noqa: BLE001 - the other parts are worth having
            traceback.print_exc()
            failed = True
        print(f"({name}: {time.monotonic() - start:.0f} s)\n", flush=True)
        (out / "figures.json").write_text(json.dumps(figures, indent=1))
        _clear(device)
    return int(failed)


def attention_figures(options: GpuBenchOptions, device: torch.device) -> list[dict[str, Any]]:
    """Times and differences of the attentions."""
    scale = scale_named(options.scale)
    dtype = torch.float32 if options.toy else torch.bfloat16
    heads, dim = scale.heads, scale.dim // scale.heads
    ids, doc = documents(options.sequence, device)
    tensors = [torch.randn(1, heads, options.sequence, dim, device=device, dtype=dtype) for _ in range(3)]
    tensors += [torch.randn(1, heads, 1, 1, dim, device=device, dtype=dtype) for _ in range(2)]
    rules = {"window": scale.window, "chunk": scale.chunk}
    windows_plan = attention.AttentionPlan.of(ids, doc, **rules, dtype=dtype)
    flex_plan = flex.FlexPlan.of(ids, doc, **rules)
    ways: dict[str, Callable[..., Tensor]] = {
        "twin": partial(twin, plan=flex_plan, seen=dense_mask(flex_plan, options.sequence, device)),
        "windows": partial(attention.attend, plan=windows_plan),
        "causal, whole sequence": lambda q, k, v, mu, phi: causal(q, k, v),
    }
    if device.type == "cuda":
        ways = {"flex": partial(flex.attend, plan=flex_plan), **ways}
    print(f"{options.scale}: {heads} heads of {dim}, T {options.sequence:,}, {dtype}\n")
    print("| attention | forward, ms | forward and backward, ms |\n|---|---|---|")
    rows = []
    for name, way in ways.items():
        forward = milliseconds(lambda way=way: way(*tensors), device)
        grown = [tensor.detach().requires_grad_() for tensor in tensors]
        both = milliseconds(lambda way=way, grown=grown: way(*grown).float().square().sum().backward(), device)
        rows.append({"attention": name, "forward_ms": forward, "both_ms": both})
        print(f"| {name} | {forward:.2f} | {both:.2f} |", flush=True)
    if device.type == "cuda":
        for kind in (torch.float32, torch.bfloat16):
            some = [tensor.to(kind).requires_grad_() for tensor in tensors]
            found = []
            exact = [tensor.detach().float().requires_grad_() for tensor in some]
            exact_plan = attention.AttentionPlan.of(ids, doc, **rules, dtype=torch.float32)
            for way, operands in ((ways["flex"], some), (partial(attention.attend, plan=exact_plan), exact)):
                result = way(*operands)
                gradients = torch.autograd.grad(result.float().square().sum(), operands)
                found.append([result.detach(), *gradients])
            differences = [float((a.float() - b.float()).abs().max()) for a, b in zip(*found, strict=True)]
            named = dict(zip(("out", "dq", "dk", "dv", "dmu", "dphi"), differences, strict=True))
            rows.append({"differences": named, "dtype": str(kind)})
            print(f"\nlargest differences of flex in {kind} from windows in fp32: "
                  + ", ".join(f"{name} {value:.2g}" for name, value in named.items()))  # fmt: skip
    return rows


def step_figures(options: GpuBenchOptions, out: Path) -> list[dict[str, Any]]:
    """The trainer's own step, with its attention and with plain causal attention in turns."""
    scale = scale_named(options.scale)
    trainer = Trainer(
        TrainOptions(
            data=(options.data,), run=str(out / "step"), scale=options.scale, micro_batch=options.micro_batch,
            batch=options.micro_batch * options.passes, sequence=options.sequence, steps=1000, val_fraction=0.05,
            tensorboard=False, afresh=True,
            recompute=options.recompute, validate_every=0, precision="fp32" if options.toy else None,
            device="cpu" if options.toy else None,
        ),
        Processes.join("cpu" if options.toy else "cuda"),
    )  # fmt: skip
    device = trainer.processes.device
    own = trainer.model._attention
    rows: dict[str, list[dict[str, Any]]] = {"ours": [], "causal": []}
    memory = {}
    for turn in range(2):
        for name, way in (("ours", own), ("causal", lambda *_: lambda q, k, v, mu, phi: causal(q, k, v))):
            trainer.model._attention = way
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            for step in range(options.steps // 2 + 2):
                metrics = trainer.train_step()
                if step >= 2 or turn:  # the first compile and warm up
                    rows[name].append(metrics)
            memory[name] = limits.peak_memory(device)
    trainer.model._attention = own
    found = []
    shape = StepShape(
        sequence=options.sequence, micro_batch=options.micro_batch, micro_batches=options.passes,
        recompute=trainer.options.recompute,
        precision="fp32" if options.toy else "bf16", shared=not options.toy, gpu=not options.toy,
    )  # fmt: skip
    planned = predict(trainer.model_config, shape, Share.whole(trainer.model_config)).total
    print(
        f"{options.scale}, T {options.sequence:,}, {options.passes} x {options.micro_batch} a step, "
        f"recompute {options.recompute}; ",
        end="",
    )
    print(f"planned memory {planned / 1e9:.2f} GB\n")
    print("| attention | symbols/s | MFU | data wait | peak memory, GB | of planned |\n|---|---|---|---|---|---|")
    for name, steps in rows.items():
        speed = statistics.median(line["symbols_per_second"] for line in steps)
        flops = limits.flops_per_symbol(trainer.model_config, options.sequence)
        if name == "causal":  # two products of T / 2 keys a query, forward once and backward twice
            summaries = options.sequence // (2 * scale.chunk) + scale.window
            flops += 6 * scale.layers * scale.dim * options.sequence - 14 * scale.layers * scale.dim * summaries
        peak = limits.peak_flops(device)
        mfu = None if peak is None else speed * flops / peak
        wait = statistics.median(line["data_wait"] for line in steps)
        size = memory[name]
        found.append(
            {"attention": name, "symbols_per_second": speed, "mfu": mfu, "peak_memory": size, "planned": planned}
        )
        shown = "-" if mfu is None else f"{mfu:.1%}"
        print(f"| {name} | {speed:,.0f} | {shown} | {wait:.2%} | {size / 1e9:.2f} | {size / planned:.2f} |")
    if found[0]["mfu"] is not None and found[0]["mfu"] < options.wanted_mfu:
        try:
            trace(trainer, out / "step-trace.json.gz")
        except Exception:  # noqa: BLE001 - not every machine lets itself be traced
            traceback.print_exc()
    trainer.loader.close()
    return found


def trace(trainer: Trainer, path: Path) -> None:
    """Where the time of a step goes."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        trainer.train_step()
    profiler.export_chrome_trace(str(path))
    print(profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=25))


def curve_figures(options: GpuBenchOptions, out: Path, until: float) -> dict[str, Any]:
    """A run that lasts for most of the time that is left."""
    run = out / "curve"
    shutil.rmtree(run, ignore_errors=True)
    scale = scale_named(options.curve_scale)
    fixed: dict[str, Any] = {
        "data": (options.data,), "run": str(run), "scale": options.curve_scale, "mode": Mode(options.curve_mode),
        "val_fraction": 0.05, "afresh": True, "device": "cpu" if options.toy else None,
        **({"batch": 2, "sequence": 512} if options.toy else {"batch": 16, "micro_batch": 8, "sequence": scale.sequence}),
    }  # fmt: skip
    processes = Processes.join("cpu" if options.toy else "cuda")
    probe = Trainer(TrainOptions(**fixed, steps=1000, validate_every=0, tensorboard=False), processes)
    for _ in range(3):
        probe.train_step()
    start = time.perf_counter()
    for _ in range(5):
        probe.train_step()
    each = (time.perf_counter() - start) / 5
    probe.loader.close()
    del probe
    _clear(processes.device)
    left = until - time.monotonic()
    steps = max(int(0.5 * left / each), 20)  # compiling, validation and decoding take the rest
    print(f"{options.curve_scale} {options.curve_mode}: {steps} steps of {each:.2f} s")
    trainer = Trainer(TrainOptions(**fixed, steps=steps, validate_every=max(steps // 10, 1)), processes)
    trainer.train()
    plot(PlotOptions(run=(str(run),)))
    held_out = [line["validation_bits_per_byte"] for line in read_metrics(run)]
    found = {"steps": steps, "held_out": [value for value in held_out if value is not None]}
    print("held-out bits per byte: " + " ".join(f"{value:.3f}" for value in found["held_out"]))
    return found


def decoding_figures(options: GpuBenchOptions, out: Path, until: float) -> list[dict[str, Any]]:
    """Multi-byte decoding of the run's model against plain decoding, a few prompts one at a time."""
    run = str(out / "curve")
    generators = {"plain": Generator.from_run(run, nodes=1), "tree": Generator.from_run(run)}
    device = next(iter(generators.values())).model.embed_tokens.weight.device
    rows = []
    print("| decoding | bytes/s | bytes a pass |\n|---|---|---|")
    for name, generator in generators.items():
        generator.generate(PROMPTS[:1], max_bytes=16)
        made = passes = 0
        with _timed(device) as elapsed:
            for prompt in PROMPTS:
                if time.monotonic() < until or not made:
                    result = generator.generate([prompt], max_bytes=200)[0]
                    made, passes = made + result.made, passes + result.passes
        rows.append({"decoding": name, "bytes_per_second": made / elapsed[0], "bytes_per_pass": made / passes})
        print(f"| {name} | {made / elapsed[0]:,.0f} | {made / passes:.2f} |", flush=True)
    return rows


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain causal attention over the whole sequence: [B, h, T, d] -> [B, h, T, d]."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def dense_mask(plan: flex.FlexPlan, length: int, device: torch.device) -> Tensor:
    """Who sees whom, whole: bool [1, 1, T, N]."""
    queries = torch.arange(length, device=device)[:, None]
    keys = torch.arange(plan.mask.seq_lengths[1], device=device)[None]
    zero = torch.zeros((), dtype=torch.long, device=device)
    return plan.mask.mask_mod(zero, zero, queries, keys)[None, None]


def twin(q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, plan: flex.FlexPlan, seen: Tensor) -> Tensor:
    """One masked attention over all keys and summaries: [1, h, T, d] -> [1, h, T, d]."""
    complete = plan.members.shape[1] * plan.members.shape[2]
    summaries = attention.pool(k[:, :, :complete], v[:, :, :complete], mu, phi, plan.members)
    keys, values = (
        torch.cat([own, functional.pad(summary, (0, 0, 0, plan.padding))], 2)
        for own, summary in zip((k, v), summaries, strict=True)
    )
    return functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)


def documents(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and document numbers [1, T]; documents of 4,096 bytes on average."""
    generator = torch.Generator().manual_seed(0)
    new = torch.rand(1, length, generator=generator) < 1 / 4096
    ids = torch.randint(64, 320, (1, length), generator=generator)
    ids[:, :-1][new[:, 1:]] = EOS
    return ids.to(device), new.int().cumsum(1).to(device)


def milliseconds(work: Callable[[], Any], device: torch.device, rounds: int = 10) -> float:
    """Median time of a call after three others."""
    times = []
    for turn in range(rounds + 3):
        with _timed(device) as elapsed:
            work()
        if turn >= 3:
            times.append(elapsed[0])
    return 1000 * statistics.median(times)


def _clear(device: torch.device) -> None:
    """Give back what the part before held: memory, and compiled graphs, of which there may be few."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _timed(device: torch.device) -> Iterator[list[float]]:
    found: list[float] = []
    _wait(device)
    start = time.perf_counter()
    yield found
    _wait(device)
    found.append(time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(GpuBenchOptions, description=GpuBenchOptions.__doc__)))
