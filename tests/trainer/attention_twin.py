"""EVA attention once more, dense, plain and slow, written from the formulas; and random packings to try it on."""

import torch
from torch import Tensor

from schemas.vocabulary import EOS


def twin(
    q: Tensor, k: Tensor, v: Tensor, mu: Tensor, phi: Tensor, ids: Tensor, doc: Tensor, *, window: int, chunk: int
) -> Tensor:
    """One dense softmax per row over [keys; summaries], one row and one chunk at a time."""
    out = q * 0
    scale = q.shape[-1] ** -0.5
    for b in range(q.shape[0]):
        eos = (ids[b] == EOS).tolist()
        docs = doc[b].tolist()
        for h in range(q.shape[1]):
            chunks = {}
            for j in range(q.shape[2] // chunk):
                last = j * chunk + chunk - 1
                members = [t for t in range(j * chunk, last + 1) if docs[t] == docs[last] and not eos[t]]
                if eos[last]:
                    continue
                keys, values = k[b, h, members], v[b, h, members]
                a = torch.softmax(keys @ mu[0, h, 0, 0], 0)
                s = torch.softmax(scale * (keys @ phi[0, h, 0, 0] - keys.pow(2).sum(1) / 2), 0)
                chunks[j] = (a @ keys, s @ values)
            for i in range(q.shape[2]):
                if eos[i]:
                    continue
                tokens = [t for t in range(i + 1) if t // window == i // window and docs[t] == docs[i] and not eos[t]]
                earlier = [
                    j for j in chunks if j * chunk // window < i // window and docs[j * chunk + chunk - 1] == docs[i]
                ]
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


def with_gradients(out: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of a fixed random function of it; zeros for what it does not depend on."""
    seeds = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.device)
    gradients = torch.autograd.grad((out * seeds).sum(), tensors, allow_unused=True)
    return [out, *(torch.zeros_like(t) if g is None else g for g, t in zip(gradients, tensors, strict=True))]
