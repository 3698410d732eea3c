"""What a training step holds in memory, by part, before there is one.

Nothing here restates the model: its own code runs on fake tensors, which have shapes and no memory, and every storage
it makes is counted while it lives. A step's blocks are alike, so models of one and two blocks say what a block keeps
for its backward pass, what is kept once, and what the work on a block takes beside it; the loss is run for a few
slices of positions and is linear in them. A step's fullest moment is then the largest of few: in the loss, in the
backward pass of the last or of the first block, at the end of it, in the optimiser. Proven against the bytes that the
allocator hands out in real steps (tests/trainer/test_memory_plan.py).

Two kernels of GPUs cannot run here and are stood in for by what they save:
  flex_attention   q, k, v, the result, a log-sum in fp32 for each query, summaries and their shares;
  rms_norm         its input and one number in fp32 for each row.

Of FSDP2 these rules are written out (`parallel.shard`): embedding, last norm and heads stay gathered from the forward
pass to the end, beside two blocks, one in use and one on its way; a block's gradient is added up in fp32 while the
next block's is made; between the micro-batches of a step each process keeps its share of the gradient.

Shapes: b sequences of a micro-batch, T ids, n = b T, L blocks, D width, H heads of prediction.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from schemas.vocabulary import COMP_OFFSET
from trainer.model.attention import AttentionPlan, attend
from trainer.model.evabyte import Attend, EvaByte, ModelConfig, Recompute, RMSNorm, parameters
from trainer.model.heads import GPU_ROWS, ROWS, loss_sum

Precision = Literal["bf16", "fp32", "fp64"]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}

RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
"""From the fastest and largest to the slowest and smallest."""


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """How a process makes its part of a step.

    Attributes:
        sequence: T.
        micro_batch: b.
        micro_batches: of a step.
        recompute: as of `Block`.
        precision: of the blocks; parameters are stored in fp32, with fp64 in that.
        shared: by FSDP2; a process alone on a CPU does without.
        gpu: whether the kernels of GPUs are used.
    """

    sequence: int
    micro_batch: int
    micro_batches: int = 1
    recompute: Recompute = "none"
    precision: Precision = "fp32"
    shared: bool = False
    gpu: bool = False

    @property
    def stored_bytes(self) -> int:
        """Of a parameter, and of each of its moments."""
        return 8 if self.precision == "fp64" else 4


@dataclass(frozen=True, kw_only=True)
class Share:
    """Numbers of parameters: of a model, or of the part of it that a process stores."""

    trunk: int
    embedding: int
    heads: int

    @classmethod
    def of(cls, model: EvaByte) -> "Share":
        """What this process stores of a model, on the meta device or not; all of it unless it is sharded."""
        counts = {"trunk": 0, "embedding": 0, "heads": 0}
        for name, parameter in model.named_parameters():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            part = name.split(".")[0]
            key = {"embed_tokens": "embedding", "lm_head": "heads", "raw_multibyte_lm_head": "heads"}.get(part, "trunk")
            counts[key] += local.numel()
        return cls(**counts)

    @classmethod
    def whole(cls, config: ModelConfig) -> "Share":
        """All of a model."""
        embedding = config.vocabulary_size * config.dim
        heads = (config.main_heads * config.vocabulary_size + config.raw_heads * COMP_OFFSET) * config.dim
        return cls(trunk=parameters(config) - embedding - heads, embedding=embedding, heads=heads)

    def over(self, processes: int) -> "Share":
        """The mean share of so many processes, rounded up."""
        return Share(**{item.name: -(-getattr(self, item.name) // processes) for item in fields(self)})

    @property
    def total(self) -> int:
        """All parts."""
        return self.trunk + self.embedding + self.heads


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a process at the fullest moment of a step.

    Attributes:
        moment: when that is.
        parameters: stored ones, its share.
        moments: AdamW's two.
        gradients: there at that moment.
        gathered: parameters of other processes, in the precision of the blocks (FSDP).
        reduction: gradients on their way to the other processes (FSDP).
        activations: kept for the backward pass.
        working: what the work of that moment takes: a slice of logits and the heads' gradient in the loss; a
            block's recomputed activations, their gradients and its own in the backward pass.
        batch: arrays of the micro-batch.
    """

    moment: str
    parameters: int
    moments: int
    gradients: int = 0
    gathered: int = 0
    reduction: int = 0
    activations: int = 0
    working: int = 0
    batch: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part; they sum to `total`."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "moment"}

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


def predict(config: ModelConfig, step: StepShape, share: Share) -> Memory:
    """The fullest moment of a step.

    Args:
        config: of the model.
        step: how it is made.
        share: of the parameters that this process stores; all of them unless `step.shared`.
    """
    return max(_moments(config, step, share), key=lambda memory: memory.total)


