"""The loss against log_softmax, label by label."""

import shutil

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from trainer.model import heads
from trainer.model.evabyte import EvaByte, ModelConfig
from trainer.model.heads import loss_sum, reference_loss

B, T = 2, 7


def model_of(main: int, raw: int, vocabulary: int) -> EvaByte:
    config = ModelConfig(
        dim=8, ffn=8, layers=1, heads=2, window=4, chunk=2, vocabulary_size=vocabulary, main_heads=main, raw_heads=raw
    )
    model = EvaByte(config)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for head in (model.lm_head, model.raw_multibyte_lm_head):
            if head is not None:
                head.weight.mul_(30)
    return model


def batch(model: EvaByte, empty: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, labels and weights, a share of them 0; raw heads get labels >= 320 only where those are 0."""
    generator = torch.Generator().manual_seed(seed)
    heads = model.config.main_heads + model.config.raw_heads
    hidden = torch.randn(B, T, 8, generator=generator).requires_grad_()
    labels = torch.randint(0, model.config.vocabulary_size, (B, T, heads), generator=generator).int()
    weights = torch.rand(B, T, heads, generator=generator)
    weights[torch.rand(B, T, heads, generator=generator) < empty] = 0
    weights[:, :, model.config.main_heads :][labels[:, :, model.config.main_heads :] >= 320] = 0
    return hidden, labels, weights


def log_p(model: EvaByte, hidden: Tensor, head: int, label: int) -> Tensor:
    """log p(label) of one head at one position, hidden [D]."""
    main, size = model.config.main_heads, model.config.vocabulary_size
    if head < main:
        rows = model.lm_head.weight[head * size : (head + 1) * size]
    else:
        rows = model.raw_multibyte_lm_head.weight[(head - main) * 320 : (head - main + 1) * 320]
    return log_softmax(rows @ hidden, 0)[label]


def plain_loss(model: EvaByte, hidden: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    cells = weights.nonzero().tolist()
    zero = hidden.sum() * 0
    return zero - sum(weights[b, t, h] * log_p(model, hidden[b, t], h, int(labels[b, t, h])) for b, t, h in cells)


def gradients(total: Tensor, model: EvaByte, hidden: Tensor) -> list[Tensor]:
    tensors = [hidden, model.lm_head.weight]
    if model.raw_multibyte_lm_head is not None:
        tensors.append(model.raw_multibyte_lm_head.weight)
    found = torch.autograd.grad(3 * total, tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]


@pytest.mark.parametrize("empty", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("main", "raw", "vocabulary"), [(8, 0, 320), (1, 1, 400), (1, 7, 400), (3, 2, 330)])
def test_loss_and_gradients_equal_the_plain_formula(main: int, raw: int, vocabulary: int, empty: float) -> None:
    model = model_of(main, raw, vocabulary)
    hidden, labels, weights = batch(model, empty)
    expected = plain_loss(model, hidden, labels, weights)
    expected_gradients = gradients(expected, model, hidden)
    for rows in (1, 3, 14, 1024):
        total = loss_sum(model, hidden, labels, weights, rows).total
        assert torch.allclose(total, expected, rtol=1e-5, atol=1e-5)
        for got, wanted in zip(gradients(total, model, hidden), expected_gradients, strict=True):
            assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_next_nats_are_those_of_head_0_where_it_has_weight() -> None:
    model = model_of(2, 1, 400)
    hidden, labels, weights = batch(model, 0.5)
    nats = loss_sum(model, hidden, labels, weights, rows=4).next_nats
    assert not nats.requires_grad
    for b in range(B):
        for t in range(T):
            expected = -log_p(model, hidden[b, t], 0, int(labels[b, t, 0])) if weights[b, t, 0] else torch.tensor(0.0)
            assert torch.allclose(nats[b, t], expected, atol=1e-5)


def test_no_gradient_is_made_where_none_is_asked_for() -> None:
    model = model_of(1, 1, 400)
    hidden, labels, weights = batch(model, 0.2)
    with torch.no_grad():
        total = loss_sum(model, hidden, labels, weights).total
    assert not total.requires_grad
    assert torch.equal(total, loss_sum(model, hidden, labels, weights).total.detach())


def test_logits_are_head_major() -> None:
    model = model_of(2, 2, 400)
    hidden = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
    main, raw = model.lm_head(hidden), model.raw_multibyte_lm_head(hidden)
    assert main.shape == (3, 2, 400)
    assert raw.shape == (3, 2, 320)
    for head, logits in enumerate([main[1, 0], main[1, 1], raw[1, 0], raw[1, 1]]):
        assert torch.allclose(logits.log_softmax(0)[5], log_p(model, hidden[1], head, 5), atol=1e-5)


@pytest.mark.parametrize(("main", "raw", "vocabulary"), [(8, 0, 320), (1, 1, 400), (2, 3, 400)])
def test_reference_loss_is_the_published_one(main: int, raw: int, vocabulary: int) -> None:
    model = model_of(main, raw, vocabulary)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 320, (B, T + main + raw), generator=generator)
    if vocabulary > 320:
        ids[0, 2:5] = 350
    hidden = torch.randn(B, T, 8, generator=generator).requires_grad_()
    expected = torch.zeros(())
    for b in range(B):
        for t in range(T):
            following = ids[b, t + 1 : t + 1 + main + raw].tolist()
            is_raw = raw > 0 and max(following) < 320
            heads = main + raw if is_raw else main
            for head in range(heads):
                expected = expected - log_p(model, hidden[b, t], head, following[head]) / heads
    expected = expected / (B * T)
    loss = reference_loss(model, hidden, ids)
    assert torch.allclose(loss, expected, rtol=1e-5)
    for got, wanted in zip(gradients(loss, model, hidden), gradients(expected, model, hidden), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("empty", [0.0, 0.5, 1.0])
def test_a_gpu_gives_the_same(empty: float) -> None:
    model = model_of(2, 3, 400)
    hidden, labels, weights = batch(model, empty)
    expected = loss_sum(model, hidden, labels, weights)
    expected_gradients = gradients(expected.total, model, hidden)
    there = model.to("cuda")
    moved = hidden.detach().cuda().requires_grad_()
    found = loss_sum(there, moved, labels.cuda(), weights.cuda(), rows=16)
    assert torch.allclose(found.total.cpu(), expected.total, rtol=1e-5, atol=1e-5)
    assert torch.allclose(found.next_nats.cpu(), expected.next_nats, atol=1e-5)
    for got, wanted in zip(gradients(found.total, there, moved), expected_gradients, strict=True):
        assert torch.allclose(got.cpu(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs g++")
def test_the_compiled_slice_gives_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 2, 500, generator=generator) * 5
    labels = torch.randint(0, 500, (16, 2), generator=generator)
    weights = torch.rand(16, 2, generator=generator)
    weights[11:] = 0
    expected = heads._cross_entropy(logits.clone(), labels, weights)
    for found, plain in zip(heads._compiled_cross_entropy(logits.clone(), labels, weights), expected, strict=True):
        assert torch.allclose(found, plain, rtol=1e-5, atol=1e-6)
