"""EVA attention on GPUs: one compiled `flex_attention` over [keys of all tokens; summaries of all earlier windows].

The same function as `attention.py`, where the rules are stated. Here each key says from which query position to which
one it can be seen, first <= i <= last, beside its document:
  token t          first = t                    last = the end of its window
  summary of j     first = the window after j's last = the end of the sequence
so the mask is one rule for both kinds, and what it leaves of a block of BLOCK queries by BLOCK keys follows from the
extremes of either side: nothing (skipped), all (no mask is computed), or some. Those block tables are made from a few
reductions per batch and shared by all layers; the [T, T + T / c] mask itself is never made, `create_block_mask`
would have to.

Shapes: B sequences, T ids, h heads, d width of a head, w window, c chunk, N keys (tokens and summaries, padded).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from trainer.model.attention import chunk_members, key_documents, pool, query_documents

BLOCK = 128
"""Queries and keys of a tile of the kernel, its default."""


@dataclass(frozen=True, kw_only=True)
class FlexPlan:
    """Who sees whom in one batch: made once, used by every layer.

    Attributes:
        members: bool [B, chunks, c]; the tokens that each summary is made of.
        padding: of the summaries, to a multiple of BLOCK.
        mask: of [T] queries by [N] keys.
    """

    members: Tensor
    padding: int
    mask: BlockMask

    @classmethod
    def of(cls, ids: Tensor, doc: Tensor, *, window: int, chunk: int) -> "FlexPlan":
        """The plan of a batch.

        Args:
            ids: [B, T] vocabulary ids, of which only eos matters here; T a multiple of w and of BLOCK.
            doc: int [B, T] document numbers >= 0, as in a batch.
            window: w.
            chunk: c.
        """
        length = ids.shape[1]
        query_doc, token_doc = query_documents(ids, doc), key_documents(ids, doc)
        complete = length - window
        padding = -(complete // chunk) % BLOCK
        summary_doc = functional.pad(token_doc[:, chunk - 1 : complete : chunk], (0, padding), value=-1)
        key_doc = torch.cat([token_doc, summary_doc], 1)

        def first(key: Tensor) -> Tensor:
            own_window = torch.where(key < length, key, (key - length) * chunk) // window
            return torch.where(key < length, key, (own_window + 1) * window)

        def last(key: Tensor) -> Tensor:
            return torch.where(key < length, key // window * window + window - 1, length - 1)

        def seen(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            in_reach = (first(key) <= query) & (query <= last(key))
            return in_reach & (query_doc[b, query] == key_doc[b, key])

        keys = torch.arange(key_doc.shape[1], device=ids.device)
        some, whole = _blocks(query_doc, key_doc, first(keys), last(keys))
        mask = BlockMask.from_kv_blocks(
            *_table(some & ~whole), *_table(whole), BLOCK_SIZE=BLOCK, mask_mod=seen, seq_lengths=(length, len(keys))
        )
        return cls(members=chunk_members(token_doc, complete // chunk, chunk), padding=padding, mask=mask)


def fits(length: int, window: int, head_dim: int) -> bool:
    """Whether the kernel takes sequences of this length: whole windows, whole blocks, heads of a power of two."""
    return length % window == 0 and length % BLOCK == 0 and head_dim >= 16 and head_dim & (head_dim - 1) == 0


def attend(q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, plan: FlexPlan) -> Tensor:
    """EVA attention of whole sequences; see `attention.attend`. Compiled on a GPU, and slow, plain torch elsewhere."""
    run = _compiled if q.is_cuda else _attend
    return run(q, k, v, mu, phi, plan.members, plan.padding, plan.mask)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, members: Tensor, padding: int, mask: BlockMask
) -> Tensor:
    complete = members.shape[1] * members.shape[2]
    if complete:
        summary_k, summary_v = pool(k[:, :, :complete], v[:, :, :complete], mu, phi, members)
        k = torch.cat([k, functional.pad(summary_k, (0, 0, 0, padding))], 2)
        v = torch.cat([v, functional.pad(summary_v, (0, 0, 0, padding))], 2)
    return flex_attention(q, k, v, block_mask=mask)


_compiled = torch.compile(_attend, dynamic=False)


def _blocks(query_doc: Tensor, key_doc: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of which some may be, and blocks of which all are seen: bool [B, T / BLOCK, N / BLOCK] each."""
    q_low, q_high, q_all = _documents(query_doc)
    k_low, k_high, k_all = _documents(key_doc)
    firsts, lasts = first.unflatten(0, (-1, BLOCK)), last.unflatten(0, (-1, BLOCK))
    start = torch.arange(0, query_doc.shape[1], BLOCK, device=query_doc.device)[:, None]
    end = start + BLOCK - 1
    some = (firsts.amin(1) <= end) & (lasts.amax(1) >= start)
    some = some & (q_low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= q_high[:, :, None])
    whole = (firsts.amax(1) <= start) & (lasts.amin(1) >= end)
    whole = whole & q_all[:, :, None] & k_all[:, None] & (q_low[:, :, None] == k_low[:, None])
    return some, whole


def _documents(doc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each block [B, n / BLOCK]: lowest and highest number >= 0 (lowest above highest if none), all one document."""
    blocks = doc.unflatten(1, (-1, BLOCK))
    high = blocks.amax(2)
    low = blocks.masked_fill(blocks < 0, torch.iinfo(doc.dtype).max).amin(2)
    return low, high, (blocks.amin(2) >= 0) & (low == high)


def _table(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the marked blocks of each row, and their ordinals first: int32 [B, 1, rows], [B, 1, rows, columns]."""
    count = blocks.sum(2, dtype=torch.int32)
    order = blocks.logical_not().to(torch.uint8).argsort(dim=2, stable=True).to(torch.int32)
    return count.unsqueeze(1), order.unsqueeze(1)
