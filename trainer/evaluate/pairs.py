"""Held-out documents as pairs of their two views, rendered as in training, for the oracle translation.

In training a pair is `bos <comp> symbols </comp><raw> bytes </raw> eos` (or raw first), a document that is too long
cut in aligned parts whose symbols cover exactly the bytes beside them; here it is the first part of each document.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_CLOSE, COMP_OPEN, RAW_OPEN
from trainer.evaluate.documents import Text

Ids = npt.NDArray[np.int64]

_NEIGHBOURS = 16
"""Pairs of nearly equal length among which another one's symbols are chosen."""

_CYCLES = 100
"""Drawn at most, for one in which no piece stands beside another of its document."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The beginning of a document in both views.

    Attributes:
        key: of the document.
        doc_id: of the document.
        group: of the document.
        raw: bytes.
        comp: the symbols that cover them, vocabulary ids int64 [m].
        whole: whether it is the whole document.
    """

    key: str
    doc_id: str
    group: str
    raw: bytes
    comp: Ids
    whole: bool


def pair_of(text: Text, most_bytes: int, most_ids: int, *, sentinels: bool) -> Pair | None:
    """The longest beginning of a document that ends at a boundary of its symbols; None if there is none.

    Args:
        text: with comp; without spans (gzip) the whole document or nothing.
        most_bytes: of raw.
        most_ids: of the rendering, all of it.
        sentinels: whether views are wrapped in theirs.
    """
    assert text.comp is not None, "it was asked for"
    symbols, covered = len(text.comp), len(text.raw)
    if text.spans is None:
        ends, sizes = np.array([symbols]), np.array([covered])
    else:
        # a part may end before a symbol that begins at a byte of its own, and at the document's end
        ends = np.append(np.flatnonzero(text.spans[1:] > 0) + 1, symbols)
        sizes = np.cumsum(text.spans, dtype=np.int64)[ends - 1]
    fitting = np.flatnonzero((sizes <= most_bytes) & (sizes + ends + (6 if sentinels else 2) <= most_ids))
    if not len(fitting):
        return None
    end, size = int(ends[fitting[-1]]), int(sizes[fitting[-1]])
    comp = text.comp[:end].astype(np.int64)
    return Pair(
        key=text.key, doc_id=text.doc_id, group=text.group, raw=text.raw[:size], comp=comp, whole=size == covered
    )


def distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs without those that have the symbols of an earlier one: they would be no wrong view of it."""
    seen: dict[bytes, Pair] = {}
    for pair in pairs:
        seen.setdefault(pair.comp.tobytes(), pair)
    return list(seen.values())


def others(pairs: Sequence[Pair], seed: int) -> dict[str, Pair]:
    """For each pair another one with about as many symbols: a permutation that leaves nothing in its place.

    Pairs are sorted by their number of symbols and cut in runs of 16 to 31 (or all, if there are fewer); in each run a
    cycle through all of it is drawn (Sattolo 1986), again as long as it takes a piece to another one of its document,
    if that can be helped. The result does not depend on the order of `pairs`.

    Args:
        pairs: two or more, with keys of their own.
        seed: of the draws.

    Returns:
        By key.
    """
    ranked = sorted(pairs, key=lambda pair: (len(pair.comp), pair.key))
    generator = np.random.Generator(np.random.PCG64(seed))
    found: dict[str, Pair] = {}
    runs = max(1, len(ranked) // _NEIGHBOURS)
    for number in range(runs):
        start = number * _NEIGHBOURS
        run = ranked[start : len(ranked) if number == runs - 1 else start + _NEIGHBOURS]
        for _ in range(_CYCLES):
            beside = [run[target] for target in _cycle(len(run), generator)]
            if all(pair.doc_id != other.doc_id for pair, other in zip(run, beside, strict=True)):
                break
        found |= {pair.key: other for pair, other in zip(run, beside, strict=True)}
    return found


def _cycle(size: int, generator: np.random.Generator) -> list[int]:
    """A permutation that is one cycle, each of them as likely."""
    cycle = list(range(size))
    for last in range(size - 1, 0, -1):
        other = int(generator.integers(last))
        cycle[last], cycle[other] = cycle[other], cycle[last]
    return cycle


def before_raw(comp: Ids | None, sentinels: bool) -> list[int]:
    """The ids before the first byte of a pair's raw view.

    Args:
        comp: the comp view that stands before it; None for a raw view alone.
        sentinels: whether views are wrapped in theirs.
    """
    symbols = [] if comp is None else comp.tolist()
    if not sentinels:
        return [BOS, *symbols]
    return [BOS, RAW_OPEN] if comp is None else [BOS, COMP_OPEN, *symbols, COMP_CLOSE, RAW_OPEN]


def with_raw(before: list[int], raw: bytes) -> Ids:
    """The ids before and the bytes: int64."""
    return np.concatenate([before, np.frombuffer(raw, np.uint8).astype(np.int64) + BYTE_OFFSET]).astype(np.int64)
