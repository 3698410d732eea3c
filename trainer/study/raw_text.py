"""How much text a share of the documents is: whole documents, so a small share is not that share of the bytes.

The split draw belongs to a document, and its pieces share it: of 1,790 files of very different sizes .4 % are seven on
average, and may be three small ones. So a budget in bytes is turned into the share that holds it, and what a share
holds is counted. Reads the keys of the whole dataset: about a second for 100,000 rows.
"""

from collections import defaultdict

from schemas.draws import split_uniform
from trainer.data.lanes import RowGroups


def share_for(dataset: RowGroups, raw_bytes: int, val_fraction: float) -> float:
    """The `--raw-fraction` whose documents have as nearly so many raw bytes as whole documents allow.

    Args:
        dataset: of the run.
        raw_bytes: the budget.
        val_fraction: held out, never a part of it.

    Returns:
        The share, above 0; 1 where the dataset has no more text.
    """
    sizes = _by_draw(dataset, val_fraction)
    draws = sorted(sizes, reverse=True)  # those with the largest draws may be shown raw
    total, best, best_miss = 0, 0, float("inf")
    for count, draw in enumerate(draws, 1):
        total += sizes[draw]
        if abs(total - raw_bytes) < best_miss:
            best, best_miss = count, abs(total - raw_bytes)
        if total >= raw_bytes:
            break
    if best == len(draws):
        return 1.0
    least = (draws[best - 1] + draws[best]) / 2  # between the last that may and the first that may not
    return (1 - least) / (1 - val_fraction)


def bytes_of(dataset: RowGroups, share: float, val_fraction: float) -> int:
    """Raw bytes of the documents that a `--raw-fraction` lets be shown raw."""
    least = val_fraction if share == 1 else 1 - share * (1 - val_fraction)
    return sum(size for draw, size in _by_draw(dataset, val_fraction).items() if draw >= least)


def _by_draw(dataset: RowGroups, val_fraction: float) -> dict[float, int]:
    """Raw bytes of the training documents by their split draw."""
    sizes: dict[float, int] = defaultdict(int)
    for ordinal in range(len(dataset)):
        group = dataset.read(ordinal)
        for key, size in zip(group.keys, group.raw_bytes, strict=True):
            draw = split_uniform(key.doc_id)
            if size and draw >= val_fraction:
                sizes[draw] += int(size)
    return sizes
