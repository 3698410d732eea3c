"""Inference without doing anything twice: keys and values of the current window and all chunk summaries, per layer.

A row holds one document, from its bos on, never an eos: generation stops there. Rows advance on their own: each has its
length, window and summaries. `prefill` takes in a prompt, `look` runs the trunk over a few nodes that may follow (see
`inference/tree.py`), `accept` keeps some of them. A look costs one pass of the trunk over the nodes and attention over
what the longest row holds, at most w + T/c keys and values a layer: at `tiny` 0.5 ms at position 2,000 and 1.3 ms at
32,000, where keys and values are 18 MB to read for 3 MB of weights; at `100m` 30 and 51 ms. Results equal
`EvaByte.forward` up to rounding.

All layers lie in one buffer, [free | summaries | window | nodes | free] along the keys, nodes next to the fullest
window of the rows. What they can see is always one slice of it, so a pass copies nothing but the new keys, and a row
alone keeps nodes in a line where they are. Summaries are put in front of older ones, the softmax does not mind their
order. What a row does not have is masked; the mask is kept between passes, since only a few of its columns change.

Shapes: B rows, N nodes, T ids, D width, h heads, d width of a head, w window, c chunk.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from schemas.vocabulary import EOS
from trainer.model.attention import AttentionPlan, attend_windows, pool
from trainer.model.evabyte import EvaByte


class Cache:
    """The state of B generations, without gradients.

    Attributes:
        lengths: ids that each row holds.
    """

    def __init__(self, model: EvaByte, rows: int = 1, nodes: int = 1) -> None:
        """Empty rows; `look` will get at most so many nodes a row."""
        config, like = model.config, model.embed_tokens.weight
        self.lengths = [0] * rows
        self._model, self._nodes = model, nodes
        self._window, self._chunk = config.window, config.chunk
        self._capacity = 0  # of summaries: the window starts there
        self._first = 0  # place of the first node of the last look
        # zeros, not empty: a NaN in a masked place would still reach the output
        self._kv = like.new_zeros(config.layers, 2, rows, config.heads, nodes + config.window, config.head_dim)
        self._mask = like.new_full((rows, 1, nodes, nodes + config.window), -torch.inf)

    def room(self, row: int) -> int:
        """Ids that still fit in the row's window: nodes at depth `room` or more would not see its summaries."""
        return self._window - self.lengths[row] % self._window

    @property
    def keys(self) -> int:
        """Keys that a node of the longest rows sees, nodes included: what a pass pays for."""
        return self._summaries(max(self.lengths)) + self._nodes + self._filled()

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed by mypy
    def prefill(self, row: int, ids: Tensor) -> Tensor:
        """Take in a prompt, in place of what the row had.

        Args:
            row: which.
            ids: int [T], T >= 1, without eos.

        Returns:
            Hidden states [T, D] after the final norm.

        Raises:
            ValueError: there is no id, or an eos.
        """
        if len(ids) == 0 or bool((ids == EOS).any()):
            raise ValueError("a prompt is one id or more, none of them eos: that ends a document")
        ids = ids[None]
        position = torch.arange(ids.shape[1], device=ids.device)[None]
        plan = AttentionPlan.of(
            ids, torch.zeros_like(ids), window=self._window, chunk=self._chunk, dtype=self._kv.dtype
        )
        self.lengths[row] = ids.shape[1]
        self._reserve()
        layers = range(self._model.config.layers)
        attends = [partial(self._prefill_layer, row=row, layer=layer, plan=plan) for layer in layers]
        hidden = self._model.run(self._model.embed_tokens(ids), position, attends)[0]
        self._mask[row] = -torch.inf
        self._mask[row, ..., self._capacity - self._summaries(ids.shape[1]) : self._capacity] = 0
        self._mask[row, ..., self._capacity : self._capacity + ids.shape[1] % self._window] = 0
        return hidden

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed by mypy
    def look(self, ids: Tensor, depths: Tensor, sees: Tensor) -> Tensor:
        """Run the trunk over nodes that may follow each row's ids; the rows stay as they are.

        Args:
            ids: int [B, n] of the nodes, never eos, n at most the N of the cache.
            depths: int [B, n]: a node's position is its row's length plus this, less than `room`.
            sees: bool [B, n, n]: node i sees node j, itself and its ancestors.

        Returns:
            Hidden states [B, n, D] after the final norm.

        Raises:
            ValueError: a row is empty.
        """
        if not all(self.lengths):
            raise ValueError("a row is empty; prefill it first")
        count = ids.shape[1]
        self._first = self._capacity + self._filled()
        nodes = slice(self._first, self._first + count)
        seen = slice(self._capacity - self._summaries(max(self.lengths)), nodes.stop)
        # alone, a node sees all there is
        mask = self._mask[:, :, :count, seen] if len(ids) * count > 1 else None
        block = self._mask[:, 0, :count, nodes].masked_fill_(sees, 0)
        position = depths + torch.tensor(self.lengths, device=ids.device)[:, None]
        attends = [partial(self._look_layer, layer=kv, nodes=nodes, seen=seen, mask=mask) for kv in self._kv]
        hidden = self._model.run(self._model.embed_tokens(ids), position, attends)
        block.fill_(-torch.inf)  # nobody's until they are accepted
        return hidden

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed by mypy
    def accept(self, paths: Sequence[Sequence[int]]) -> None:
        """Nodes of the last `look` join their rows.

        Args:
            paths: for each row the nodes to keep, in the order of their depths 0, 1, ..; at most `room` of them.
        """
        for row, path in enumerate(paths):
            start = self._capacity + self.lengths[row] % self._window
            in_line = list(path) == list(range(len(path)))
            if not in_line or start != self._first:
                places = [self._first + node for node in path]
                self._kv[:, :, row, :, start : start + len(path)] = self._kv[:, :, row, :, places]
            self._mask[row, ..., start : start + len(path)] = 0
            self.lengths[row] += len(path)
        for row, path in enumerate(paths):  # after all copies, as it may move everything
            if path and self.lengths[row] % self._window == 0:
                self._summarise(row)

    def step(self, ids: Tensor) -> Tensor:
        """One id per row, looked at and accepted: int [B] -> hidden states [B, D] after the final norm."""
        rows = len(ids)
        one = torch.ones(rows, 1, 1, dtype=torch.bool, device=ids.device)
        hidden = self.look(ids[:, None], torch.zeros_like(ids)[:, None], one)[:, 0]
        self.accept([[0]] * rows)
        return hidden

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed by mypy
    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        self.lengths = [self.lengths[row] for row in rows]
        self._kv = self._kv[:, :, list(rows)]
        self._mask = self._mask[list(rows)]

    def _summaries(self, length: int) -> int:
        return length // self._window * (self._window // self._chunk)

    def _filled(self) -> int:
        """Places of the window that some row uses."""
        return max(length % self._window for length in self.lengths)

    def _reserve(self) -> None:
        """Make room for the summaries of the longest row; it doubles when it is full."""
        needed = self._summaries(max(self.lengths))
        if needed > self._capacity:
            more = max(needed, 2 * self._capacity) - self._capacity
            self._kv = functional.pad(self._kv, (0, 0, more, 0))
            self._mask = functional.pad(self._mask, (more, 0), value=-torch.inf)
            self._capacity += more

    def _summarise(self, row: int) -> None:
        """A full window becomes summaries and is empty."""
        self._reserve()
        new = self._summaries(self._window)
        place = slice(self._capacity - self._summaries(self.lengths[row]), None)
        place = slice(place.start, place.start + new)
        window = slice(self._capacity, self._capacity + self._window)
        whole = torch.ones(1, new, self._chunk, dtype=torch.bool, device=self._kv.device)
        for kv, block in zip(self._kv[:, :, row], self._model.layers, strict=True):
            probes = block.self_attn.adaptive_mu_k, block.self_attn.adaptive_phi
            kv[0, :, place], kv[1, :, place] = pool(kv[0:1, :, window], kv[1:2, :, window], *probes, whole)
        self._mask[row, ..., place] = 0
        self._mask[row, ..., window] = -torch.inf

    def _prefill_layer(
        self, q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, row: int, layer: int, plan: AttentionPlan
    ) -> Tensor:
        """A whole prompt into a row: [1, h, T, d] -> [1, h, T, d]."""
        # all full windows, the last one too if it is: the next id is in a new window then and sees its summaries
        complete = k.shape[2] // self._window * self._window
        summaries = pool(k[:, :, :complete], v[:, :, :complete], mu, phi, plan.members(complete // self._chunk))
        place = slice(self._capacity - complete // self._chunk, self._capacity)
        start = self._capacity
        for kv, summary, tokens in zip(self._kv[layer, :, row], summaries, (k, v), strict=True):
            kv[:, place] = summary[0]
            kv[:, start : start + k.shape[2] - complete] = tokens[0, :, complete:]
        return attend_windows(q, k, v, *summaries, plan)

    def _look_layer(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mu: Tensor,
        phi: Tensor,
        layer: Tensor,
        nodes: slice,
        seen: slice,
        mask: Tensor | None,
    ) -> Tensor:
        """Nodes of all rows: [B, h, n, d] -> [B, h, n, d]; `layer` is its keys and values [2, B, h, places, d]."""
        keys, values = layer.unbind()
        keys[:, :, nodes] = k
        values[:, :, nodes] = v
        return functional.scaled_dot_product_attention(q, keys[:, :, seen], values[:, :, seen], attn_mask=mask)
