"""The prediction heads and the one loss: a weighted sum of cross-entropies, without logits of a whole batch.

loss_sum = sum over positions t and heads h of weights[t, h] * CE(head h at t, labels[t, h]). The weights come with
the batch (who predicts what is decided where renderings are known, in the loader); here they are only numbers, and
positions without any are not computed. Heads 0 .. P-1 are the main ones, over the whole vocabulary, P .. P+R-1 the
raw ones over the first 320 ids.

Logits exist for ROWS positions at a time. Their gradient is computed at once in the forward pass, since the sum is a
scalar and its derivative only scales it: three matrix products per slice, none again, against four with
checkpointing. `torch.nn.functional.linear_cross_entropy` does the same at the same speed (measured: 8,192 positions
at D = 128, V = 4,416 in 0.31 s, forward and backward on one thread; unsliced 0.55 s), but takes no weight per
position and is not in torch 2.11.

`reference_loss` is the loss as published, in the same machinery.

Shapes: B sequences, T ids, H = P + R heads, N positions, D width, V ids of a head.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from schemas.vocabulary import COMP_OFFSET

if TYPE_CHECKING:
    from trainer.model.evabyte import EvaByte

ROWS = 256
"""Positions whose logits exist at once: 5 MB at V = 4,416, 67 MB at 65,856, in fp32. At V = 4,416 on one thread 128
and 256 are equal, 512 takes 10 % longer, 2,048 30 %: the slice leaves the cache."""

GPU_ROWS = 4096
"""The same on a GPU: 1.1 GB at V = 65,856. Each slice adds a whole gradient of W once, so larger ones are faster."""


class Loss(NamedTuple):
    """What `loss_sum` gives.

    Attributes:
        total: scalar, sum of weights * cross-entropy in nats, with gradient.
        next_nats: fp32 [B, T], cross-entropy of head 0 in nats where it has weight, else 0; no gradient.
    """

    total: Tensor
    next_nats: Tensor


class Head(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """`count` linear maps D -> V in one matrix [count * V, D], head by head; empty at first."""

    def __init__(self, dim: int, count: int, size: int) -> None:
        super().__init__()
        self.count, self.size = count, size
        self.weight = nn.Parameter(torch.empty(count * size, dim))

    def forward(self, hidden: Tensor) -> Tensor:
        """[.., D] -> logits fp32 [.., count, V]; for inference, a few positions at a time."""
        return functional.linear(hidden, self.weight).float().unflatten(-1, (self.count, self.size))

    def loss(self, hidden: Tensor, labels: Tensor, weights: Tensor, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """Weighted sum of cross-entropies.

        Args:
            hidden: [N, D].
            labels: int [N, count], below V wherever weights are not 0.
            weights: fp32 [N, count].
            rows: positions computed at once; None: what suits the device.

        Returns:
            The sum, a scalar, and the cross-entropies fp32 [N, count], 0 where weights are 0, without gradient.
        """
        wanted = weights != 0
        places = wanted.any(1).nonzero().squeeze(1)
        count = len(places)
        if hidden.is_cuda:  # whole slices, since each shape would be compiled anew; the rest has no weight
            rows = rows or GPU_ROWS
            places = functional.pad(places, (0, -count % rows))
        chosen = weights[places]
        chosen[count:] = 0
        # in evaluation nobody asks for the gradient, which would be made on the way
        weight = self.weight if torch.is_grad_enabled() else self.weight.detach()
        total, found = _WeightedCrossEntropy.apply(
            hidden[places],
            weight.to(hidden.dtype),
            # labels without weight may be ids that this head does not have
            labels[places].long().masked_fill(~wanted[places], 0),
            chosen,
            rows or ROWS,
        )
        nats = torch.zeros(weights.shape, dtype=found.dtype, device=weights.device)
        nats[places[:count]] = found[:count]
        return total, nats.masked_fill_(~wanted, 0)


class _WeightedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    """sum weights * CE(x W^T, labels), slice by slice, its gradient made on the way."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, rows: int
    ) -> tuple[Tensor, Tensor]:
        """From hidden [N, D], weight [count V, D], labels, weights [N, count] -> scalar, [N, count]."""
        count = labels.shape[1]
        exact = torch.promote_types(hidden.dtype, torch.float32)
        nats = torch.empty(labels.shape, dtype=exact, device=hidden.device)
        cross_entropy = _compiled_cross_entropy if hidden.is_cuda else _cross_entropy
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        # fp32 whatever the dtype of W: many slices are added
        d_weight = torch.zeros(weight.shape, dtype=exact, device=weight.device) if wants_weight else None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            x = hidden[part]
            logits = functional.linear(x, weight).unflatten(1, (count, -1))
            nats[part], slope = cross_entropy(logits, labels[part], weights[part])
            if d_hidden is not None:
                d_hidden[part] = slope @ weight
            if d_weight is not None and x.dtype == d_weight.dtype:
                d_weight.addmm_(slope.T, x)
            elif d_weight is not None:
                d_weight += slope.T @ x
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtype = weight.dtype
        ctx.mark_non_differentiable(nats)
        return (nats * weights).sum(), nats

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Scale what the forward pass made."""
        d_hidden, d_weight = ctx.saved_tensors
        return (
            None if d_hidden is None else (d_hidden * d_total).to(d_hidden.dtype),
            None if d_weight is None else (d_weight * d_total).to(ctx.dtype),
            None,
            None,
            None,
        )


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits [N, count, V], which are overwritten: nats [N, count], and slopes of weights * nats [N, count V]."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target, scale = labels.unsqueeze(2), weights.unsqueeze(2).to(exact.dtype)
    at_target = exact.gather(2, target)
    top = exact.amax(2, keepdim=True)
    odds = exact.sub_(top).exp_()
    odds_sum = odds.sum(2, keepdim=True)
    nats = (odds_sum.log() + top - at_target).squeeze(2)
    slopes = odds.mul_(scale / odds_sum).scatter_add_(2, target, -scale)
    return nats, slopes.flatten(1).to(logits.dtype)


_compiled_cross_entropy = torch.compile(_cross_entropy, dynamic=False)


def loss_sum(model: "EvaByte", hidden: Tensor, labels: Tensor, weights: Tensor, rows: int | None = None) -> Loss:
    """The loss of a batch before its division by N.

    Args:
        model: whose heads predict.
        hidden: [B, T, D] of `EvaByte.forward`.
        labels: int [B, T, H], main heads first.
        weights: fp32 [B, T, H], 0 where there is no label; a raw head has weight for labels below 320 only.
        rows: positions whose logits exist at once; None: what suits the device.
    """
    flat, labels_nh, weights_nh = hidden.flatten(0, 1), labels.flatten(0, 1), weights.flatten(0, 1)
    main = model.config.main_heads
    total, nats = model.lm_head.loss(flat, labels_nh[:, :main], weights_nh[:, :main], rows)
    if model.raw_multibyte_lm_head is not None:
        raw_total, _ = model.raw_multibyte_lm_head.loss(flat, labels_nh[:, main:], weights_nh[:, main:], rows)
        total = total + raw_total
    return Loss(total, nats[:, 0].unflatten(0, hidden.shape[:2]))


def reweighted(weights: Tensor, head_weights: Sequence[float]) -> Tensor:
    """Weights [B, T, H] of a batch times those of the heads, each position's sum as it was; none: as they are."""
    if not head_weights:
        return weights
    scaled = weights * torch.tensor(head_weights, device=weights.device)
    sums = scaled.sum(-1, keepdim=True)
    # a position whose heads all have weight 0 has none to give
    return torch.where(sums > 0, scaled * weights.sum(-1, keepdim=True) / sums, 0)


def reference_loss(model: "EvaByte", hidden: Tensor, ids: Tensor) -> Tensor:
    """The published loss of a plain stream of ids: every position counts 1, every label too.

    Positions whose P + R labels are all below 320 are raw and share their weight among all heads; the others among
    the main heads.

    Args:
        model: whose heads predict.
        hidden: [B, T, D] of the first T ids.
        ids: int [B, T + H], the labels of the last positions included.

    Returns:
        Scalar, the mean over B * T positions.
    """
    main, raw = model.config.main_heads, model.config.raw_heads
    labels = ids[:, 1:].unfold(1, main + raw, 1)  # [B, T, H]
    is_raw = (labels < COMP_OFFSET).all(2, keepdim=True)
    weights = torch.full(labels.shape, 1 / main, device=ids.device)
    if raw:
        weights[:, :, main:] = 0
        weights = torch.where(is_raw, 1 / (main + raw), weights)
    return loss_sum(model, hidden, labels, weights).total / (labels.shape[0] * labels.shape[1])
