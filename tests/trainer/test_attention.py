"""EVA attention against a plain, dense, slow twin written from the formulas."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_twin import operands, packing, twin, with_gradients
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from schemas.vocabulary import EOS
from trainer.model.attention import AttentionPlan, attend

W, C = 16, 4
LENGTHS = [1, 2, 3, 4, 5, 15, 16, 17, 19, 20, 21, 31, 32, 33, 36, 47, 48, 49, 63, 64, 80]


def plan_of(ids: Tensor, doc: Tensor, **options: Any) -> AttentionPlan:
    return AttentionPlan.of(ids, doc, window=W, chunk=C, dtype=torch.float32, **options)


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
    plain = with_gradients(twin(*tensors, ids, doc, window=W, chunk=C), tensors)
    for got, expected in zip(ours, plain, strict=True):
        assert torch.isfinite(got).all()
        assert (got - expected).abs().max() < 1e-5


@pytest.mark.parametrize("mask_bytes", [1 << 20, 0])
@pytest.mark.parametrize("show_eos", [False, True])
def test_rows_of_eos_are_exactly_zero_and_give_no_gradient(show_eos: bool, mask_bytes: int) -> None:
    ids, doc = packing(2, 64, 0.1, 0.1, seed=0)
    q, k, v, mu, phi = operands(2, 2, 64, 8, seed=1)
    plan = replace(plan_of(ids, doc, mask_bytes=0), show_eos=show_eos)
    if mask_bytes:
        plan = replace(plan, masks=[plan.mask(n) for n in range(plan.windows)])
    out = attend(q, k, v, mu, phi, plan)
    assert torch.allclose(out, attend(q, k, v, mu, phi, plan_of(ids, doc)), atol=1e-6)
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
