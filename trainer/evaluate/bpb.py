"""`python -m trainer evaluate bpb`: bits per byte on the held-out raw documents of a dataset.

Documents are cut in blocks (`blocks.py`), and their bytes count, by head 0 over the full vocabulary; the figure does
not depend on the batch. Beside it, Markov models of order 1 and 2, counted on the training split and scored on the
same documents.
"""

import json
import math
import sys
from dataclasses import dataclass

import torch

from schemas.errors import UserError
from trainer.checkpoints.restore import restore
from trainer.data.dataset import Dataset
from trainer.data.lanes import held_out, training
from trainer.data.views import Mode
from trainer.evaluate.blocks import batch_of, blocks_of
from trainer.evaluate.markov import MarkovModel
from trainer.model.evabyte import EvaByte


@dataclass(frozen=True, kw_only=True)
class BpbOptions:
    """Bits per byte on held-out raw documents.

    Attributes:
        run: folder of the run.
        data: dataset; default the run's first.
        context: ids a block; default the sequence that was trained on.
        documents: at most so many, in stored order.
        batch: blocks at a time; the figure does not depend on it.
        markov: orders of Markov models to put beside it; 0 to 2.
        json: print JSON instead of lines.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    data: str | None = None
    context: int | None = None
    documents: int = 200
    batch: int = 8
    markov: tuple[int, ...] = (1, 2)
    json: bool = False

    def __post_init__(self) -> None:
        if self.documents < 1 or self.batch < 1 or (self.context is not None and self.context < 8):
            raise UserError("--documents and --batch must be 1 or more, --context 8 or more")


@dataclass(frozen=True, kw_only=True)
class BpbResult:
    """What was measured.

    Attributes:
        documents: held-out documents scored.
        raw_bytes: in them.
        bits_per_byte: of the model.
        markov: bits per byte by order.
    """

    documents: int
    raw_bytes: int
    bits_per_byte: float
    markov: dict[str, float]


def evaluate(options: BpbOptions) -> BpbResult:
    """Measure and print.

    Raises:
        UserError: no run, no dataset, or nothing held out.
    """
    restored = restore(options.run)
    data = options.data or next(iter(restored.config["data"]), None)
    if data is None:
        raise UserError(f"RUN={options.run}: does not say what it was trained on; give --data")
    dataset = Dataset(data)
    val_fraction = float(restored.config["val_fraction"])
    documents: list[bytes] = []
    for document in held_out(dataset, val_fraction):
        if document.raw is not None and len(document.raw):
            documents.append(document.raw.tobytes())
        if len(documents) == options.documents:
            break
    if not documents:
        raise UserError(
            f"DATA={dataset.url}: no held-out documents at val_fraction {val_fraction}; train with a larger"
        )
    context = options.context or int(restored.config["sequence"])
    bits = score(restored.model, documents, context, options.batch, sentinels=Mode(restored.config["mode"]).sentinels)
    size = sum(map(len, documents))
    markov: dict[str, float] = {}
    if options.markov:
        train = [document.raw.tobytes() for document in training(dataset, val_fraction) if document.raw is not None]
        for order in options.markov:
            markov[str(order)] = round(MarkovModel(order, train).bits_per_byte(documents), 4)
    result = BpbResult(documents=len(documents), raw_bytes=size, bits_per_byte=round(bits / size, 4), markov=markov)
    if options.json:
        sys.stdout.write(json.dumps(vars(result)) + "\n")
    else:
        sys.stdout.write(
            f"{options.run}: {result.bits_per_byte:.4f} bits per byte on {len(documents)} held-out documents\n"
        )
        for name, value in markov.items():
            sys.stdout.write(f"Markov model of order {name}: {value:.4f}\n")
    return result


def score(model: EvaByte, documents: list[bytes], context: int, batch: int, *, sentinels: bool = True) -> float:
    """Code length in bits of documents under head 0, block by block."""
    blocks = sorted((block for raw in documents for block in blocks_of(raw, context, sentinels)), key=len)
    heads = model.config.main_heads + model.config.raw_heads
    device = model.embed_tokens.weight.device
    total = 0.0
    for start in range(0, len(blocks), batch):
        rows = blocks[start : start + batch]
        with torch.no_grad():
            found = model.loss(*batch_of(rows, max(map(len, rows)) - 1, heads, device))
        total += float(found.next_nats.double().sum())
    return total / math.log(2)
