"""EVA attention: exact inside a window, one summary per chunk for all earlier windows, documents kept apart.

A query at position i, of window W(i) = i // w, attends with one softmax over
  tokens     t <= i of its own window and document, logits s q.k_t, values v_t, and
  summaries  j of earlier windows whose chunk ends in its document, logits s q.K_j, values V_j,
s = d^-1/2. Windows and chunks are aligned to the packed sequence. An eos is nobody's key and in no visible summary,
and its own row is exactly 0. A last window that is not full is attended like any other and never summarised.

Everything about documents is one comparison: a key carries its document's number, or -1 if it is an eos; a summary
carries that of its chunk's last token; a query carries its document's number, or -2 if it is an eos; equal numbers
see each other.

Here it is `scaled_dot_product_attention` over rows of keys [summaries; tokens of the window], each window cut in
QUERY_TILES so that the later part of it is no key of its first rows; training on a GPU has `flex.py`. Masks are made
once per batch and shared by the layers; where they would take more than MASK_BYTES, each window makes its own and is
recomputed in the backward pass, so memory is linear in T. Cost at `tiny` against causal attention of the same windows
without summaries or documents, forward and backward on one thread (2 cores, torch 2.13): 1.2 times; in one piece per
window 1.4 times.

Shapes: B sequences, T ids, h heads, d width of a head, w window, c chunk, N chunks.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from schemas.vocabulary import EOS

QUERY_TILES = 4
"""Parts of a window's queries. Part i of 4 needs the first i + 1 quarters of the keys: 5/8 of the token scores."""

