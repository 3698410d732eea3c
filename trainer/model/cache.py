"""Inference id by id: a cache of the current window's keys and values and of all chunk summaries, per layer.

One document per row, from its bos on, never an eos: generation stops there. Memory per layer is w + T/c keys and
values, a step costs one pass of the trunk over one id and attention over those keys (`tiny`, one thread: 1,500 steps
a second). Results equal `EvaByte.forward` up to rounding.

A layer's buffers hold [free | summaries | window]: what the next id sees is always one slice, so no step copies it.
Summaries are put in front of older ones, the softmax does not mind their order.

Shapes: B sequences, T ids, D width, h heads, d width of a head, w window, c chunk.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from schemas.vocabulary import EOS
from trainer.model.attention import AttentionPlan, attend_windows, pool
from trainer.model.evabyte import Attend, EvaByte, ModelConfig


class Cache:
    """The state of one generation: `prefill` once, then `step` after `step`, both without gradients.

    Attributes:
        length: ids seen so far.
    """

    def __init__(self, model: EvaByte, batch: int = 1) -> None:
        self.length = 0
        self._model = model
        like = model.embed_tokens.weight
        self._layers = [_LayerCache(model.config, batch, like) for _ in range(model.config.layers)]

    def prefill(self, ids: Tensor) -> Tensor:
        """Take in a prompt.

        Args:
            ids: int [B, T], T >= 1, without eos.

        Returns:
            Hidden states [B, T, D] after the final norm.

        Raises:
            ValueError: the cache is not empty, or the prompt is, or has an eos.
        """
        if self.length or ids.shape[1] == 0:
            raise ValueError(f"prefill of {ids.shape[1]} ids after {self.length}; expected one or more after none")
        config = self._model.config
        dtype = self._model.embed_tokens.weight.dtype
        plan = AttentionPlan.of(ids, torch.zeros_like(ids), window=config.window, chunk=config.chunk, dtype=dtype)
        return self._run(ids, [partial(layer.prefill, plan=plan) for layer in self._layers])

    def step(self, ids: Tensor) -> Tensor:
        """Take in one id per row: int [B] -> hidden states [B, D] after the final norm.

        Raises:
            ValueError: before `prefill`, or an id is eos.
        """
        if not self.length:
            raise ValueError("step on an empty cache; prefill it first")
        return self._run(ids[:, None], [layer.step for layer in self._layers])[:, 0]

    def _run(self, ids: Tensor, attends: Sequence[Attend]) -> Tensor:
        if bool((ids == EOS).any()):
            raise ValueError("an eos ends a document: it is never fed to the cache")
        position = torch.arange(self.length, self.length + ids.shape[1], device=ids.device).expand(ids.shape)
        with torch.no_grad():
            hidden = self._model.run(self._model.embed_tokens(ids), position, attends)
        self.length += ids.shape[1]
        return hidden


class _LayerCache:
    """Keys and values of one layer.

    `_summaries` of them end at `_capacity`, where the window starts, with `_tokens` in it; fewer than w between calls.
    """

    def __init__(self, config: ModelConfig, batch: int, like: Tensor) -> None:
        self._window, self._chunk = config.window, config.chunk
        self._capacity = self._summaries = self._tokens = 0
        self._keys = like.new_empty(batch, config.heads, config.window, config.head_dim)
        self._values = torch.empty_like(self._keys)

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, plan: AttentionPlan) -> Tensor:
        """A whole prompt into the empty cache: [B, h, T, d] -> [B, h, T, d]."""
        # all full windows, the last one too if it is: the next id is in a new window then and sees its summaries
        complete = k.shape[2] // self._window * self._window
        summaries = pool(k[:, :, :complete], v[:, :, :complete], mu, phi, plan.members(complete // self._chunk))
        self._put_summaries(*summaries)
        self._put_tokens(k[:, :, complete:], v[:, :, complete:])
        return attend_windows(q, k, v, *summaries, plan)

    def step(self, q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor) -> Tensor:
        """One id per row: [B, h, 1, d] -> [B, h, 1, d]."""
        self._put_tokens(k, v)
        seen = slice(self._capacity - self._summaries, self._capacity + self._tokens)
        out = functional.scaled_dot_product_attention(q, self._keys[:, :, seen], self._values[:, :, seen])
        if self._tokens == self._window:
            window = slice(self._capacity, None)
            all_of_it = torch.ones(len(k), self._window // self._chunk, self._chunk, dtype=torch.bool, device=k.device)
            self._put_summaries(*pool(self._keys[:, :, window], self._values[:, :, window], mu, phi, all_of_it))
            self._tokens = 0
        return out

    def _put_tokens(self, k: Tensor, v: Tensor) -> None:
        start = self._capacity + self._tokens
        self._tokens += k.shape[2]
        self._keys[:, :, start : start + k.shape[2]] = k
        self._values[:, :, start : start + k.shape[2]] = v

    def _put_summaries(self, summary_k: Tensor, summary_v: Tensor) -> None:
        """Add summaries [B, h, n, d] in front; the room for them doubles when it is full."""
        total = self._summaries + summary_k.shape[2]
        if total > self._capacity:
            more = max(total, 2 * self._capacity) - self._capacity
            self._keys = functional.pad(self._keys, (0, 0, more, 0))
            self._values = functional.pad(self._values, (0, 0, more, 0))
            self._capacity += more
        place = slice(self._capacity - total, self._capacity - self._summaries)
        self._keys[:, :, place] = summary_k
        self._values[:, :, place] = summary_v
        self._summaries = total
