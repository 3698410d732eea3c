"""`python -m trainer evaluate bpb`: bits per byte on held-out documents, by group, with intervals and yardsticks.

A document's view is cut in blocks (`blocks.py`) and told by head 0 over the full vocabulary: bits of its bytes, or of
its comp symbols, over its raw bytes. Each document goes through passes of its own, all of one shape [rows, context]
that hangs on the context alone, so its figure is the same number, to the last bit, whatever else is evaluated, in
which order and after how many restarts. Documents shorter than a pass pay for its padding.

Beside it, on the same documents: Markov models counted on the training split, and general compressors. What all of it
means is in docs/evaluating.md.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from schemas.errors import UserError
from trainer.checkpoints.restore import Restored, restore
from trainer.data.dataset import Dataset
from trainer.data.held_out import training
from trainer.data.rows import Document
from trainer.data.views import Mode
from trainer.evaluate import yardsticks
from trainer.evaluate.blocks import EMPTY, Block, batch_of, blocks_of, comp_blocks_of
from trainer.evaluate.documents import (
    By,
    Text,
    check_proxy,
    count_column,
    counted,
    dataset_of,
    grouped,
    how_many,
    texts_of,
    watched,
)
from trainer.evaluate.intervals import Interval, ratio
from trainer.evaluate.journal import Journal, folder_of, identity_of, print_table
from trainer.evaluate.markov import MarkovModel
from trainer.model.evabyte import EvaByte

ViewName = Literal["raw", "comp"]

PASS_IDS = {"cpu": 512, "cuda": 16_384}
"""Ids of a pass, if the context is not longer: a CPU is as fast with few, and short documents waste less."""


MARKOV_BYTES = 1 << 28
"""Of the training split, in stored order, that Markov models are counted on at most: some seconds."""


@dataclass(frozen=True, kw_only=True)
class BpbOptions:
    """Bits per byte on held-out documents.

    Attributes:
        run: folder of the run, or of an exported model.
        data: dataset; default the run's first.
        all_documents: take all documents, not only held-out ones: for a dataset that was not trained on.
        views: raw and comp; default those that the model was trained on.
        context: ids a block; default the sequence that was trained on.
        stride: labels that count in a block after the first; default the context: blocks do not overlap.
        documents: at most so many, or pieces where they are stored in pieces: one of each before a second of any.
        by: one row for each group (by default a file's extension) or each source (input file).
        batch: documents kept at a time: what a kill may cost. No figure depends on it.
        markov: orders of Markov models to put beside it, 0 to 2, counted on 256 MiB of training text at most. None with
            --all-documents, which they are counted on.
        out: folder of the result; default evaluations/ in the run's folder.
        afresh: forget an earlier call's documents.
        json: print JSON instead of tables.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    data: str | None = None
    all_documents: bool = False
    views: tuple[ViewName, ...] | None = None
    context: int | None = None
    stride: int | None = None
    documents: int = 200
    by: By = "group"
    batch: int = 8
    markov: tuple[int, ...] = (1, 2)
    out: str | None = None
    afresh: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.documents < 1 or self.batch < 1 or (self.context is not None and self.context < 8):
            raise UserError("--documents and --batch must be 1 or more, --context 8 or more")
        if self.stride is not None and self.stride < 1:
            raise UserError(f"--stride is {self.stride}; expected 1 or more")
        if not set(self.markov) <= {0, 1, 2}:
            raise UserError("--markov takes orders 0 to 2: larger ones would keep 4 billion counts")
        if self.views is not None and (not self.views or len(set(self.views)) < len(self.views)):
            raise UserError("--views takes raw, comp or both")


def evaluate(options: BpbOptions) -> dict[str, Any]:
    """The `evaluate bpb` command.

    Returns:
        The figures: see `figures_of`.

    Raises:
        UserError: no run, no dataset, nothing held out, another proxy's symbols, a view that was never trained.
    """
    restored = restore(options.run)
    dataset = dataset_of(options.run, restored, options.data)
    views = _views(options, restored, dataset)
    context = options.context or int(restored.config["sequence"])
    stride = options.stride or context
    if stride > context:
        raise UserError(f"--stride {stride} is more than the context of {context} ids: bytes would be left out")
    sentinels = Mode(restored.config["mode"]).sentinels
    val_fraction = float(restored.config["val_fraction"])
    texts = texts_of(
        dataset, None if options.all_documents else val_fraction, options.documents, ("raw", *_comp(views)), options.by
    )
    model = restored.model.to("cuda") if torch.cuda.is_available() else restored.model
    configuration = {
        **identity_of(model), "data": dataset.row_groups_digest,
        "held_out": None if options.all_documents else val_fraction, "documents": options.documents, "by": options.by,
        "views": list(views), "context": context, "stride": stride,
        "pass_ids": PASS_IDS[model.embed_tokens.weight.device.type], "sentinels": sentinels,
        "markov": sorted(options.markov),
    }  # fmt: skip
    orders = () if options.all_documents else options.markov
    with Journal(folder_of(options.run, options.out), "bpb", configuration, afresh=options.afresh) as journal:
        left = [text for text in texts if text.key not in journal.items]
        shown = watched(left, "pieces", total=len(texts), done=len(texts) - len(left))
        items = ((text.key, _item(model, text, views, context, stride, sentinels=sentinels)) for text in shown)
        journal.add_all(items, options.batch)
        figures = figures_of(texts, journal.items, views, _markov(orders, dataset, val_fraction))
        path = journal.finish(figures)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        _print(options, figures, str(path))
    return figures


def code_length(model: EvaByte, blocks: Sequence[Block], context: int) -> float:
    """Bits of the labels that count in one document's blocks, under head 0 over the full vocabulary.

    All passes have one shape, and a block's place in them follows from its number: equal blocks, equal bits.
    """
    heads = model.config.main_heads + model.config.raw_heads
    device = model.embed_tokens.weight.device
    rows = max(1, PASS_IDS.get(device.type, PASS_IDS["cpu"]) // context)
    nats = []
    for start in range(0, len(blocks), rows):
        some = [*blocks[start : start + rows]]
        some += [EMPTY] * (rows - len(some))
        with torch.no_grad():
            found = model.loss(*batch_of(some, context, heads, device)).next_nats
        nats += found.double().sum(1).tolist()
    return math.fsum(nats) / math.log(2)


def figures_of(
    texts: Sequence[Text], items: dict[str, dict[str, Any]], views: Sequence[ViewName], markov: dict[str, MarkovModel]
) -> dict[str, Any]:
    """What is reported.

    Args:
        texts: all documents.
        items: of the journal: bits by view, symbols, compressed sizes.
        views: that were measured.
        markov: models by order.

    Returns:
        JSON: pieces, documents, raw_bytes, view (what the headline is about: raw, if the model knows it),
        bits_per_byte, markov (bits per byte by order); "all" and "groups", rows of group, pieces, documents,
        raw_bytes, symbols (of comp), raw and comp (value, low, high: bits per raw byte), markov, compressors (bits
        per byte by name).
    """
    texts = sorted(texts, key=lambda text: text.key)  # whatever the order in which they were read
    bits = {name: {text.key: model.bits(text.raw) for text in texts} for name, model in markov.items()}
    rows = [_row(name, some, items, views, bits) for name, some in grouped(texts).items()]
    whole = _row("all", texts, items, views, bits)
    return {
        **counted(texts), "raw_bytes": whole["raw_bytes"], "view": views[0],
        "bits_per_byte": whole[views[0]]["value"], "markov": whole["markov"], "all": whole, "groups": rows,
    }  # fmt: skip


def _row(
    name: str, texts: Sequence[Text], items: dict[str, dict[str, Any]], views: Sequence[ViewName],
    markov: dict[str, dict[str, float]],
) -> dict[str, Any]:  # fmt: skip
    found = [items[text.key] for text in texts]
    lengths = [len(text.raw) for text in texts]
    size = sum(lengths)
    row: dict[str, Any] = {"group": name, **counted(texts), "raw_bytes": size}
    if "comp" in views:
        row["symbols"] = sum(item["symbols"] for item in found)
    for view in views:
        row[view] = ratio([item[view] for item in found], lengths, [text.doc_id for text in texts]).rounded(6)
    row["markov"] = {
        order: round(math.fsum(bits[text.key] for text in texts) / size, 6) for order, bits in markov.items()
    }
    sizes = {name: sum(item["compressed"][name] for item in found) for name in yardsticks.ALONE}
    sizes[yardsticks.TOGETHER] = yardsticks.together([text.raw for text in texts])
    row["compressors"] = {name: round(8 * compressed / size, 6) for name, compressed in sizes.items()}
    return row


def _item(
    model: EvaByte, text: Text, views: Sequence[ViewName], context: int, stride: int, *, sentinels: bool
) -> dict[str, Any]:
    item: dict[str, Any] = {"group": text.group, "bytes": len(text.raw), "compressed": yardsticks.sizes(text.raw)}
    if "raw" in views:
        item["raw"] = code_length(model, blocks_of(text.raw, context, sentinels, stride), context)
    if "comp" in views:
        assert text.comp is not None, "asked for, and the dataset has it"
        item["symbols"] = len(text.comp)
        item["comp"] = code_length(model, comp_blocks_of(text.comp, context, sentinels, stride), context)
    return item


def _views(options: BpbOptions, restored: Restored, dataset: Dataset) -> tuple[ViewName, ...]:
    """What is measured, the headline's view first.

    Raises:
        UserError: a view that the model or the dataset does not have.
    """
    mode = Mode(restored.config["mode"])
    known: tuple[ViewName, ...] = ("raw",) if mode is not Mode.COMP_ONLY else ()
    if restored.vocabulary.comp_symbols and mode is not Mode.BYTES:
        known = (*known, "comp")
    views = known if options.views is None else tuple(view for view in known if view in options.views)
    for view in options.views or ():
        if view not in known:
            raise UserError(f"--views {view}: RUN={options.run} was trained with MODE={mode}, which never shows it")
    if "comp" in views:
        remedy = "give --views raw" if "raw" in known else "give a dataset of the run's own proxy"
        check_proxy(options.run, restored, dataset, remedy)
    return views


def _comp(views: Sequence[ViewName]) -> tuple[str, ...]:
    return ("comp",) if "comp" in views else ()


def _markov(orders: Sequence[int], dataset: Dataset, val_fraction: float) -> dict[str, MarkovModel]:
    """Models by order, counted on what is not held out of the dataset."""
    if not orders:
        return {}
    most = MarkovModel(max(orders), _first(MARKOV_BYTES, training(dataset, val_fraction)))
    return {str(order): most.lower(order) for order in sorted(orders)}


def _first(size: int, documents: Iterator[Document]) -> Iterator[bytes]:
    """Documents until they have so many bytes; no more is read."""
    for document in documents:
        if document.raw is not None and document.raw_bytes:
            size -= document.raw_bytes
            yield document.raw.tobytes()
            if size <= 0:
                return


def _print(options: BpbOptions, figures: dict[str, Any], path: str) -> None:
    kind = "documents" if options.all_documents else "held-out documents"
    what = "bits per byte" if figures["view"] == "raw" else "bits per raw byte (comp view)"
    sys.stdout.write(f"{options.run}: {figures['bits_per_byte']:.4f} {what} on {how_many(figures, kind)}\n")
    for order, value in figures["markov"].items():
        sys.stdout.write(f"Markov model of order {order}: {value:.4f}\n")
    rows = [*figures["groups"], figures["all"]]
    views = [view for view in ("raw", "comp") if view in figures["all"]]
    count = count_column(figures)
    print_table(
        "bits per raw byte of the model, by view",
        [options.by, count, "bytes", *(column for view in views for column in (view, "95 %"))],
        [
            [
                row["group"], *(f"{row[name]:,}" for name in (count, "raw_bytes")),
                *(cell for view in views for cell in Interval(**row[view]).cells()),
            ]
            for row in rows
        ],
    )  # fmt: skip
    whole = figures["all"]
    print_table(
        "the same of yardsticks",
        [options.by, *(f"Markov {order}" for order in whole["markov"]), *whole["compressors"]],
        [
            [row["group"], *(f"{value:.4f}" for name in ("markov", "compressors") for value in row[name].values())]
            for row in rows
        ],
    )
    sys.stdout.write(f"95 %: by drawing documents anew; all of it in {path}\n")
