"""One measurement of inference: seconds to the first byte and after it, passes, memory. Models never end here.

Peak memory is what a process holds beyond what it held before: of a GPU by torch's own account; on a CPU by the
kernel's high-water mark of resident memory (Linux), after freed memory was given back. On a CPU pages are touched once
and counted in steps of an allocator, so small models show mostly that; the cache's size by formula stands beside it.
"""

import contextlib
import ctypes
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn import functional

from schemas.vocabulary import BYTE_OFFSET
from trainer.inference.decoding import Generator
from trainer.model.cache import Cache
from trainer.model.evabyte import EvaByte


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one generation took.

    Attributes:
        first: seconds to the first byte or symbol.
        seconds: for all after it.
        made: bytes or symbols after the first.
        passes: of the trunk after the prompt's.
        peak_bytes: of memory beyond what was held before; None where it cannot be told.
    """

    first: float
    seconds: float
    made: int
    passes: int
    peak_bytes: int | None


def time_bytes(generator: Generator, prompt: bytes, max_bytes: int) -> Timing:
    """A byte model that never ends writes after a prompt."""
    with _peak(generator.model) as peak:
        start = time.perf_counter()
        stream = generator.stream(prompt, max_bytes=max_bytes)
        head = next(stream)
        begun = time.perf_counter()
        for _ in stream:
            pass
        end = time.perf_counter()
    assert stream.result is not None, "it is used up"
    made, passes = stream.result.made - len(head), stream.result.passes - 1
    return Timing(first=begun - start, seconds=end - begun, made=made, passes=passes, peak_bytes=peak.found)


def time_symbols(model: EvaByte, ids: list[int], count: int) -> Timing:
    """A model of symbols writes the likeliest ones after a prompt, one a pass; no special id is ever chosen.

    Args:
        model: trained on comp views, or of random weights.
        ids: of the prompt.
        count: symbols to write, 2 or more.
    """
    with _peak(model) as peak, torch.inference_mode():
        head = model.lm_head.weight[: model.config.vocabulary_size]
        device = head.device
        start = time.perf_counter()
        cache = Cache(model)
        hidden = cache.prefill(0, torch.tensor(ids, device=device))[-1:]
        chosen = _likeliest(hidden, head)
        begun = time.perf_counter()
        for _ in range(count - 1):
            chosen = _likeliest(cache.step(torch.tensor([chosen], device=device)), head)
        end = time.perf_counter()
    return Timing(first=begun - start, seconds=end - begun, made=count - 1, passes=count - 1, peak_bytes=peak.found)


def _likeliest(hidden: torch.Tensor, head: torch.Tensor) -> int:
    logits = functional.linear(hidden, head)
    logits[:, :BYTE_OFFSET] = -torch.inf
    return int(logits.argmax())  # an int: a GPU has to be waited for


def weight_bytes(model: EvaByte) -> int:
    """Size of all parameters."""
    return sum(parameter.nbytes for parameter in model.parameters())


def cache_bytes(model: EvaByte, length: int, nodes: int) -> int:
    """Size of the keys and values of one row: its window, nodes and summaries of full windows.

    Args:
        model: of which.
        length: ids, prompt and what was written.
        nodes: places for the tree.
    """
    config = model.config
    keys = config.window + nodes + length // config.window * (config.window // config.chunk)
    return int(2 * config.layers * keys * config.dim * model.embed_tokens.weight.element_size())


@dataclass
class _Peak:
    found: int | None = field(default=None)


@contextlib.contextmanager
def _peak(model: EvaByte) -> Iterator[_Peak]:
    """Memory that the block takes beyond what is held when it begins."""
    peak = _Peak()
    if model.embed_tokens.weight.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.found = torch.cuda.max_memory_allocated() - before
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    held = _reset_resident()
    yield peak
    if held is not None:
        highest = _resident("VmHWM")
        peak.found = None if highest is None else max(0, highest - held)


def _reset_resident() -> int | None:
    """Set the high-water mark of resident memory to what is held now, which is returned; None: not to be had."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _resident("VmRSS")


def _resident(name: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
