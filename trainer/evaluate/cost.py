"""`python -m trainer evaluate cost`: what it takes to read a prompt and to write text, from bytes and from symbols.

A byte model makes more steps for a text than a model of symbols with the same trunk, and has a much smaller head; its
further heads make several bytes a step. This command puts them side by side on one machine, at equal text: prompts of
as many bytes, and as many bytes written. The model of symbols is a `comp-only` run (`--beside`), or a trunk of the same
sizes with random weights (`--vocabulary`): a step costs the same whatever the weights, but how many bytes a symbol
stands for must then be given.

Models take turns, round after round, so that other load on the machine meets all of them; medians are reported with
the least and the greatest of the rounds. Neither kind may end its text, so all write equally much. How many bytes a
step makes depends on the text, so that is also measured by group, on prompts from documents of each.
"""

import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.machine import processor
from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_OFFSET, COMP_OPEN, EOS, RAW_CLOSE
from trainer.checkpoints.restore import Restored, restore
from trainer.data.views import Mode
from trainer.evaluate.documents import By, Text, check_proxy, counted, dataset_of, grouped, texts_of, watched
from trainer.evaluate.journal import Journal, dtype_of, folder_of, model_digest, print_table
from trainer.evaluate.timing import Timing, cache_bytes, time_bytes, time_symbols, weight_bytes
from trainer.inference.decoding import Generator
from trainer.model.evabyte import EvaByte, ModelConfig

SAMPLE = 200
"""Held-out documents that prompts are made from, and bytes a symbol measured on."""

HALF = 512
"""Bytes of a prompt, at most, where bytes a pass are measured by group."""


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """What inference costs.

    Attributes:
        run: folder of the byte model's run; a mode with a raw view.
        beside: folder of a comp-only run of the same trunk.
        vocabulary: without --beside: ids of a model of symbols with the same trunk and random weights.
        bytes_per_symbol: with --vocabulary: bytes that one of its symbols stands for.
        data: dataset of the prompts; default that of --beside, or of --run.
        prompt_bytes: lengths of the prompt.
        max_bytes: written after each.
        heads: of the byte model that are used, 1 is plain decoding; those that it does not have are left out.
        rounds: of which the median counts.
        documents: of each group, to measure bytes a pass on; 0 leaves it out.
        by: what bytes a pass are measured by.
        threads: on a CPU; default as many as torch takes.
        out: folder of the result; default evaluations/ in the run's folder.
        afresh: forget an earlier call's measurements.
        json: print JSON instead of tables.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    beside: str | None = None
    vocabulary: int | None = None
    bytes_per_symbol: float | None = None
    data: str | None = None
    prompt_bytes: tuple[int, ...] = (256, 4096)
    max_bytes: int = 256
    heads: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 5
    documents: int = 8
    by: By = "group"
    threads: int | None = None
    out: str | None = None
    afresh: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if not self.prompt_bytes or not self.heads:
            raise UserError("--prompt-bytes and --heads take one number or more")
        if min(*self.prompt_bytes, *self.heads, self.rounds, self.threads or 1) < 1:
            raise UserError("--prompt-bytes, --heads, --rounds and --threads must be 1 or more")
        if self.max_bytes < 16 or self.documents < 0:
            raise UserError("--max-bytes must be 16 or more, --documents 0 or more")
        if self.beside is not None and self.vocabulary is not None:
            raise UserError("--beside is a model of symbols, --vocabulary makes a random one: give one of them")
        if (self.vocabulary is None) != (self.bytes_per_symbol is None):
            raise UserError("--vocabulary and --bytes-per-symbol belong together")
        if self.vocabulary is not None and self.vocabulary <= COMP_OFFSET:
            raise UserError(f"--vocabulary is {self.vocabulary}; expected more than the {COMP_OFFSET} ids of bytes")
        if self.bytes_per_symbol is not None and not 0 < self.bytes_per_symbol < math.inf:
            raise UserError(f"--bytes-per-symbol is {self.bytes_per_symbol}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that takes part.

    Attributes:
        name: for the table.
        model: of which.
        nodes: of its cache.
        bytes_per_unit: 1, or bytes a symbol.
        time: measures it, by the length of the prompt in bytes.
        source: of a model of symbols: whose weights it has.
    """

    name: str
    model: EvaByte
    nodes: int
    bytes_per_unit: float
    time: Callable[[int], Timing]
    source: str | None = None


