"""The share of the documents, or of their pieces, that holds so many bytes of text.

A budget in bytes is what a table can show, `--raw-fraction` is what a run is given; between them are the run's own
draws. Reads the keys of the whole dataset once: about a second for 100,000 rows.
"""

from typing import NamedTuple

from schemas.draws import uniform
from trainer.data.held_out import RowGroups, is_held_out
from trainer.data.views import draw_row


class RawText(NamedTuple):
    """The pieces with the smallest draws.

    Attributes:
        share: `--raw-fraction` that lets these be shown raw, above 0.
        raw_bytes: that they have.
        documents: different ones that they are of.
    """

    share: float
    raw_bytes: int
    documents: int


def raw_text(dataset: RowGroups, raw_bytes: int, val_fraction: float, seed: int) -> RawText:
    """Pieces with as nearly so many raw bytes as whole pieces allow; all, where the dataset has no more.

    Args:
        dataset: of the run.
        raw_bytes: the budget.
        val_fraction: held out, never a part of it.
        seed: of the run.
    """
    pieces: list[tuple[float, int, bytes]] = []
    for ordinal in range(len(dataset)):
        group = dataset.read(ordinal)
        for key, size in zip(group.keys, group.raw_bytes, strict=True):
            if size and not is_held_out(key, val_fraction):
                pieces.append((uniform(draw_row("raw-text", seed, 0, key)), int(size), key.doc_id))
    pieces.sort()
    total, best, held = 0, 0, 0
    for count, (_, size, _) in enumerate(pieces, 1):
        total += size
        if not best or abs(total - raw_bytes) < abs(held - raw_bytes):
            best, held = count, total
        if total >= raw_bytes:
            break
    documents = len({doc_id for _, _, doc_id in pieces[:best]})
    if best == len(pieces):
        return RawText(1.0, held, documents)
    return RawText((pieces[best - 1][0] + pieces[best][0]) / 2, held, documents)
