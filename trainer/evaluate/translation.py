"""`python -m trainer evaluate translation`: does a model carry a document over from its comp view to raw bytes.

The comp view of a held-out document is put in the context, rendered as pairs are in training (`pairs.py`), and the
model is asked for the raw bytes that follow, in two ways:

- told: bits per byte of the raw bytes after the document's own comp view, after another document's, after none. Own
  minus other's is the gate: as long as it is not clearly below 0 the model has not learnt that the views say the same,
  and comparing proxies by what their comp views did for raw bytes means little;
- written: the likeliest bytes until the model closes the text, compared with the right ones.

Each document goes through passes of its own, so its item is the same in any order and after any restart.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from schemas.digests import digest_of
from schemas.errors import UserError
from trainer.checkpoints.restore import Restored, restore
from trainer.data.views import Mode
from trainer.evaluate.blocks import Block, batch_of
from trainer.evaluate.documents import (
    By,
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
from trainer.evaluate.pairs import Ids, Pair, before_raw, distinct, others, pair_of, with_raw
from trainer.inference.continuation import Generated
from trainer.inference.decoding import Generator
from trainer.model.evabyte import EvaByte

GATE = -0.3
"""Bits per byte: own minus other's comp view must be below it, its interval below 0, before proxies are compared."""

SPARE = 32
"""Bytes that may be written beyond the right ones: who has not closed the text by then, does not."""

CONTEXTS = ("own", "other", "none")


