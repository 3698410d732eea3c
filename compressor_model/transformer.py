"""The `paper` byte LM: a 40M-parameter byte Transformer, run in passes of fixed shapes.

A document is cut into rows. The first is BEGIN and its bytes; later ones predict `row - context` new bytes after
`context` old ones, without BEGIN. So what a byte gets is a function of its document alone, for 12.5 % more work.
A row is padded to the next power of two, and rows of one length go through the network in passes of one fixed shape,
rows x length = constant: a row's place in a pass, its neighbours, the batch and the number of threads change nothing
in fp32 on a CPU (tested bit by bit). Another CPU, a GPU or another torch build rounds differently.

Cost: 80 MFLOP a byte at full size. In: text. Out: integer frequencies, or entropies in 1/256 bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor_model.model import ENTROPY_UNITS, F32, I64, U16, U32, softmax_frequencies
from compressor_model.sizes import BEGIN, Sizes
from compressor_model.text import Text

SHORTEST_ROW = 4
"""Rows are padded to this length at least: segments and codebook strings are often as short."""

PASS_TOKENS = {"cpu": 1 << 11, "cuda": 1 << 16}
"""Tokens of a pass; at least a row."""

LOGIT_NATS = 1 << 20
"""Logits are rounded to 2^-12 nat, as a fraction of 2^32, before they are made frequencies."""


@dataclass(frozen=True)
class Rows:
    """Rows of a text; input j of a row is the byte before `first + j`, or BEGIN for j = 0 of a fresh one.

    Attributes:
        first: int64 [r], position in the text of the byte that input 0 predicts.
        length: int64 [r], inputs.
        skip: int64 [r], predictions at the row's start that an earlier row made.
        fresh: bool [r], whether the row starts its document.
    """

    first: I64
    length: I64
    skip: I64
    fresh: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, text: Text, sizes: Sizes) -> "Rows":
        """The rows that predict each byte of the text once."""
        offsets = text.offsets
        begins, ends = offsets[:-1], offsets[1:]
        chunk = sizes.row - sizes.context
        counts = 1 + np.maximum(0, -(-(ends - begins - sizes.row) // chunk))
        index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        fresh = index == 0
        first = np.repeat(begins, counts) + index * chunk
        return cls(
            first=first,
            length=np.minimum(np.repeat(ends, counts) - first, sizes.row),
            skip=np.where(fresh, 0, sizes.context),
            fresh=fresh,
        )

    def at(self, index: Any) -> "Rows":
        """Some of them."""
        return Rows(self.first[index], self.length[index], self.skip[index], self.fresh[index])


class TransformerByteLM:
    """The Transformer on a device; implements `ByteLM`.

    Args:
        sizes: of the network.
        weights: float32 arrays by the names of `ByteTransformer`.
        device: cpu (fp32) or cuda (bf16).

    Raises:
        ValueError: weights that are not those of a network of these sizes.
    """

    def __init__(self, sizes: Sizes, weights: Mapping[str, F32], device: str = "cpu") -> None:
        import torch

        from compressor_model.network import ByteTransformer

        self.sizes = sizes
        self.device = device
        self._network = ByteTransformer(sizes)
        expected = {name: tuple(value.shape) for name, value in self._network.state_dict().items()}
        found = {name: value.shape for name, value in weights.items()}
        if found != expected or any(value.dtype != np.float32 for value in weights.values()):
            wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
            raise ValueError(f"weights of another network: {', '.join(wrong) or 'not float32'}")
        self._network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        self._network.to(device).eval().requires_grad_(False)

    def weights(self) -> dict[str, F32]:
        """As they were given."""
        return {name: value.cpu().numpy() for name, value in self._network.state_dict().items()}

    def frequencies(self, text: Text) -> U32:
        """See `ByteLM.frequencies`."""
        result = np.empty((len(text.data), 256), np.uint32)
        for positions, logits in self._predictions(text, Rows.of(text, self.sizes)):
            result[positions] = integer_frequencies(logits)
        return result

    def next_frequencies(self, strings: Sequence[bytes]) -> U32:
        """See `ByteLM.next_frequencies`."""
        text = Text.of([string + b"\0" for string in strings])  # the last byte is predicted, never seen
        rows = Rows.of(text, self.sizes)
        last = text.offsets[1:] - 1
        rows = rows.at(np.searchsorted(rows.first, last, side="right") - 1)
        rows = Rows(rows.first, rows.length, rows.length - 1, rows.fresh)
        result = np.empty((len(strings), 256), np.uint32)
        for positions, logits in self._predictions(text, rows):
            result[np.searchsorted(last, positions)] = integer_frequencies(logits)
        return result

    def entropies(self, text: Text) -> U16:
        """See `ByteLM.entropies`."""
        import torch

        result = np.empty(len(text.data), np.uint16)
        for positions, logits in self._predictions(text, Rows.of(text, self.sizes)):
            logs = torch.log_softmax(logits, dim=-1)
            bits = (logs.exp() * logs).sum(dim=-1) * (-ENTROPY_UNITS / float(np.log(2)))
            result[positions] = bits.round().clamp(min=0).to(torch.int32).cpu().numpy().astype(np.uint16)
        return result

    def _predictions(self, text: Text, rows: Rows) -> Iterator[tuple[I64, Any]]:
        """Positions, int64 [m], and the logits of what is there, float32 [m, 256], pass by pass."""
        import torch

        lengths = np.maximum(SHORTEST_ROW, 1 << np.frexp(rows.length - 1)[1].astype(np.int64))  # powers of two
        tokens = max(PASS_TOKENS[self.device], self.sizes.row)
        for length in np.unique(lengths).tolist():
            same = rows.at(lengths == length)
            count = tokens // length
            for at in range(0, len(same.first), count):
                part = same.at(slice(at, at + count))
                symbols = np.zeros((count, length), np.int64)
                places = part.first[:, None] + np.arange(length)
                symbols[: len(part.first)] = text.data[np.clip(places - 1, 0, len(text.data) - 1)]
                symbols[np.flatnonzero(part.fresh), 0] = BEGIN
                inside = (np.arange(length) >= part.skip[:, None]) & (np.arange(length) < part.length[:, None])
                try:
                    with torch.inference_mode(), precision(self.device):
                        logits = self._network(torch.from_numpy(symbols).to(self.device))
                except RuntimeError as error:  # out of memory, say: the machine's fault, and never the text's
                    raise OSError(f"byte LM on {self.device}: {str(error).splitlines()[0]}") from error
                kept = torch.from_numpy(inside).to(self.device)
                yield places[inside], logits[: len(part.first)][kept].float()


def integer_frequencies(logits: Any) -> U32:
    """Integer frequencies, uint32 [n, 256], of logits in nats, float32 [n, 256] tensor."""
    import torch

    rounded = (logits * float((1 << 32) // LOGIT_NATS)).round().clamp(-(1 << 30), 1 << 30)
    return softmax_frequencies(rounded.to(torch.int32).cpu().numpy(), LOGIT_NATS)


def precision(device: str) -> AbstractContextManager[None]:
    """What the network computes in: bf16 on a GPU, fp32 elsewhere."""
    import torch

    context: AbstractContextManager[None] = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    return context
