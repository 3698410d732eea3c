"""The share of the documents that holds so many bytes of text.

The split draw belongs to a document, and its pieces share it: of 1,790 files of very different sizes .4 % are seven on
average, and may be three small ones. So a budget in bytes is turned into the share that holds it. Reads the keys of the
whole dataset once: about a second for 100,000 rows.
"""

from collections import defaultdict
from typing import NamedTuple

from schemas.draws import split_uniform
from trainer.data.lanes import RowGroups


class RawText(NamedTuple):
    """The documents with the largest split draws.

    Attributes:
        share: `--raw-fraction` that lets these be shown raw, above 0.
        raw_bytes: that they have.
    """

    share: float
    raw_bytes: int


def raw_text(dataset: RowGroups, raw_bytes: int, val_fraction: float) -> RawText:
    """Documents with as nearly so many raw bytes as whole documents allow; all, where the dataset has no more.

    Args:
        dataset: of the run.
        raw_bytes: the budget.
        val_fraction: held out, never a part of it.
    """
    sizes: dict[float, int] = defaultdict(int)
    for ordinal in range(len(dataset)):
        group = dataset.read(ordinal)
        for key, size in zip(group.keys, group.raw_bytes, strict=True):
            draw = split_uniform(key.doc_id)
            if size and draw >= val_fraction:
                sizes[draw] += int(size)
    draws = sorted(sizes, reverse=True)
    total, best, held = 0, 0, 0
    for count, draw in enumerate(draws, 1):
        total += sizes[draw]
        if not best or abs(total - raw_bytes) < abs(held - raw_bytes):
            best, held = count, total
        if total >= raw_bytes:
            break
    if best == len(draws):
        return RawText(1.0, held)
    least = (draws[best - 1] + draws[best]) / 2  # between the last that may and the first that may not
    return RawText((1 - least) / (1 - val_fraction), held)