def at_once(config: ModelConfig, step: StepShape) -> dict[str, int]:
    """Bytes that the work of the loss and that of a block's backward pass take, each when it is its turn.

    The loss: two slices of logits, the heads' gradient, the hidden states' gradient. A block: what it recomputes,
    gradients of its activations, attention's keys and values with summaries and their gradients, its own gradient.
    """
    dtype = DTYPES[step.precision]
    block = _block(config, step.sequence, step.micro_batch, step.recompute, dtype, step.gpu)
    return {"loss": _loss(config, step.sequence * step.micro_batch, dtype, step.gpu), "block": block.work}


def _moments(config: ModelConfig, step: StepShape, share: Share) -> Iterator[Memory]:
    """The moments of a step that can be its fullest, in order, those of a second micro-batch if there is one."""
    dtype = DTYPES[step.precision]
    width, stored = dtype.itemsize, step.stored_bytes
    block = _block(config, step.sequence, step.micro_batch, step.recompute, dtype, step.gpu)
    loss = _loss(config, step.sequence * step.micro_batch, dtype, step.gpu)
    whole, layers = Share.whole(config), config.layers
    in_block, local_block = whole.trunk // layers, share.trunk // layers
    in_root = whole.total - layers * in_block  # embedding, heads, the last norm's gain
    accumulates = step.micro_batches > 1

    heads = config.main_heads + config.raw_heads
    always = partial(
        Memory,
        parameters=stored * share.total,
        moments=2 * stored * share.total,
        # ids, doc, position; labels and weights by head: 4 bytes each
        batch=step.sequence * step.micro_batch * (12 + 8 * heads),
    )
    gathered = width * (in_root + min(2, layers) * in_block) if step.shared else 0

    def gradients(blocks_left: int, made: int) -> int:
        """Bytes when `blocks_left` blocks wait for their backward pass; `made`: numbers of the root that are there."""
        done = layers - blocks_left
        if not accumulates:
            return width * made + (stored * local_block if step.shared else width * in_block) * done
        # all are there from the micro-batch before
        return stored * share.total + width * made if step.shared else stored * whole.total

    kept = block.once + layers * block.each
    yield always(moment="loss", gradients=gradients(layers, 0), gathered=gathered, activations=kept, working=loss)
    # linear in the block's number, so that one of the outermost is the fullest; nothing is reduced before the last's
    for number in sorted({layers, max(layers - 1, 1), 1}, reverse=True):
        yield always(
            moment=f"backward pass of block {number} of {layers}",
            gradients=gradients(number, whole.heads),
            gathered=gathered,
            reduction=stored * in_block if step.shared and number < layers else 0,
            activations=block.once + number * block.each,
            working=block.work,
        )
    # FSDP's root is reduced last, after the gathered parameters are free; CPUs cast its gradient apart
    cast = width * in_root if width != stored and not step.gpu else 0
    yield always(
        moment="backward pass of the embedding",
        gradients=gradients(0, in_root) + (stored * (share.total - layers * local_block) if step.shared else 0),
        reduction=stored * in_root + cast if step.shared else 0,
        working=width * step.sequence * step.micro_batch * config.dim,
    )
    yield always(moment="optimiser", gradients=stored * share.total)


@dataclass(frozen=True)
class _Block:
    """Bytes of the trunk: kept for each block, kept once, and taken by the backward pass of one beside that."""

    each: int
    once: int
    work: int


@cache
def _block(
    config: ModelConfig, sequence: int, batch: int, recompute: Recompute, dtype: torch.dtype, gpu: bool
) -> _Block:
    run = partial(_run_trunk, config, sequence, batch, recompute, dtype, gpu)
    (one, work), (two, _) = run(1), run(2)
    each = two - one
    if gpu and recompute == "selective":  # the stand-in is not among the operations whose results are kept
        each += batch * sequence * (dtype.itemsize * config.dim + 4 * config.heads)
    return _Block(each=each, once=2 * one - two, work=work)


def _run_trunk(
    config: ModelConfig, sequence: int, batch: int, recompute: Recompute, dtype: torch.dtype, gpu: bool, layers: int
) -> tuple[int, int]:
    """Bytes kept after the forward pass of some blocks, and taken by the backward pass beside them."""
    with FakeTensorMode():
        model = _fake_model(config, layers, dtype)
        for layer in model.layers:
            layer.recompute = recompute
        ids = torch.zeros(batch, sequence, dtype=torch.int32)
        held = _Held([*model.parameters(), ids])
        with held:
            x = torch.zeros(batch, sequence, config.dim, dtype=dtype, requires_grad=True)
            attention: Attend
            if gpu:
                for module in model.modules():
                    if isinstance(module, RMSNorm):
                        # of this instance alone
                        module.forward = partial(_with_kernel_norm, module.forward)  # type: ignore[method-assign]
                attention = partial(_kernel_attention, window=config.window, chunk=config.chunk)
            else:
                plan = AttentionPlan.of(ids, ids, window=config.window, chunk=config.chunk, dtype=dtype)
                attention = partial(attend, plan=plan)
            hidden = model.run(x, ids, [attention] * layers)
            kept = held.now
            slope = torch.empty_like(hidden)
            held.peak = held.now
            hidden.backward(slope)
            return kept, held.peak - kept


