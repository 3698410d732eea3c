"""Follows the pieces of cut documents: whose are whole, and what of the others is missing?

Pieces come in the order of their rows: those of a document in their own order, which other documents' may interrupt,
even those of one with the same bytes, source and record (of two datasets in one glob, say). Memory: about 400 bytes a
document that is not whole yet. Cost: 1 GB/s.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[str, str, int]
"""doc_id (hex), source, record: what the pieces of a document share."""

MOST_STAGES = 64
"""Of equal documents that are not whole yet, how many places these may have got to: a forged shard has any number."""


class Broken(NamedTuple):
    """A document that is not whole, or whose id is wrong.

    Attributes:
        key: of the document.
        gaps: runs of pieces that did not come where they should have; the first piece, where documents of this key
            came in more ways than are followed.
        end: the piece after the last that came.
    """

    key: Key
    gaps: list[range]
    end: int

    @property
    def lacks(self) -> list[range]:
        """Pieces without which it cannot be checked; of one without a gap that at its end, or its id is wrong."""
        return self.gaps or [range(self.end, self.end + 1)]


@dataclass
class _Cut:
    digest: "hashlib.blake2b" = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    next: int = 0
    gaps: list[range] = field(default_factory=list)


@dataclass
class CutDocuments:
    """Recomputes the ids of cut documents over their pieces. One is done with when its bytes give its id."""

    _open: dict[Key, dict[int, deque[_Cut]]] = field(default_factory=dict)
    """By key and next piece, the oldest first."""

    _hopeless: set[Key] = field(default_factory=set)

    def add(self, key: Key, piece: int, raw: bytes) -> None:
        """Take the next piece, for the document that has got furthest without it: of equals for the first."""
        if key in self._hopeless:
            return
        stages = self._open.setdefault(key, {})
        # One that has this piece already cannot take it; where all do, it is of a document whose start is missing.
        before = piece if piece in stages else max((stage for stage in stages if stage < piece), default=0)
        cut = stages[before].popleft() if before else _Cut()
        if before and not stages[before]:
            del stages[before]
        if piece > cut.next:
            cut.gaps.append(range(cut.next, piece))
        cut.digest.update(raw)
        cut.next = piece + 1
        if cut.gaps or cut.digest.hexdigest() != key[0]:
            stages.setdefault(cut.next, deque()).append(cut)
        if not stages:
            del self._open[key]
        elif len(stages) > MOST_STAGES:
            del self._open[key]
            self._hopeless.add(key)

    def broken(self) -> Iterator[Broken]:
        """After the last piece: documents that are not whole, or whose id is wrong."""
        for key, stages in self._open.items():
            for cuts in stages.values():
                for cut in cuts:
                    yield Broken(key, cut.gaps, cut.next)
        for key in sorted(self._hopeless):
            yield Broken(key, [range(1)], 0)