@dataclass(frozen=True, kw_only=True)
class TranslationOptions:
    """Oracle translation from the comp view to raw bytes.

    Attributes:
        run: folder of the run, or of a full export.
        data: dataset; default the run's first.
        all_documents: take all documents, not only held-out ones: for a dataset that was not trained on.
        documents: at most so many, or pieces where they are stored in pieces: one of each before a second of any.
        max_bytes: raw bytes of a document, from its start, at most; cut where both views can be.
        written: of so many the model writes the bytes, too; default all; 0: bytes are only told, which is much faster.
        seed: of the choice of the other document.
        by: one row for each group or each source.
        examples: kept in the result, of what was written.
        batch: documents kept at a time: what a kill may cost. No figure depends on it.
        out: folder of the result; default evaluations/ in the run's folder.
        afresh: forget an earlier call's documents.
        json: print JSON instead of a table.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    data: str | None = None
    all_documents: bool = False
    documents: int = 200
    max_bytes: int = 512
    written: int | None = None
    seed: int = 0
    by: By = "group"
    examples: int = 5
    batch: int = 8
    out: str | None = None
    afresh: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.documents < 2:
            raise UserError(f"--documents is {self.documents}; expected 2 or more: each needs another one's comp view")
        if self.max_bytes < 1 or self.batch < 1:
            raise UserError("--max-bytes and --batch must be 1 or more")
        if self.examples < 0 or self.seed < 0 or (self.written or 0) < 0:
            raise UserError("--examples, --seed and --written must be 0 or more")


def evaluate(options: TranslationOptions) -> dict[str, Any]:
    """The `evaluate translation` command.

    Returns:
        The figures: see `figures_of`.

    Raises:
        UserError: a model of one view, another proxy's symbols, no run, no dataset, fewer than two documents that fit.
    """
    restored = restore(options.run)
    sentinels = _check_mode(options.run, restored)
    distance = _character_distance() if options.written != 0 else None
    pairs, skipped = _pairs(options, restored)
    to_write = {pair.key for pair in pairs[: options.written]}
    wrong = others(pairs, options.seed)
    model = restored.model.to("cuda") if torch.cuda.is_available() else restored.model
    width = _width(model, pairs)
    writer = Writer(model, sentinels=sentinels) if to_write else None
    documents = digest_of({"documents": sorted([pair.key, len(pair.raw)] for pair in pairs)})
    configuration = {
        **identity_of(model), "documents": documents, "max_bytes": options.max_bytes, "width": width,
        "most_ids": _most_ids(restored), "sentinels": sentinels, "seed": options.seed, "written": len(to_write),
        "by": options.by, "examples": options.examples,
    }  # fmt: skip
    with Journal(folder_of(options.run, options.out), "translation", configuration, afresh=options.afresh) as journal:
        left = [pair for pair in pairs if pair.key not in journal.items]

        def item(pair: Pair) -> dict[str, Any]:
            other = wrong[pair.key]
            found: dict[str, Any] = {"bytes": len(pair.raw), "beside": other.key}
            found |= told(model, pair, other, width, sentinels=sentinels)
            if writer is not None and distance is not None and pair.key in to_write:
                found |= _written(writer, pair, distance)
            return found

        shown = watched(left, "pieces", total=len(pairs), done=len(pairs) - len(left))
        journal.add_all(((pair.key, item(pair)) for pair in shown), options.batch)
        figures = figures_of(pairs, journal.items, skipped=skipped, examples=options.examples)
        path = journal.finish(figures)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        _print(options, figures, str(path))
    return figures


def told(model: EvaByte, pair: Pair, other: Pair, width: int, *, sentinels: bool) -> dict[str, float]:
    """Bits of a pair's raw bytes by context: own, other, none. Head 0, softmax over the full vocabulary.

    Args:
        model: that is asked.
        pair: whose bytes.
        other: whose comp view is the wrong one.
        width: ids of the pass, which has one row a context.
        sentinels: whether views are wrapped in theirs.
    """
    heads = model.config.main_heads + model.config.raw_heads
    contexts = (pair.comp, other.comp, None)
    blocks = [Block(with_raw(before_raw(comp, sentinels), pair.raw), len(pair.raw)) for comp in contexts]
    with torch.no_grad():
        nats = model.loss(*batch_of(blocks, width, heads, model.embed_tokens.weight.device)).next_nats
    bits = (nats.double().sum(1) / torch.log(torch.tensor(2.0, dtype=torch.float64))).tolist()
    return dict(zip(CONTEXTS, bits, strict=True))


class Writer(Generator):
    """Writes the raw bytes that follow a comp view; one document at a time, so that nothing else plays a part."""

    def __init__(self, model: EvaByte, *, sentinels: bool) -> None:
        super().__init__(model, sentinels=sentinels)
        self._sentinels = sentinels

    def write(self, comp: Ids, max_bytes: int) -> Generated:
        """The likeliest bytes after a comp view, until the model closes the text.

        Args:
            comp: vocabulary ids.
            max_bytes: at most.
        """
        self.start = before_raw(comp, self._sentinels)
        return self.generate([b""], batch=1, max_bytes=max_bytes)[0]


def figures_of(
    pairs: Sequence[Pair], items: dict[str, dict[str, Any]], *, skipped: int, examples: int
) -> dict[str, Any]:
    """What is reported.

    Args:
        pairs: all of them.
        items: of the journal: bits by context, what was written, the other document's key (beside).
        skipped: documents without a beginning that fits, or with the symbols of another one.
        examples: kept of what was written.

    Returns:
        JSON: pieces, documents, skipped, aligned (whether the gate is passed); "all" and "groups", rows of group,
        pieces, documents, raw_bytes; own, other, none, gate (own minus other), gain (own minus none), each value, low,
        high in bits per byte; of those that the model wrote: written (their number), exact (share written to the last
        byte and no further), character_error (edits of characters over those of the right text); examples: right,
        written (text), own, other, none (bits per byte).
    """
    pairs = sorted(pairs, key=lambda pair: pair.key)
    whole = _row("all", pairs, items)
    gate = whole["gate"]
    kept = [pair for pair in pairs if "text" in items[pair.key]][:examples]
    return {
        **counted(pairs), "skipped": skipped, "aligned": gate["value"] < GATE and gate["high"] < 0,
        "all": whole, "groups": [_row(name, some, items) for name, some in grouped(pairs).items()],
        "examples": [
            {
                "right": pair.raw.decode(errors="replace"), "written": items[pair.key]["text"],
                **{name: round(items[pair.key][name] / len(pair.raw), 4) for name in CONTEXTS},
            }
            for pair in kept
        ],
    }  # fmt: skip


def _row(name: str, pairs: Sequence[Pair], items: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found = [items[pair.key] for pair in pairs]
    lengths, documents = [len(pair.raw) for pair in pairs], [pair.doc_id for pair in pairs]
    row: dict[str, Any] = {"group": name, **counted(pairs), "raw_bytes": sum(lengths)}
    for context in CONTEXTS:
        row[context] = ratio([item[context] for item in found], lengths, documents).rounded(6)
    for figure, less in (("gate", "other"), ("gain", "none")):
        row[figure] = ratio([item["own"] - item[less] for item in found], lengths, documents).rounded(6)
    if written := [pair for pair in pairs if "exact" in items[pair.key]]:
        made, documents = [items[pair.key] for pair in written], [pair.doc_id for pair in written]
        row["written"] = len(written)
        row["exact"] = ratio([float(item["exact"]) for item in made], [1.0] * len(made), documents).rounded(6)
        characters = [item["characters"] for item in made]
        row["character_error"] = ratio([item["edits"] for item in made], characters, documents).rounded(6)
    return row


def _written(writer: Writer, pair: Pair, distance: Callable[[str, str], int]) -> dict[str, Any]:
    made = writer.write(pair.comp, len(pair.raw) + SPARE)
    # bytes that are no UTF-8 count as characters of their own
    right, written = (data.decode(errors="surrogateescape") for data in (pair.raw, made.data))
    return {
        "exact": made.data == pair.raw, "ended": made.ended, "edits": distance(right, written),
        "characters": len(right), "text": made.data.decode(errors="replace"),
    }  # fmt: skip


def _check_mode(run: str, restored: Restored) -> bool:
    """Whether the model is trained with sentinels.

    Raises:
        UserError: it knows one view only.
    """
    mode = Mode(restored.config["mode"])
    if not mode.mixes or not restored.vocabulary.comp_symbols:
        known = "comp symbols" if mode is Mode.COMP_ONLY else "bytes"
        raise UserError(
            f"RUN={run}: trained with MODE={mode} or exported raw-only, it knows {known} alone and has nothing to "
            "translate; take a run that mixes views"
        )
    return mode.sentinels


def _most_ids(restored: Restored) -> int:
    """The longest pair that was met in training."""
    return int(restored.config.get("pair_symbols") or int(restored.config["sequence"]) // 2)


def _pairs(options: TranslationOptions, restored: Restored) -> tuple[list[Pair], int]:
    """The pairs, and how many documents have none.

    Raises:
        UserError: there are fewer than two.
    """
    dataset = dataset_of(options.run, restored, options.data)
    check_proxy(options.run, restored, dataset, "give a dataset of the run's own proxy")
    val_fraction = None if options.all_documents else float(restored.config["val_fraction"])
    texts = texts_of(dataset, val_fraction, options.documents, ("raw", "comp", "spans"), options.by)
    most, sentinels = _most_ids(restored), Mode(restored.config["mode"]).sentinels
    pairs = distinct(
        [pair for text in texts if (pair := pair_of(text, options.max_bytes, most, sentinels=sentinels)) is not None]
    )
    if len(pairs) < 2:
        raise UserError(
            f"DATA={dataset.url}: of {len(texts):,} documents {len(pairs)} have a beginning of at most "
            f"{options.max_bytes:,} bytes, {most:,} ids as a pair (the longest that training shows), that no other "
            "has; two are needed: take more --documents, a larger --max-bytes or shorter documents"
        )
    return pairs, len(texts) - len(pairs)


def _width(model: EvaByte, pairs: Sequence[Pair]) -> int:
    """Ids of a pass: room for any document after any comp view, in whole windows."""
    most = max(len(pair.comp) for pair in pairs) + max(len(pair.raw) for pair in pairs) + 4
    return -(-most // model.config.window) * model.config.window


def _character_distance() -> Callable[[str, str], int]:
    """Edits that make one text of another: insertions, deletions, substitutions of a character (Levenshtein 1966).

    Raises:
        UserError: the library that counts them is missing.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise UserError(
            "rapidfuzz is missing, it counts wrong characters: pip install rapidfuzz; or --written 0"
        ) from None
    distance: Callable[[str, str], int] = Levenshtein.distance
    return distance