MASK_BYTES = 1 << 27
"""Masks of a batch up to 128 MiB are kept for all layers; more, and they are made anew by each window of each layer.
`tiny` has 6.5 MiB in a step of 8 sequences; one sequence of 32,768 ids at w 2,048 would have 0.4 GiB."""


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """Who sees whom in one batch: made once, used by every layer.

    Attributes:
        window: w.
        chunk: c, a divisor of w.
        query_doc: [B, T] number of the query's document, -2 for an eos.
        key_doc: [B, T] number of the key's document, -1 for an eos.
        dtype: of q, k and v.
        show_eos: let rows of eos see all keys and make them 0 afterwards: what the kernels of GPUs make of a row that
            sees nothing, and of its gradient, differs.
        masks: what `mask` gives for each window in turn, or empty if they are not kept.
    """

    window: int
    chunk: int
    query_doc: Tensor
    key_doc: Tensor
    dtype: torch.dtype
    show_eos: bool = False
    masks: list[list[Tensor]] = field(default_factory=list)

    @classmethod
    def of(
        cls, ids: Tensor, doc: Tensor, *, window: int, chunk: int, dtype: torch.dtype, mask_bytes: int = MASK_BYTES
    ) -> "AttentionPlan":
        """The plan of a batch.

        Args:
            ids: [B, T] vocabulary ids, of which only eos matters here.
            doc: int [B, T] document numbers >= 0, as in a batch.
            window: w.
            chunk: c.
            dtype: of q, k and v.
            mask_bytes: keep the masks if they take no more.
        """
        plan = cls(
            window=window,
            chunk=chunk,
            query_doc=query_documents(ids, doc),
            key_doc=key_documents(ids, doc),
            dtype=dtype,
            show_eos=ids.is_cuda,
        )
        batch, length = ids.shape
        cells = length * window + length * length // (2 * chunk)
        if batch * cells * dtype.itemsize <= mask_bytes:
            return replace(plan, masks=[plan.mask(n) for n in range(plan.windows)])
        return plan

    @property
    def windows(self) -> int:
        """Number of windows, the last one possibly short."""
        return -(-self.key_doc.shape[1] // self.window)

    def members(self, chunks: int) -> Tensor:
        """The tokens of each chunk that its summary is made of: bool [B, chunks, c]."""
        return chunk_members(self.key_doc, chunks, self.chunk)

    def tiles(self, n: int) -> list[slice]:
        """Rows of the query tiles of window n, relative to its start."""
        length = min(self.window, self.key_doc.shape[1] - n * self.window)
        rows = -(-self.window // QUERY_TILES)
        return [slice(start, min(start + rows, length)) for start in range(0, length, rows)]

    def mask(self, n: int) -> list[Tensor]:
        """For each tile of window n [B, 1, rows, summaries + tokens up to its end]: 0 where seen, else -inf."""
        if self.masks:
            return self.masks[n]
        start, earlier = n * self.window, n * self.window // self.chunk
        summaries = self.key_doc[:, self.chunk - 1 : start : self.chunk]
        masks = []
        for tile in self.tiles(n):
            query = self.query_doc[:, start + tile.start : start + tile.stop]
            key = torch.cat([summaries, self.key_doc[:, start : start + tile.stop]], 1)
            seen = query[:, :, None] == key[:, None, :]
            # row r of the tile is token tile.start + r of the window: later ones are not seen
            seen = seen.tril_(earlier + tile.start)
            if self.show_eos:
                seen |= (query == -2)[:, :, None]
            mask = torch.full(seen.shape, -torch.inf, dtype=self.dtype, device=seen.device)
            masks.append(mask.masked_fill_(seen, 0.0).unsqueeze(1))
        return masks


def query_documents(ids: Tensor, doc: Tensor) -> Tensor:
    """Document of each query [B, T], -2 for an eos."""
    return doc.masked_fill(ids == EOS, -2)


def key_documents(ids: Tensor, doc: Tensor) -> Tensor:
    """Document of each key [B, T], -1 for an eos."""
    return doc.masked_fill(ids == EOS, -1)


def chunk_members(key_doc: Tensor, chunks: int, chunk: int) -> Tensor:
    """Tokens that each of the first chunks' summary is made of: bool [B, chunks, c], those of its last one's document.

    A chunk ending in an eos is made of eos alone, so that it is finite; nobody sees it.
    """
    docs = key_doc[:, : chunks * chunk].unflatten(1, (chunks, chunk))
    return docs == docs[:, :, -1:]


def pool(k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """The summaries of whole chunks: K_j = sum a_t k_t, V_j = sum b_t v_t over the chunk's members t.

    a = softmax(mu.k_t), b = softmax(s (phi.k_t - |k_t|^2 / 2)), s = d^-1/2, both in fp32; only V's has the scale.

    Args:
        k: [B, h, N c, d] rotated keys.
        v: [B, h, N c, d] values.
        mu: [1, h, 1, 1, d].
        phi: [1, h, 1, 1, d].
        members: bool [B, N, c], at least one in each chunk.

    Returns:
        Summary keys and summary values, each [B, h, N, d].
    """
    dim, shape = k.shape[-1], members.shape[1:]
    probes = torch.stack([mu.flatten(1, -2)[0], phi.flatten(1, -2)[0]], -1).to(k.dtype)  # [h, d, 2]
    exact = torch.promote_types(k.dtype, torch.float32)
    to_mu, to_phi = (k @ probes).to(exact).unbind(-1)  # [B, h, N c]
    to_phi = (to_phi - k.to(exact).square().sum(-1) / 2) * dim**-0.5
    logits = torch.stack([to_mu, to_phi]).unflatten(-1, shape)
    shares = logits.masked_fill(~members[:, None], -torch.inf).softmax(-1).to(k.dtype)
    a, b = shares.unsqueeze(-1).unbind()
    return (a * k.unflatten(2, shape)).sum(3), (b * v.unflatten(2, shape)).sum(3)


def attend(q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, plan: AttentionPlan) -> Tensor:
    """EVA attention of whole sequences.

    Args:
        q: [B, h, T, d] rotated queries; any T.
        k: [B, h, T, d] rotated keys.
        v: [B, h, T, d] values.
        mu: [1, h, 1, 1, d].
        phi: [1, h, 1, 1, d].
        plan: of this batch.

    Returns:
        [B, h, T, d], rows of eos exactly 0.
    """
    complete = (plan.windows - 1) * plan.window  # the last window's summaries are nobody's keys
    members = plan.members(complete // plan.chunk)
    summaries = pool(k[:, :, :complete], v[:, :, :complete], mu, phi, members)
    return attend_windows(q, k, v, *summaries, plan)


def attend_windows(
    q: Tensor, k: Tensor, v: Tensor, summary_k: Tensor, summary_v: Tensor, plan: AttentionPlan
) -> Tensor:
    """EVA attention with given summaries [B, h, >= N, d], N those of all windows but the last; else as `attend`."""
    recompute = not plan.masks and torch.is_grad_enabled()
    outputs = []
    # split, not slices: its backward is one concatenation instead of a sum of padded copies
    windows = zip(q.split(plan.window, 2), k.split(plan.window, 2), v.split(plan.window, 2), strict=True)
    for n, (q_n, k_n, v_n) in enumerate(windows):
        arguments = (q_n, k_n, v_n, summary_k, summary_v, plan, n)
        if recompute:
            outputs.append(checkpoint(_attend_window, *arguments, use_reentrant=False))
        else:
            outputs.append(_attend_window(*arguments))
    out = torch.cat(outputs, 2)
    return out.masked_fill((plan.query_doc == -2)[:, None, :, None], 0) if plan.show_eos else out


def _attend_window(
    q: Tensor, k: Tensor, v: Tensor, summary_k: Tensor, summary_v: Tensor, plan: AttentionPlan, n: int
) -> Tensor:
    """Attention of window n: q, k, v [B, h, <= w, d] of it -> [B, h, <= w, d]."""
    earlier = n * plan.window // plan.chunk
    if earlier:
        k = torch.cat([summary_k[:, :, :earlier], k], 2)
        v = torch.cat([summary_v[:, :, :earlier], v], 2)
    outputs = []
    for tile, mask in zip(plan.tiles(n), plan.mask(n), strict=True):
        keys = mask.shape[-1]
        outputs.append(
            functional.scaled_dot_product_attention(q[:, :, tile], k[:, :, :keys], v[:, :, :keys], attn_mask=mask)
        )
    return torch.cat(outputs, 2)
