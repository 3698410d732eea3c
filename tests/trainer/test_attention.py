"""EVA attention against a plain, dense, slow twin written from the formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from schemas.vocabulary import EOS
from trainer.model.attention import AttentionPlan, attend

W, C = 16, 4
LENGTHS = [1, 2, 3, 4, 5, 15, 16, 17, 19, 20, 21, 31, 32, 33, 36, 47, 48, 49, 63, 64, 80]


def twin(q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, ids: Tensor, doc: Tensor) -> Tensor:
    """One dense softmax per row over [keys; summaries], one row and one chunk at a time."""
    out = q * 0
    scale = q.shape[-1] ** -0.5
    for b in range(q.shape[0]):
        eos = (ids[b] == EOS).tolist()
        docs = doc[b].tolist()
        for h in range(q.shape[1]):
            chunks = {}
            for j in range(q.shape[2] // C):
                last = j * C + C - 1
                members = [t for t in range(j * C, last + 1) if docs[t] == docs[last] and not eos[t]]
                if eos[last]:
                    continue
                keys, values = k[b, h, members], v[b, h, members]
                a = torch.softmax(keys @ mu[0, h, 0, 0], 0)
                s = torch.softmax(scale * (keys @ phi[0, h, 0, 0] - keys.pow(2).sum(1) / 2), 0)
                chunks[j] = (a @ keys, s @ values)
            for i in range(q.shape[2]):
                if eos[i]:
                    continue
                tokens = [t for t in range(i + 1) if t // W == i // W and docs[t] == docs[i] and not eos[t]]
                earlier = [j for j in chunks if j * C // W < i // W and docs[j * C + C - 1] == docs[i]]
                keys = torch.cat([k[b, h, tokens], *(chunks[j][0][None] for j in earlier)])
                values = torch.cat([v[b, h, tokens], *(chunks[j][1][None] for j in earlier)])
                out[b, h, i] = torch.softmax(scale * (keys @ q[b, h, i]), 0) @ values
    return out


def packing(batch: int, length: int, documents: float, eos: float, seed: int) -> tuple[Tensor, Tensor]:
    """Ids and document numbers: new documents at random, eos at their ends and at random places elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    new = torch.rand(batch, length, generator=generator) < documents
    ids = torch.randint(64, 320, (batch, length), generator=generator)
    ids[:, :-1][new[:, 1:]] = EOS
    ids[torch.rand(batch, length, generator=generator) < eos] = EOS
    return ids, new.int().cumsum(1)


def operands(batch: int, heads: int, length: int, dim: int, seed: int) -> list[Tensor]:
    """Random q, k, v, mu, phi, all with gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, length, dim)] * 3 + [(1, heads, 1, 1, dim)] * 2
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def plan_of(ids: Tensor, doc: Tensor, **options: Any) -> AttentionPlan:
    return AttentionPlan.of(ids, doc, window=W, chunk=C, dtype=torch.float32, **options)


def with_gradients(out: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of a fixed random function of it; zeros for what it does not depend on."""
    seeds = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    gradients = torch.autograd.grad((out * seeds).sum(), tensors, allow_unused=True)
    return [out, *(torch.zeros_like(t) if g is None else g for g, t in zip(gradients, tensors, strict=True))]


@pytest.mark.parametrize("mask_bytes", [1 << 20, 0], ids=["masks kept", "masks made anew"])
@pytest.mark.parametrize(
    ("length", "documents", "eos"),
    [(length, 0.1, 0.05) for length in LENGTHS]
    + [
        (64, 0.0, 0.0),
        (64, 0.0, 0.3),
        (64, 0.5, 0.0),
        (64, 1.0, 0.0),
        (64, 0.03, 0.0),
        (64, 0.2, 1.0),
        (80, 0.02, 0.1),
    ],
)
def test_equals_the_dense_twin_with_gradients(length: int, documents: float, eos: float, mask_bytes: int) -> None:
    ids, doc = packing(2, length, documents, eos, seed=length)
    tensors = operands(2, 2, length, 8, seed=length + 1)
    ours = with_gradients(attend(*tensors, plan_of(ids, doc, mask_bytes=mask_bytes)), tensors)
    plain = with_gradients(twin(*tensors, ids, doc), tensors)
    for got, expected in zip(ours, plain, strict=True):
        assert torch.isfinite(got).all()
        assert (got - expected).abs().max() < 1e-5


def test_rows_of_eos_are_exactly_zero_and_give_no_gradient() -> None:
    ids, doc = packing(2, 64, 0.1, 0.1, seed=0)
    q, k, v, mu, phi = operands(2, 2, 64, 8, seed=1)
    out = attend(q, k, v, mu, phi, plan_of(ids, doc))
    is_eos = (ids == EOS)[:, None].expand(2, 2, 64)
    assert is_eos.any()
    assert (out[is_eos] == 0).all()
    assert (out[~is_eos].abs().sum(-1) > 0).all()
    out.square().sum().backward()
    for tensor in (q, k, v):  # as a key it is in no visible pooling either
        assert (tensor.grad[is_eos] == 0).all()


def test_the_last_windows_own_summaries_are_nobodys_keys() -> None:
    tensors = operands(1, 1, W, 8, seed=2)
    ids, doc = packing(1, W, 0, 0, seed=0)
    out = attend(*tensors, plan_of(ids, doc))
    causal = torch.nn.functional.scaled_dot_product_attention(*tensors[:3], is_causal=True)
    assert torch.allclose(out, causal, atol=1e-6)


def test_a_document_does_not_depend_on_those_before_it_where_windows_align() -> None:
    q, k, v, mu, phi = operands(1, 2, 4 * W, 8, seed=3)
    ids, doc = packing(1, 4 * W, 0, 0, seed=1)
    doc[:, 2 * W :] = 1
    ids[:, 2 * W - 1] = EOS
    packed = attend(q, k, v, mu, phi, plan_of(ids, doc))
    tail = slice(2 * W, None)
    alone = attend(q[:, :, tail], k[:, :, tail], v[:, :, tail], mu, phi, plan_of(ids[:, tail], doc[:, tail]))
    assert torch.allclose(packed[:, :, tail], alone, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def memory(length: int, mask_bytes: int = 0) -> tuple[int, int]:
    """Elements of the largest tensor of a forward and backward pass, and elements kept between the two."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.itemsize
        return tensor

    ids, doc = packing(1, length, 0.01, 0.0, seed=4)
    tensors = operands(1, 1, length, 8, seed=5)
    with LargestTensor() as mode, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = attend(*tensors, plan_of(ids, doc, mask_bytes=mask_bytes))
        between = sum(kept.values())
        out.sum().backward()
    return mode.largest, between


def test_memory_is_linear_in_the_sequence() -> None:
    short, long = memory(16 * W), memory(64 * W)
    assert long[0] <= 4 * short[0]
    assert long[1] <= 4.1 * short[1]
    assert memory(64 * W, mask_bytes=1 << 30)[1] > 2 * long[1]  # kept masks would be seen here


@pytest.mark.parametrize("length", [W - 3, W, 5 * W, 40 * W + 5])
def test_kept_masks_take_no_more_than_they_may(length: int) -> None:
    ids, doc = packing(2, length, 0.1, 0.1, seed=0)
    for limit in (1 << 8, 1 << 12, 1 << 16, 1 << 20):
        masks = plan_of(ids, doc, mask_bytes=limit).masks
        assert sum(mask.numel() * 4 for tiles in masks for mask in tiles) <= limit
    assert plan_of(ids, doc).masks
    assert not plan_of(ids, doc, mask_bytes=1 << 8).masks
