"""The EvaByte trunk: embedding, pre-norm blocks of EVA attention and a gated feed-forward layer, final norm, heads.

Owns sizes, parameters, their names (as in the published checkpoints, without "model."), initialisation, norms and
rotary positions. `forward` ends at the hidden states after the final norm: logits of whole batches never exist, see
`heads.py`. A new model's parameters are empty until `init_weights` or `load_state_dict`, so that it can be built on
the meta device at any size (milliseconds at 14B).

No biases, no dropout, no tied weights. Norms are computed in fp32 and have a unit offset: gain 1 + g, g stored.

Shapes: B sequences, T ids, D width, F feed-forward width, h heads, d = D / h, V vocabulary, P main, R raw heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from schemas.errors import UserError
from schemas.vocabulary import COMP_OFFSET
from trainer.model import flex
from trainer.model.attention import AttentionPlan, attend
from trainer.model.heads import Head, Loss, loss_sum
from trainer.scales import PUBLISHED_INIT, Init, Scale

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer: rotated q, rotated k, v [B, h, T, d], mu, phi [1, h, 1, 1, d] -> [B, h, T, d]."""

Recompute = Literal["none", "selective", "full"]
"""Activations made anew in the backward pass: none; all that is cheap; all but a block's input."""

OUTPUT_STD = 0.02
"""Of o_proj, down_proj and the heads at every scale (published); the others' are in the table of scales."""

_INNER = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the model's parameters and function.

    Attributes:
        dim: D.
        ffn: F.
        layers: number of blocks.
        heads: h, a divisor of D, D / h even.
        window: w, ids that attend to each other exactly.
        chunk: c, a divisor of w.
        vocabulary_size: V, at least the 320 of bytes.
        main_heads: P >= 1, head j predicts the id j + 1 ahead over the whole vocabulary.
        raw_heads: R, head m predicts the id P + m + 1 ahead over the first 320 ids.
        eps: added to the mean square in norms (published: 1e-6; the EvaByte-6.5B release has 1e-5).
        rope_theta: base of the rotary wavelengths (published).
    """

    dim: int
    ffn: int
    layers: int
    heads: int
    window: int
    chunk: int
    vocabulary_size: int
    main_heads: int
    raw_heads: int
    eps: float = 1e-6
    rope_theta: float = 1e5

    def __post_init__(self) -> None:
        for name in ("dim", "ffn", "layers", "heads", "window", "chunk", "main_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"model: {name} is {getattr(self, name)}; expected 1 or more")
        if self.raw_heads < 0:
            raise UserError(f"model: raw_heads is {self.raw_heads}; expected 0 or more")
        if self.dim % (2 * self.heads):
            raise UserError(f"model: dim {self.dim} is not a multiple of 2 x {self.heads} heads (rotary pairs)")
        if self.window % self.chunk:
            raise UserError(f"model: window {self.window} is not a multiple of chunk {self.chunk}")
        if self.vocabulary_size < COMP_OFFSET:
            raise UserError(f"model: vocabulary_size is {self.vocabulary_size}; expected {COMP_OFFSET} or more")

    @classmethod
    def of(cls, scale: Scale, *, vocabulary_size: int, main_heads: int, raw_heads: int) -> "ModelConfig":
        """The model of a scale with the vocabulary and heads of a run."""
        return cls(
            dim=scale.dim,
            ffn=scale.ffn,
            layers=scale.layers,
            heads=scale.heads,
            window=scale.window,
            chunk=scale.chunk,
            vocabulary_size=vocabulary_size,
            main_heads=main_heads,
            raw_heads=raw_heads,
        )

    @property
    def head_dim(self) -> int:
        """Width d of an attention head."""
        return self.dim // self.heads


def parameters(config: ModelConfig) -> int:
    """Number of parameters, by formula: layers (4 D^2 + 3 D F + 4 D) + D, embedding V D, heads (P V + 320 R) D."""
    block = 4 * config.dim**2 + 3 * config.dim * config.ffn + 4 * config.dim  # 4 D: two norms, mu, phi
    rows = config.vocabulary_size * (1 + config.main_heads) + COMP_OFFSET * config.raw_heads
    return config.layers * block + config.dim + rows * config.dim


class Linear(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """x [.., in] -> x W^T [.., out]; W [out, in], empty at first (`nn.Linear` would draw it from the global seed)."""

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features_out, features_in))

    def forward(self, x: Tensor) -> Tensor:
        """[.., in] -> [.., out]."""
        return functional.linear(x, self.weight)


class Embedding(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """ids -> rows of W [V, D], empty at first."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, dim))

    def forward(self, ids: Tensor) -> Tensor:
        """Int [B, T] -> [B, T, D]."""
        return functional.embedding(ids, self.weight)