@cache
def _loss(config: ModelConfig, positions: int, dtype: torch.dtype, gpu: bool) -> int:
    """Most bytes that the loss takes, forward and backward, where every position has labels."""
    rows = GPU_ROWS if gpu else ROWS
    # from the second slice of logits on, the one before it is still there
    few, more = (_run_loss(config, slices * rows, dtype, rows) for slices in (2, 3))
    if positions <= 2 * rows:
        return _run_loss(config, positions, dtype, rows)
    return few + (more - few) * (positions - 2 * rows) // rows


def _run_loss(config: ModelConfig, positions: int, dtype: torch.dtype, rows: int) -> int:
    with FakeTensorMode():
        model = _fake_model(config, 1, dtype)
        heads = config.main_heads + config.raw_heads
        hidden = torch.zeros(1, positions, config.dim, dtype=dtype, requires_grad=True)
        labels = torch.zeros(1, positions, heads, dtype=torch.int32)
        weights = torch.ones(1, positions, heads)
        with _Held([*model.parameters(), hidden, labels, weights]) as held:
            loss_sum(model, hidden, labels, weights, rows).total.backward()
            return held.peak


def _fake_model(config: ModelConfig, layers: int, dtype: torch.dtype) -> EvaByte:
    """A model made in its dtype: modules of fake tensors cannot be converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return EvaByte(replace(config, layers=layers))
    finally:
        torch.set_default_dtype(before)


class _Held(TorchDispatchMode):  # type: ignore[misc]  # torch is not followed by mypy
    """Counts the bytes of all storages that are made inside it, while they live.

    Args:
        known: tensors that were there before and do not count.

    Attributes:
        now: bytes alive.
        peak: most bytes so far.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()
        self._known = list(known)  # held, so that no new storage takes the place of an old one
        self._alive.update(tensor.untyped_storage()._cdata for tensor in self._known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it makes."""
        if func is torch.ops.aten.nonzero.default:  # how many there are is in data that fake tensors have not: all
            out = torch.zeros(args[0].numel(), args[0].dim(), dtype=torch.int64, device=args[0].device)
        else:
            out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _with_kernel_norm(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with _KernelNorm():
        return forward(x)


class _KernelNorm(TorchFunctionMode):  # type: ignore[misc]  # torch is not followed by mypy
    """Replaces `rms_norm`, which CPUs put together from small operations, by what GPUs' kernel keeps."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function."""
        if func in (functional.rms_norm, torch.rms_norm):
            return _norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _norm(x: Tensor, shape: tuple[int, ...], weight: Tensor, eps: float) -> Tensor:
    """As `rms_norm`."""
    norm: Callable[..., Tensor] = _Norm.apply
    return norm(x, weight)


class _Norm(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    """Shapes of a fused norm: x [.., D], gain [D] -> [.., D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        """Keeps x and a number for each row."""
        ctx.save_for_backward(x, gain, x.new_empty(x.shape[:-1]))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of both."""
        x, gain, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(gain)


def _kernel_attention(q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, *, window: int, chunk: int) -> Tensor:
    attention: Callable[..., Tensor] = _Attention.apply
    return attention(q, k, v, mu, phi, (k.shape[2] - window) // chunk, chunk)


class _Attention(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    """Shapes of compiled attention over tokens and summaries (`flex.py`): q, k, v [B, h, T, d] -> [B, h, T, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, chunks: int, chunk: int) -> Tensor:
        """Makes keys and values with summaries behind them; keeps its inputs, the result and small things."""
        out = torch.empty_like(q)
        heads, length = q.shape[1:3]
        summaries = k.new_empty(2, len(k), heads, chunks, k.shape[3])
        shares = k.new_empty(2, len(k), heads, chunks * chunk)
        log_sums = q.new_empty(len(q), heads, length, dtype=torch.float32)
        _with_summaries(k, chunks), _with_summaries(v, chunks)
        ctx.save_for_backward(q, k, v, mu, phi, out, summaries, shares, log_sums)
        ctx.chunks = chunks
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Makes keys and values again and their gradients, summaries included, then those of the inputs."""
        q, k, v, mu, phi, *_ = ctx.saved_tensors
        again = [_with_summaries(tensor, ctx.chunks) for tensor in (k, v)]
        slopes = [torch.empty_like(tensor) for tensor in again]
        d_q = torch.empty_like(q)
        del again, slopes
        return d_q, torch.empty_like(k), torch.empty_like(v), torch.empty_like(mu), torch.empty_like(phi), None, None


def _with_summaries(tensor: Tensor, chunks: int) -> Tensor:
    """[B, h, T, d] -> [B, h, T + chunks, d]."""
    return tensor.new_empty(*tensor.shape[:2], tensor.shape[2] + chunks, tensor.shape[3])
