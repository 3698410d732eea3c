"""Which documents of a unit go on to the encoder: what readers give, less what was left out on purpose.

Filters are asked first, then the unit's list of duplicates, so the first of equal documents is one that is kept.
A document is known by its number in the unit, as two may have the same source and record: those of two datasets in one
glob, say, or files whose names differ in invalid bytes only.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from pipelines.drop_list import DropList, Seen, check_seen
from pipelines.job import Job
from pipelines.reading.documents import Document, Reject
from pipelines.reading.filters import DUPLICATE, Filters
from pipelines.reading.plan import Block, Unit
from pipelines.reading.readers import read_block
from pipelines.reading.records import ReadOptions

__all__ = ["DUPLICATE", "Skipped", "kept", "selected"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A document (or piece) that was read and left out on purpose.

    Attributes:
        reason: `DUPLICATE`, or the name of the filter.
    """

    reason: str


def selected(job: Job, unit: Unit) -> Iterator[Document | Reject | Skipped]:
    """What a unit's blocks hold, in their order, each document once.

    Raises:
        UserError: the unit's list of duplicates is missing or damaged, or not of the documents that are read now; a
            filter is not the job's; or as `read_block`.
        OSError: what a retry may cure.
    """
    drops = DropList.read(job.out, unit)
    seen = Seen()
    for ordinal, item in kept(unit.blocks, job.read, job.filters):
        if isinstance(item, Document):
            seen.add(ordinal, item)
        yield Skipped(DUPLICATE) if isinstance(item, Document) and ordinal in drops else item
    if job.dedupe:
        check_seen(job, unit, seen)


def kept(
    blocks: Iterable[Block], read: ReadOptions, filters: Filters
) -> Iterator[tuple[int, Document | Reject | Skipped]]:
    """What the filters leave of these blocks, duplicates and all, each with its document's ordinal.

    The ordinal is the running number of the document in the blocks, 0-based, before filters; pieces of one share it.
    A reader's reject is no document and has -1.
    """
    numbers = _Numbers()
    answers: dict[int, str | Reject | None] = {}
    for block in blocks:
        numbers.next_block()
        answers.clear()
        for item in read_block(block, read):
            if isinstance(item, Reject):
                yield -1, item
                continue
            ordinal = numbers.of(item)
            if ordinal in answers:  # of a cut document the first piece is asked for all
                answer = answers[ordinal]
            else:
                answer = filters.why_not(item)
                if len(item.raw) < item.whole_bytes:
                    answers[ordinal] = answer
            if answer is None:
                yield ordinal, item
            elif isinstance(answer, Reject):
                yield ordinal, replace(answer, piece=item.piece)
            else:
                yield ordinal, Skipped(answer)


@dataclass
class _Numbers:
    """Counts documents. Pieces of one may lie apart, among others': the nth of a kind is of the nth such document."""

    count: int = 0
    cut: dict[tuple[bytes, str, int], list[int]] = field(default_factory=dict)
    seen: Counter[tuple[bytes, str, int, int]] = field(default_factory=Counter)

    def next_block(self) -> None:
        """Forget the pieces, as a document lies in one block whole."""
        self.cut.clear()
        self.seen.clear()

    def of(self, document: Document) -> int:
        """The number of the document that this is, or is a piece of."""
        if document.piece or len(document.raw) != document.whole_bytes:
            key = (document.doc_id, document.source, document.record)
            ordinals = self.cut.setdefault(key, [])
            before = self.seen[*key, document.piece]
            self.seen[*key, document.piece] += 1
            if before < len(ordinals):
                return ordinals[before]
            ordinals.append(self.count)  # also of a document whose first piece was rejected when it was encoded
        self.count += 1
        return self.count - 1
