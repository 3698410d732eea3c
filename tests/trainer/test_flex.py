"""The GPU's attention against the dense twin: its masks and block tables anywhere, its compiled kernel on a GPU."""

import shutil
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from attention_twin import operands, packing, twin, with_gradients
from torch import Tensor

from trainer.model import attention, flex
from trainer.model.evabyte import Attend, EvaByte, ModelConfig, Recompute
from trainer.model.flex import BLOCK, FlexPlan
from trainer.scales import Init

SMALL = ModelConfig(
    dim=32, ffn=48, layers=2, heads=2, window=64, chunk=8, vocabulary_size=330, main_heads=2, raw_heads=1
)

CASES = [
    # length, window, chunk, documents, eos
    (128, 128, 8, 0.03, 0.02),
    (128, 32, 4, 0.1, 0.05),
    (256, 64, 8, 0.03, 0.02),
    (384, 128, 8, 0.0, 0.0),
    (384, 128, 8, 0.01, 0.0),
    (384, 128, 4, 0.1, 0.05),
    (384, 192, 8, 0.02, 0.3),  # blocks that straddle windows
    (512, 256, 8, 0.004, 0.002),
    (256, 128, 8, 1.0, 0.0),
    (256, 128, 8, 0.2, 1.0),  # eos alone
]

