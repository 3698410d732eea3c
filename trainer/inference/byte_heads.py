"""The heads as decoding needs them: logits of the 258 choices alone, whatever the vocabulary.

At `tiny`, one row: 6 microseconds for the next byte, 30 for what seven further heads believe.

Shapes: B rows, N nodes, D width, H heads.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from trainer.inference.sampling import CHOICES, CLOSE
from trainer.inference.tree import Belief
from trainer.model.evabyte import EvaByte

BELIEFS = 8
"""Candidates of a head: trees of the sizes that pay seldom have a fourth sibling."""


class ByteHeads:
    """The heads' rows for the 258 choices, the main one's apart from the others': a copy, 1 MB at `tiny` with 8 heads.

    Attributes:
        ahead: H - 1, heads that look further than the next byte.
        device: of the model.
    """

    def __init__(self, model: EvaByte) -> None:
        choices = torch.tensor(CHOICES, device=model.embed_tokens.weight.device)
        with torch.no_grad():
            heads = [head[choices] for head in model.lm_head.weight.unflatten(0, (model.lm_head.count, -1))]
            if model.raw_multibyte_lm_head is not None:
                raw = model.raw_multibyte_lm_head
                heads += [head[choices] for head in raw.weight.unflatten(0, (raw.count, -1))]
        self.ahead = len(heads) - 1
        self.device = choices.device
        # bf16 would make ties of near ones: the logits of a byte are few enough for fp32
        self._exact = torch.promote_types(heads[0].dtype, torch.float32)
        self._main = heads[0].to(self._exact)
        self._ahead = torch.cat(heads[1:]).to(self._exact) if self.ahead else self._main[:0]

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed by mypy
    def main(self, hidden: Tensor) -> npt.NDArray[np.floating]:
        """Logits of the next byte: [.., D] -> [.., 258] in fp32 or better."""
        found: npt.NDArray[np.floating] = functional.linear(hidden.to(self._exact), self._main).cpu().numpy()
        return found

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed by mypy
    def beliefs(self, hidden: Tensor, noise: npt.NDArray[np.float64] | None) -> list[list[Belief]]:
        """What each head holds likely, ends left out: hidden [B, D], noise [B, H - 1, 258] -> B times H - 1."""
        logits = functional.linear(hidden.to(self._exact), self._ahead).unflatten(-1, (self.ahead, len(CHOICES)))
        if noise is not None:
            logits = logits + torch.from_numpy(noise).to(logits)
        best = logits.log_softmax(-1)[..., :CLOSE].topk(BELIEFS)
        return [
            [Belief(*head) for head in zip(log, byte, strict=True)]
            for log, byte in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