class RMSNorm(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """(1 + g) x / sqrt(mean(x^2) + eps) in fp32, given back in x's dtype; g [D] is what is stored."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[.., D] -> [.., D]."""
        exact = torch.promote_types(x.dtype, torch.float32)
        gain = 1 + self.weight.to(exact)
        return functional.rms_norm(x.to(exact), gain.shape, gain, self.eps).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Rotations of one batch, shared by all layers: cos and sin [B, T, 1, d / 2] in the dtype of the trunk."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, position: Tensor, config: ModelConfig, dtype: torch.dtype) -> "Rotary":
        """From positions int [B, T]; pair i of a head turns by position * theta^(-2 i / d), angles in fp32."""
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=position.device) / config.head_dim
        angle = position.float()[:, :, None, None] * config.rope_theta**-exponent
        return cls(cos=angle.cos().to(dtype), sin=angle.sin().to(dtype))

    def turn(self, x: Tensor) -> Tensor:
        """Rotate x [B, T, h, d]; the pairs are (i, i + d / 2)."""
        x1, x2 = x.chunk(2, -1)
        return torch.cat([x1 * self.cos - x2 * self.sin, x2 * self.cos + x1 * self.sin], -1)


class Attention(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Projections of one layer and its two learnt probes per head; the attention itself is passed in."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = Linear(config.dim, config.dim)
        self.k_proj = Linear(config.dim, config.dim)
        self.v_proj = Linear(config.dim, config.dim)
        self.o_proj = Linear(config.dim, config.dim)
        self.adaptive_mu_k = nn.Parameter(torch.empty(1, config.heads, 1, 1, config.head_dim))
        self.adaptive_phi = nn.Parameter(torch.empty(1, config.heads, 1, 1, config.head_dim))

    def forward(self, x: Tensor, rotary: Rotary, attend_layer: Attend) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        split = (self.heads, x.shape[-1] // self.heads)
        q = rotary.turn(self.q_proj(x).unflatten(-1, split)).transpose(1, 2)
        k = rotary.turn(self.k_proj(x).unflatten(-1, split)).transpose(1, 2)
        v = self.v_proj(x).unflatten(-1, split).transpose(1, 2)
        out = attend_layer(q, k, v, self.adaptive_mu_k, self.adaptive_phi)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """W_down (silu(W_gate x) * W_up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.dim, config.ffn)
        self.up_proj = Linear(config.dim, config.ffn)
        self.down_proj = Linear(config.ffn, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """x + attention(norm x), then x + feed-forward(norm x).

    Attributes:
        recompute: what of the forward pass the backward pass makes anew instead of keeping it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.eps)
        self.mlp = FeedForward(config)
        self.recompute: Recompute = "none"

    def forward(self, x: Tensor, rotary: Rotary, attend_layer: Attend) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        if self.recompute == "none" or not torch.is_grad_enabled():
            return self._forward(x, rotary, attend_layer)
        kept = {"context_fn": _keep_products} if self.recompute == "selective" else {}
        return checkpoint(self._forward, x, rotary, attend_layer, use_reentrant=False, **kept)

    def _forward(self, x: Tensor, rotary: Rotary, attend_layer: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, attend_layer)
        return x + self.mlp(self.post_attention_layernorm(x))


def _keep_products() -> Any:
    """Contexts of a selective checkpoint: matrix products and attention are kept, what is cheap is made anew."""
    aten = torch.ops.aten
    return create_selective_checkpoint_contexts(
        [
            aten.mm.default,
            aten._scaled_dot_product_flash_attention.default,
            aten._scaled_dot_product_flash_attention_for_cpu.default,
            aten._scaled_dot_product_efficient_attention.default,
            torch.ops.higher_order.flex_attention,
        ]
    )


class EvaByte(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """The model: ids -> hidden states, and its heads.

    Attributes:
        config: its sizes.
        lm_head: P heads over the whole vocabulary.
        raw_multibyte_lm_head: R heads over the first 320 ids; None if R = 0.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocabulary_size, config.dim)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = RMSNorm(config.dim, config.eps)
        self.lm_head = Head(config.dim, config.main_heads, config.vocabulary_size)
        self.raw_multibyte_lm_head = Head(config.dim, config.raw_heads, COMP_OFFSET) if config.raw_heads else None

    def init_weights(self, generator: torch.Generator, init: Init = PUBLISHED_INIT) -> None:
        """Draw all parameters: normals cut at 3 standard deviations (mu, phi: 2), norm gains 0.

        The order of draws is that of `named_parameters`, so equal seeds give equal models.

        Args:
            generator: on the device of the parameters.
            init: of the scale.
        """
        probe_std = self.config.head_dim**-0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
                continue
            shared = isinstance(parameter, DTensor)
            whole: Tensor = parameter
            if shared:  # drawn whole by every process, one at a time, so that it does not depend on their number
                whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            std, cut = OUTPUT_STD, 3.0
            if name == "embed_tokens.weight":
                std = init.embedding
            elif name.endswith(_INNER):
                std = init.inner
            elif name.endswith(("adaptive_mu_k", "adaptive_phi")):
                std, cut = probe_std, 2.0
            nn.init.trunc_normal_(whole, std=std, a=-cut * std, b=cut * std, generator=generator)
            if shared:
                part = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
                parameter.data.to_local().copy_(part.to_local())

    def forward(self, ids: Tensor, doc: Tensor, position: Tensor) -> Tensor:
        """Hidden states of a packed batch.

        Args:
            ids: int [B, T] vocabulary ids; in training T is a multiple of the window, otherwise any.
            doc: int [B, T] document numbers >= 0; a position sees its own document only.
            position: int [B, T], counted from 0 in each document.

        Returns:
            [B, T, D] after the final norm: what the heads read.
        """
        x = self.embed_tokens(ids)
        return self.run(x, position, [self._attention(ids, doc, x.dtype)] * self.config.layers)

    def _attention(self, ids: Tensor, doc: Tensor, dtype: torch.dtype) -> Attend:
        """The attention of a batch, by the fastest way there is on its device.

        A GPU's is compiled for each new shape: that pays in training, where there is one.
        """
        window, chunk = self.config.window, self.config.chunk
        if ids.is_cuda and self.training and flex.fits(ids.shape[1], window, self.config.head_dim):
            return partial(flex.attend, plan=flex.FlexPlan.of(ids, doc, window=window, chunk=chunk))
        return partial(attend, plan=AttentionPlan.of(ids, doc, window=window, chunk=chunk, dtype=dtype))

    def loss(self, ids: Tensor, doc: Tensor, position: Tensor, labels: Tensor, weights: Tensor) -> Loss:
        """The loss of a packed batch before its division by N; see `forward` and `heads.loss_sum`."""
        return loss_sum(self, self.forward(ids, doc, position), labels, weights)

    def run(self, x: Tensor, position: Tensor, attends: Sequence[Attend]) -> Tensor:
        """Blocks and final norm with a given attention for each layer.

        Args:
            x: [B, T, D] embedded ids.
            position: int [B, T].
            attends: one for each layer.

        Returns:
            [B, T, D].
        """
        rotary = Rotary.of(position, self.config, x.dtype)
        for layer, attend_layer in zip(self.layers, attends, strict=True):
            x = layer(x, rotary, attend_layer)
        return self.norm(x)
