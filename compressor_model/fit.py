"""From documents to a compressor folder: train the byte LM, distil the entropy table, enumerate codebooks, score.

Minutes on two cores. Only documents whose split draw allows it are fitted on; the rest is what scores are taken
on. The same documents, options, machine and torch build give the same compressor.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compressor_model import artefact, codebook, encoder, segment
from compressor_model.text import Text
from compressor_model.train import TrainOptions, bits_per_byte, train_small
from schemas.draws import may_fit
from schemas.errors import UserError

HELD_OUT_BYTES = 4 << 20
"""Scores are taken on at most this much held-out text."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a compressor is fitted.

    Attributes:
        bits: codebooks to make, 12..16 bits each.
        mean_segment: least mean segment in bytes; longer ones code more bytes a symbol and are less stable.
        text_bytes: at most this much training text is read.
        distil_bytes: at most this much of it fills the entropy table.
        train: of the byte LM.
    """

    bits: tuple[int, ...] = (12, 16)
    mean_segment: float = 2.9
    text_bytes: int = 32 << 20
    distil_bytes: int = 8 << 20
    train: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self) -> None:
        if not self.bits or any(not 12 <= bits <= codebook.MAX_BITS for bits in self.bits):
            raise UserError(f"--bits {self.bits}: codebooks have 12 to 16 bits")
        if not 1 < self.mean_segment <= 64:
            raise UserError(f"--mean-segment {self.mean_segment}: give more than 1 and at most 64 bytes")


Report = Callable[[str], None]
"""Called with one line for people at each step."""


def fit(
    documents: Iterable[tuple[bytes, bytes]],
    options: FitOptions,
    *,
    folder: Path,
    name: str,
    provenance: dict[str, Any],
    report: Report,
) -> artefact.Compressor:
    """Fit a compressor and write it.

    Args:
        documents: (doc_id, raw) in the order they are to be taken; reading stops at `text_bytes`. Of a piece the
            doc_id of its document, so that no piece of a held-out document is fitted on.
        options: see `FitOptions`.
        folder: where to write.
        name: of the compressor.
        provenance: command, corpus and licence, for the card.
        report: progress.

    Raises:
        UserError: too little text.
    """
    train_text, held_out = _split(documents, options.text_bytes)
    report(f"training the byte LM on {len(train_text.data) / 1e6:.1f} MB, {options.train.steps:,} steps")
    lm = train_small(
        train_text,
        options.train,
        lambda step, steps, loss: (
            report(f"  step {step:,} of {steps:,}: {loss:.3f} bits per byte")
            if step % 250 == 0 or step == steps
            else None
        ),
    )
    distil_text = Text(train_text.data[: options.distil_bytes], train_text.start[: options.distil_bytes])
    report(f"distilling its entropies over {len(distil_text.data) / 1e6:.1f} MB")
    table = segment.distil(lm, distil_text, options.mean_segment)
    scores, books = {}, {}
    lm_bits = bits_per_byte(lm, held_out)
    for bits in options.bits:
        books[bits] = codebook.build(bits, codebook.lm_frequencies(lm))
        scores[bits] = {
            "bytes_per_symbol": round(bytes_per_symbol(encoder.coder(books[bits], table), held_out), 4),
            "longest_string": int(books[bits].depth.max()),
        }
        report(f"codebook of {bits} bits: {scores[bits]['bytes_per_symbol']} held-out bytes per symbol")
    return artefact.save(
        folder,
        name=name,
        lm=lm,
        segments=table,
        codebooks=books,
        scores=scores,
        provenance={
            **provenance,
            "options": {
                "mean_segment": options.mean_segment,
                "text_bytes": len(train_text.data),
                "distil_bytes": len(distil_text.data),
                **vars(options.train),
            },
            "held_out_bytes": len(held_out.data),
            "lm_bits_per_byte": round(lm_bits, 4),
        },
    )


def bytes_per_symbol(coder: encoder.CodebookCoder, text: Text) -> float:
    """Raw bytes per codeword over the documents of a text."""
    offsets = np.append(np.unique(text.start), len(text.data)).astype(np.int64)
    ids, _, _ = coder.encode(text.data, offsets)
    return len(text.data) / max(len(ids), 1)


def _split(documents: Iterable[tuple[bytes, bytes]], limit: int) -> tuple[Text, Text]:
    """Training and held-out text; where nothing is held out, the training text stands for it in scores."""
    train: list[bytes] = []
    held_out: list[bytes] = []
    size = held = 0
    for doc_id, raw in documents:
        if may_fit(doc_id):
            train.append(raw[: limit - size])
            size += len(train[-1])
        elif held < HELD_OUT_BYTES:
            held_out.append(raw[: HELD_OUT_BYTES - held])
            held += len(held_out[-1])
        if size >= limit:
            break
    return Text.of(train), Text.of(held_out or train)