def evaluate(options: CostOptions) -> dict[str, Any]:
    """The `evaluate cost` command.

    Returns:
        JSON: device, dtype, threads, bytes_per_symbol, symbols_from (what the model of symbols is); rows, a model and
        prompt each: model, prompt_bytes, weight_bytes, cache_bytes, bytes_per_pass, and below "seconds" first, per_byte
        (median, low, high), bytes_per_second, peak_bytes (taken beyond the weights, as measured; null where it cannot
        be); acceptance: rows of group, pieces, documents, bytes a pass by number of heads.

    Raises:
        UserError: no run, a run of another kind, two runs whose trunks differ, no held-out documents.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    restored = restore(options.run)
    mode = Mode(restored.config["mode"])
    if mode is Mode.COMP_ONLY:
        raise UserError(f"RUN={options.run}: trained with MODE={mode}: it cannot write bytes; give it as --beside")
    beside = None if options.beside is None else _beside(options.beside, restored)
    texts = _texts(options, restored, beside)
    generators = {heads: _generator(restored.model, heads, mode) for heads in _heads(options, restored.model)}
    raw = b"\n".join(text.raw for text in texts)
    subjects = [_of_bytes(heads, generator, raw, options.max_bytes) for heads, generator in generators.items()]
    symbols = _of_symbols(options, restored, beside, texts)
    if symbols is not None:
        subjects.append(symbols)
    placed = generators[min(generators)].model
    on_gpu = placed.embed_tokens.weight.is_cuda
    device = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu", "processor": processor(),
        "torch": torch.__version__, "dtype": dtype_of(placed),
        "threads": None if on_gpu else torch.get_num_threads(),
    }  # fmt: skip
    prompts = digest_of({"texts": [text.key for text in texts]})
    configuration = {
        **device, "model": model_digest(restored.model), "sentinels": mode.sentinels,
        "beside": None if beside is None else model_digest(beside.model), "vocabulary": options.vocabulary,
        "bytes_per_symbol": options.bytes_per_symbol, "texts": prompts, "by": options.by,
        "prompt_bytes": list(options.prompt_bytes), "max_bytes": options.max_bytes, "heads": list(generators),
        "rounds": options.rounds, "documents": options.documents,
    }  # fmt: skip
    with Journal(folder_of(options.run, options.out), "cost", configuration, afresh=options.afresh) as journal:
        left = [size for size in options.prompt_bytes if f"prompt {size}" not in journal.items]
        for size in watched(
            left, "lengths of prompts", total=len(options.prompt_bytes), done=len(options.prompt_bytes) - len(left)
        ):
            journal.add(f"prompt {size}", {"rows": _measure(subjects, size, options)})
        kinds = grouped(texts, 8) if options.documents else {}
        left_kinds = [name for name in kinds if f"group {name}" not in journal.items]
        for name in watched(left_kinds, "groups", total=len(left_kinds)):
            item = _accepted(name, kinds[name][: options.documents], restored.model, mode, list(generators), options)
            journal.add(f"group {name}", item)
        figures = {
            **device, "bytes_per_symbol": None if symbols is None else round(symbols.bytes_per_unit, 4),
            "symbols_from": None if symbols is None else symbols.source,
            "rows": [row for size in options.prompt_bytes for row in journal.items[f"prompt {size}"]["rows"]],
            "acceptance": [journal.items[f"group {name}"] for name in kinds],
        }  # fmt: skip
        path = journal.finish(figures)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        _print(options, figures, str(path))
    return figures


def with_heads(model: EvaByte, count: int, *, endless: bool) -> EvaByte:
    """The same trunk with the first heads only; parameters are shared but for the heads.

    Args:
        model: with at least so many heads.
        count: of heads to keep, the main ones first.
        endless: let it never choose an end.
    """
    main = min(count, model.config.main_heads)
    config = replace(model.config, main_heads=main, raw_heads=count - main)
    with torch.device("meta"):
        copy = EvaByte(config)
    state: dict[str, Tensor] = dict(model.state_dict())
    head = state["lm_head.weight"][: main * config.vocabulary_size].clone()
    if endless:
        # equal to that of a byte, which comes first: so they are never the likeliest
        head[[RAW_CLOSE, EOS]] = head[BYTE_OFFSET].clone()
    state["lm_head.weight"] = head
    raw = state.pop("raw_multibyte_lm_head.weight", None)
    if raw is not None and config.raw_heads:
        state["raw_multibyte_lm_head.weight"] = raw[: config.raw_heads * COMP_OFFSET].clone()
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def _heads(options: CostOptions, model: EvaByte) -> list[int]:
    there = model.config.main_heads + model.config.raw_heads
    return [heads for heads in sorted(set(options.heads)) if heads <= there] or [1]


def _placed(model: EvaByte) -> EvaByte:
    """On a GPU in bf16 if there is one, as `generate` has it, else as it is."""
    return model.to("cuda", torch.bfloat16) if torch.cuda.is_available() else model


def _generator(model: EvaByte, heads: int, mode: Mode, *, endless: bool = True) -> Generator:
    kept = _placed(with_heads(model, heads, endless=endless))
    return Generator(kept, sentinels=mode.sentinels, nodes=1 if heads == 1 else None)


def _beside(run: str, other: Restored) -> Restored:
    """The model of symbols.

    Raises:
        UserError: it is none, or its trunk is not that of the byte model.
    """
    found = restore(run)
    if Mode(found.config["mode"]) is not Mode.COMP_ONLY:
        raise UserError(f"--beside {run}: trained with MODE={found.config['mode']}; expected comp-only")
    for name in ("dim", "ffn", "layers", "heads", "window", "chunk"):
        mine, theirs = getattr(other.model.config, name), getattr(found.model.config, name)
        if mine != theirs:
            raise UserError(
                f"--beside {run}: another trunk: {name} is {theirs}, {mine} in --run; they must be of one scale"
            )
    return found


def _texts(options: CostOptions, restored: Restored, beside: Restored | None) -> list[Text]:
    """Documents for the prompts, with their symbols where a run has to read them."""
    if beside is None:
        dataset = dataset_of(options.run, restored, options.data)
        return texts_of(dataset, float(restored.config["val_fraction"]), SAMPLE, by=options.by)
    assert options.beside is not None, "it was restored"
    dataset = dataset_of(options.beside, beside, options.data)
    check_proxy(options.beside, beside, dataset, "give --data of the proxy of --beside")
    columns = ("raw", "comp", "spans")
    return texts_of(dataset, float(beside.config["val_fraction"]), SAMPLE, columns, options.by)


def _of_bytes(heads: int, generator: Generator, text: bytes, max_bytes: int) -> Subject:
    def time(size: int) -> Timing:
        return time_bytes(generator, (text * (size // len(text) + 1))[:size], max_bytes)

    name = "bytes, plain" if heads == 1 else f"bytes, {heads} heads"
    return Subject(name=name, model=generator.model, nodes=generator.nodes, bytes_per_unit=1.0, time=time)


def _of_symbols(
    options: CostOptions, restored: Restored, beside: Restored | None, texts: Sequence[Text]
) -> Subject | None:
    if beside is not None:
        model, source = _placed(beside.model), f"{options.beside} ({beside.vocabulary.proxy})"
        start = [BOS, COMP_OPEN]
        comp = [id_ for text in texts if text.comp is not None for id_ in text.comp.tolist()]
        bytes_per_symbol = sum(len(text.raw) for text in texts) / len(comp)
    elif options.vocabulary is not None and options.bytes_per_symbol is not None:
        config: ModelConfig = replace(
            restored.model.config, vocabulary_size=options.vocabulary, main_heads=1, raw_heads=0
        )
        model, source = EvaByte(config), "random weights"
        generator = torch.Generator().manual_seed(0)
        model.init_weights(generator)
        model, start = _placed(model.eval()), [BOS]
        comp = torch.randint(COMP_OFFSET, options.vocabulary, (4096,), generator=generator).tolist()
        bytes_per_symbol = options.bytes_per_symbol
    else:
        return None

    def time(size: int) -> Timing:
        count = max(1, round(size / bytes_per_symbol))
        ids = [*start, *(comp * (count // len(comp) + 1))[:count]]
        return time_symbols(model, ids, max(2, round(options.max_bytes / bytes_per_symbol)))

    return Subject(
        name="symbols", model=model, nodes=1, bytes_per_unit=bytes_per_symbol, time=time,
        source=f"{source}, V {model.config.vocabulary_size:,}",
    )  # fmt: skip


def _measure(subjects: Sequence[Subject], size: int, options: CostOptions) -> list[dict[str, Any]]:
    """Rows of one length of the prompt: all subjects in turn, the first turn only for memory and to warm up."""
    first = [subject.time(size) for subject in subjects]
    rounds: list[list[Timing]] = [[] for _ in subjects]
    for _ in range(options.rounds):
        for subject, timings in zip(subjects, rounds, strict=True):
            timings.append(subject.time(size))
    rows = []
    for subject, warm, timings in zip(subjects, first, rounds, strict=True):
        per_byte = [timing.seconds / timing.made / subject.bytes_per_unit for timing in timings]
        length = round((size + options.max_bytes) / subject.bytes_per_unit)
        rows.append(
            {
                "model": subject.name, "prompt_bytes": size, "weight_bytes": weight_bytes(subject.model),
                "cache_bytes": cache_bytes(subject.model, length, subject.nodes),
                "bytes_per_pass": round(warm.made / warm.passes * subject.bytes_per_unit, 4),
                "seconds": {
                    "first": _spread([timing.first for timing in timings]), "per_byte": _spread(per_byte),
                    "bytes_per_second": round(1 / statistics.median(per_byte), 2), "peak_bytes": warm.peak_bytes,
                },
            }
        )  # fmt: skip
    return rows


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, 9) for name, value in found.items()}


def _accepted(
    name: str, texts: Sequence[Text], model: EvaByte, mode: Mode, heads: Sequence[int], options: CostOptions
) -> dict[str, Any]:
    """Bytes a pass by number of heads, after the first halves of documents; texts may end here."""
    prompts = [text.raw[: min(HALF, len(text.raw) // 2)] for text in texts]
    rates: dict[str, float | None] = {}
    for count in heads:
        generator = _generator(model, count, mode, endless=False)
        made = passes = 0
        for prompt in prompts:
            (result,) = generator.generate([prompt], batch=1, max_bytes=options.max_bytes)
            # the pass over the prompt makes one, an end is made as a byte is
            made += result.made - 1 + (result.ended == "end")
            passes += result.passes - 1
        rates[str(count)] = round(made / passes, 4) if passes else None
    return {"group": name, **counted(texts), "bytes_per_pass": rates}


def _print(options: CostOptions, figures: dict[str, Any], path: str) -> None:
    threads = "" if figures["threads"] is None else f", {figures['threads']} threads"
    sys.stdout.write(f"{options.run} on {figures['device']}, {figures['dtype']}{threads}\n")
    if figures["symbols_from"] is not None:
        sys.stdout.write(f"symbols: {figures['symbols_from']}, {figures['bytes_per_symbol']:.3f} bytes a symbol\n")
    speeds, memory = [], []
    for row in figures["rows"]:
        seconds, name = row["seconds"], [row["model"], f"{row['prompt_bytes']:,}"]
        first, per_byte = seconds["first"], seconds["per_byte"]
        speeds.append(
            [
                *name, f"{seconds['bytes_per_second']:,.0f}",
                f"{1 / per_byte['high']:,.0f} to {1 / per_byte['low']:,.0f}", f"{row['bytes_per_pass']:.2f}",
                f"{first['median'] * 1e3:,.1f}", f"{first['low'] * 1e3:,.1f} to {first['high'] * 1e3:,.1f}",
            ]
        )  # fmt: skip
        sizes = (row["weight_bytes"], row["cache_bytes"], seconds["peak_bytes"])
        memory.append([*name, *("?" if size is None else f"{size / 1e6:,.1f}" for size in sizes)])
    print_table(
        f"{options.max_bytes:,} bytes after a prompt; medians of {options.rounds} rounds, least and greatest",
        ["model", "prompt", "bytes/s", "spread", "per pass", "first, ms", "spread"],
        speeds,
    )
    print_table("memory, MB", ["model", "prompt", "weights", "cache", "peak beyond the weights"], memory)
    if figures["acceptance"]:
        heads = list(figures["acceptance"][0]["bytes_per_pass"])
        print_table(
            "bytes a pass, by number of heads",
            [options.by, "documents", *(f"{count} heads" if count != "1" else "plain" for count in heads)],
            [
                [
                    row["group"], row["documents"],
                    *("-" if rate is None else f"{rate:.2f}" for rate in row["bytes_per_pass"].values()),
                ]
                for row in figures["acceptance"]
            ],
        )  # fmt: skip
    sys.stdout.write(f"all of it in {path}\n")
