"""The network of the `paper` byte LM. Importing this module imports torch; its users do so inside functions.

A plain pre-norm Transformer: RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021), SwiGLU (Shazeer
2020), no biases, nothing tied. Shapes: B rows, T tokens, D width, H heads, F hidden units of SwiGLU.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor_model.sizes import SYMBOLS, Sizes

ROPE_BASE = 10_000.0


class ByteTransformer(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Bytes before to logits of the next byte.

    Args:
        sizes: see `Sizes`; `row` bounds T.
        seed: of the initialisation: normal, 0.02, less for what is added to the residual stream.
    """

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, sizes.width)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, eps=1e-5)
        self.output = nn.Linear(sizes.width, 256, bias=False)
        half = sizes.width // sizes.heads // 2
        wavelengths = ROPE_BASE ** -(torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(sizes.row, dtype=torch.float32)[:, None] * wavelengths
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("attention_out.weight", "down.weight"))
                deviation = 0.02 / math.sqrt(2 * sizes.layers) if residual else 0.02
                with torch.no_grad():
                    parameter.normal_(0, deviation, generator=generator)

    def forward(self, symbols: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Logits after each symbol.

        Args:
            symbols: int64 [B, T], bytes, or `BEGIN` at a document's start.
            allowed: bool [B, 1, T, T], which keys a query sees; None: itself and all before it.

        Returns:
            float [B, T, 256].
        """
        x = self.embedding(symbols)
        rotation = self.cosine[: symbols.shape[1]], self.sine[: symbols.shape[1]]
        for layer in self.layers:
            x = layer(x, rotation, allowed)
        return self.output(self.norm(x))


class Layer(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Attention and SwiGLU, each added to the stream."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.attention_norm = nn.RMSNorm(sizes.width, eps=1e-5)
        self.query_key_value = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.attention_out = nn.Linear(sizes.width, sizes.width, bias=False)
        self.hidden_norm = nn.RMSNorm(sizes.width, eps=1e-5)
        self.gate_up = nn.Linear(sizes.width, 2 * sizes.hidden, bias=False)
        self.down = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], allowed: Tensor | None) -> Tensor:
        """The stream after this layer, [B, T, D]."""
        split = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, H, T, D / H]
        query, key = _turned(query, *rotation), _turned(key, *rotation)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed, is_causal=allowed is None)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.hidden_norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: pairs (i, i + half) of [B, H, T, D / H] turned by the angles [T, half]; keeps the dtype."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return turned.to(x.dtype)
