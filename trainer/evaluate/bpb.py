"""`python -m trainer evaluate bpb`: bits per byte on the held-out raw documents of a dataset.

Each document is rendered `bos <raw> bytes </raw> eos` and cut in blocks of `context` ids; a block starts with the
opener (and bos where the document does), positions start at 0, and only its byte labels count, by head 0 over the
full vocabulary. Every block is alone in its row, so the figure does not depend on the batch. Beside it, Markov models
of order 1 and 2, counted on the training split and scored on the same documents.
"""

import json
import math
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from schemas.errors import UserError
from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_OFFSET, PAD, RAW_CLOSE, RAW_OPEN
from trainer.data.dataset import Dataset
from trainer.data.lanes import held_out, training
from trainer.markov import MarkovModel
from trainer.model.evabyte import EvaByte
from trainer.model.heads import loss_sum
from trainer.restore import restore


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
    dataset = Dataset(options.data or restored.config["data"][0])
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
    bits = score(restored.model, documents, context, options.batch, sentinels=restored.config["mode"] != "no-sentinels")
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
    total = 0.0
    for start in range(0, len(blocks), batch):
        rows = blocks[start : start + batch]
        width = max(map(len, rows)) - 1
        ids = np.full((len(rows), width), PAD, np.int64)
        labels = np.zeros((len(rows), width, 1), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row) - 1] = row[:-1]
            labels[index, : len(row) - 1, 0] = row[1:]
        counted = (labels >= BYTE_OFFSET) & (labels < COMP_OFFSET)
        position = torch.arange(width).expand(len(rows), width)
        # padding is a document of its own, after the block: nobody sees it
        doc = torch.from_numpy((ids == PAD).astype(np.int64))
        with torch.no_grad():
            hidden = model(torch.from_numpy(ids), doc, position)
            heads = model.config.main_heads + model.config.raw_heads
            wide = torch.zeros(len(rows), width, heads, dtype=torch.int64)
            wide[:, :, :1] = torch.from_numpy(labels)
            weights = torch.zeros(len(rows), width, heads)
            weights[:, :, :1] = torch.from_numpy(counted.astype(np.float32))
            total += float(loss_sum(model, hidden, wide, weights).next_nats.double().sum())
    return total / math.log(2)


def blocks_of(raw: bytes, context: int, sentinels: bool) -> list[npt.NDArray[np.int64]]:
    """The blocks of one document: the ids of each, its last one only a label."""
    opener = [RAW_OPEN] if sentinels else [BOS]
    data = np.frombuffer(raw, np.uint8).astype(np.int64) + BYTE_OFFSET
    first = [BOS, *opener] if sentinels else opener
    blocks = []
    at = 0
    while at < len(data):
        head = first if at == 0 else opener
        part = data[at : at + context + 1 - len(head)]
        blocks.append(np.concatenate([head, part]).astype(np.int64))
        at += len(part)
    if sentinels:
        blocks[-1] = np.append(blocks[-1], RAW_CLOSE)
    return blocks