def _print(options: TranslationOptions, figures: dict[str, Any], path: str) -> None:
    whole = figures["all"]
    gate = Interval(**whole["gate"])
    verdict = "aligned" if figures["aligned"] else "not aligned"
    sys.stdout.write(
        f"{options.run}: own minus other's comp view {gate.value:+.4f} bits per byte ({gate.low:+.4f} to "
        f"{gate.high:+.4f}) on {how_many(figures, 'documents')}: {verdict} (gate: below {GATE})\n"
    )
    rows = [*figures["groups"], whole]
    count = count_column(figures)
    print_table(
        "bits per raw byte, by the comp view before it",
        [options.by, count, "bytes", *CONTEXTS],
        [
            [
                row["group"], *(f"{row[name]:,}" for name in (count, "raw_bytes")),
                *(f"{row[context]['value']:.4f}" for context in CONTEXTS),
            ]
            for row in rows
        ],
    )  # fmt: skip
    print_table(
        "what the own comp view gains",
        [options.by, "own - other", "95 %", "own - none", "95 %"],
        [[row["group"], *Interval(**row["gate"]).cells(), *Interval(**row["gain"]).cells()] for row in rows],
    )
    if "exact" in whole:
        print_table(
            "written after the own comp view",
            [options.by, "written", "exact", "95 %", "character error", "95 %"],
            [
                [
                    row["group"], f"{row['written']:,}",
                    *Interval(**row["exact"]).cells(), *Interval(**row["character_error"]).cells(),
                ]
                for row in rows
                if "written" in row
            ],
        )  # fmt: skip
    if figures["skipped"]:
        sys.stdout.write(f"{figures['skipped']:,} left out: none of their beginnings fits, or another has it\n")
    sys.stdout.write(f"95 %: by drawing documents anew; all of it in {path}\n")