BF16_TOLERANCE = 2**-5
"""Of outputs of unit normals: four steps of bf16 at 1 (measured: 0.014)."""

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    """Each length is another graph to the compiler, and it bounds their number."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def dense(mask: flex.BlockMask, batch: int, length: int) -> Tensor:
    """What the rule says of each query and key, whatever the blocks: bool [B, T, N]."""
    index = torch.arange(length)[:, None], torch.arange(mask.seq_lengths[1])[None]
    return torch.stack([mask.mask_mod(torch.tensor(b), torch.tensor(0), *index) for b in range(batch)])


@pytest.mark.parametrize(("length", "window", "chunk", "documents", "eos"), CASES)
def test_equals_the_dense_twin_with_gradients(
    length: int, window: int, chunk: int, documents: float, eos: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch refuses gradients on CPUs for want of a kernel; its plain formula, used here, has them
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    ids, doc = packing(2, length, documents, eos, seed=length)
    tensors = operands(2, 2, length, 16, seed=length + 1)
    plan = FlexPlan.of(ids, doc, window=window, chunk=chunk)
    ours = with_gradients(flex.attend(*tensors, plan), tensors)
    plain = with_gradients(twin(*tensors, ids, doc, window=window, chunk=chunk), tensors)
    for got, expected in zip(ours, plain, strict=True):
        assert torch.isfinite(got).all()
        assert (got - expected).abs().max() < 1e-4
    assert (ours[0].transpose(1, 2)[ids == 2] == 0).all()


@pytest.mark.parametrize("seed", range(30))
def test_block_tables_skip_only_what_nobody_sees_and_pass_only_what_all_see(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    window = int(torch.tensor([64, 128, 256, 384])[torch.randint(4, (1,), generator=generator)])
    length = torch.lcm(torch.tensor(window), torch.tensor(BLOCK)).item() * 2
    rates = torch.tensor([0.0, 0.002, 0.01, 0.1, 0.5])[torch.randint(5, (2,), generator=generator)]
    ids, doc = packing(2, int(length), float(rates[0]), float(rates[1]), seed=seed)
    mask = FlexPlan.of(ids, doc, window=window, chunk=8).mask
    cells = dense(mask, 2, int(length)).unflatten(1, (-1, BLOCK)).unflatten(3, (-1, BLOCK))
    some, every = cells.any(2).any(-1), cells.all(2).all(-1)  # [B, rows, columns]
    listed = torch.zeros_like(some), torch.zeros_like(some)
    tables = ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices))
    for marked, (count, order) in zip(listed, tables, strict=True):
        for b in range(2):
            for row in range(some.shape[1]):
                marked[b, row, order[b, 0, row, : count[b, 0, row]].long()] = True
    partly, wholly = listed
    assert not (partly & wholly).any()
    assert (every | ~wholly).all()
    assert (~some | partly | wholly).all()
    if rates[1] == 0:
        # where no document begins inside a block nothing is computed in vain
        assert (wholly.sum() > 0) == bool(every.any())


def test_most_blocks_of_long_documents_need_no_mask() -> None:
    ids, doc = packing(1, 4096, 0.0, 0.0, seed=0)
    mask = FlexPlan.of(ids, doc, window=1024, chunk=8).mask
    # windows of 8 blocks: 28 whole pairs each and the diagonal; one block of summaries for each earlier window
    assert mask.kv_num_blocks.sum() == 4 * 8
    assert mask.full_kv_num_blocks.sum() == 4 * 28 + 8 * (1 + 2 + 3)


@pytest.mark.parametrize(
    ("length", "window", "dim", "expected"),
    [
        (256, 128, 64, True),
        (256, 256, 16, True),
        (255, 255, 64, False),
        (320, 64, 64, False),
        (384, 256, 64, False),
        (256, 128, 48, False),
        (256, 128, 8, False),
    ],
)
def test_lengths_and_widths_that_the_kernel_takes(length: int, window: int, dim: int, expected: bool) -> None:
    assert flex.fits(length, window, dim) is expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs g++")
@pytest.mark.parametrize(("length", "window", "documents", "eos"), [(1024, 256, 0.003, 0.001), (384, 192, 0.02, 0.3)])
def test_compiled_kernel_follows_the_block_tables_and_is_compiled_once(
    length: int, window: int, documents: float, eos: float
) -> None:
    run = torch.compile(flex._attend, dynamic=False)
    with torch.no_grad():
        graphs = []
        for seed in range(3):
            ids, doc = packing(2, length, documents, eos, seed=seed)
            tensors = [tensor.detach() for tensor in operands(2, 2, length, 64, seed=seed)]
            plan = FlexPlan.of(ids, doc, window=window, chunk=8)
            windows = attention.AttentionPlan.of(ids, doc, window=window, chunk=8, dtype=torch.float32)
            expected = attention.attend(*tensors, windows)
            for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, BF16_TOLERANCE)):
                out = run(*(tensor.to(dtype) for tensor in tensors), plan.members, plan.padding, plan.mask)
                assert (out.float() - expected).abs().max() < tolerance
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[2] == graphs[0]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "window", "chunk", "documents", "eos"), [(4096, 1024, 8, 0.002, 0.001), *CASES[2:]])
def test_compiled_on_a_gpu(
    length: int, window: int, chunk: int, documents: float, eos: float, dtype: torch.dtype
) -> None:
    """Against the CPU's windows, which equal the twin; gradients of bf16 by their root mean square."""
    ids, doc = packing(2, length, documents, eos, seed=length)
    tensors = operands(2, 2, length, 64, seed=length + 1)
    plan = attention.AttentionPlan.of(ids, doc, window=window, chunk=chunk, dtype=torch.float32)
    expected = with_gradients(attention.attend(*tensors, plan), tensors)
    there = [tensor.detach().to("cuda", dtype).requires_grad_() for tensor in tensors]
    gpu_plan = FlexPlan.of(ids.cuda(), doc.cuda(), window=window, chunk=chunk)
    got = with_gradients(flex.attend(*there, gpu_plan), there)
    assert (got[0].cpu().float() - expected[0]).abs().max() < (1e-4 if dtype is torch.float32 else BF16_TOLERANCE)
    for ours, plain in zip(got[1:], expected[1:], strict=True):
        assert torch.isfinite(ours).all()
        error = (ours.cpu().float() - plain).abs().max() / plain.square().mean().sqrt().clamp(min=1)
        assert error < (1e-4 if dtype is torch.float32 else 2**-2)


class Flexed(EvaByte):
    """The model as a GPU has it."""

    def _attention(self, ids: Tensor, doc: Tensor, dtype: torch.dtype) -> Attend:
        plan = FlexPlan.of(ids, doc, window=self.config.window, chunk=self.config.chunk)
        return partial(flex.attend, plan=plan)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_blocks_compiled_or_recomputed_have_the_same_gradients(
    recompute: Recompute, backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    plain, flexed = EvaByte(SMALL), Flexed(SMALL)
    plain.init_weights(torch.Generator().manual_seed(0), Init(inner=0.2))
    flexed.load_state_dict(plain.state_dict())
    for layer in flexed.layers:
        layer.recompute = recompute
        if backend:
            layer.compile(backend=backend)
    graphs = []
    for seed in range(3):
        ids, doc = packing(2, 256, 0.01, 0.01, seed)
        found = []
        for model in (plain, flexed):
            hidden = model(ids, doc, torch.arange(256).expand(2, 256))
            found.append(with_gradients(hidden, list(model.parameters())))
        for expected, got in zip(*found, strict=True):
            assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[2] == graphs[0]  # other documents are not another graph
