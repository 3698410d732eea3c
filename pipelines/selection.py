"""Which documents of a unit go on to the encoder: what readers give, less what was left out on purpose.

Filters are asked first, then the unit's list of duplicates, so the first of equal documents is one that is kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipelines.drop_list import DropList
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
        UserError: the unit's list of duplicates is missing or damaged, a filter is not the job's, or as `read_block`.
        OSError: what a retry may cure.
    """
    drops = DropList.read(job.out, unit)
    for item in kept(unit.blocks, job.read, job.filters):
        if isinstance(item, Document) and (item.source, item.record) in drops:
            yield Skipped(DUPLICATE)
        else:
            yield item


def kept(blocks: Iterable[Block], read: ReadOptions, filters: Filters) -> Iterator[Document | Reject | Skipped]:
    """What the filters leave of these blocks, duplicates and all."""
    answers: dict[tuple[str, int], str | Reject | None] = {}
    for block in blocks:
        answers.clear()  # a document lies in one block whole
        for item in read_block(block, read):
            if isinstance(item, Reject):
                yield item
                continue
            key = (item.source, item.record)
            if key in answers:  # of a cut document the first piece is asked for all
                answer = answers[key]
            else:
                answer = filters.why_not(item)
                if len(item.raw) < item.whole_bytes:
                    answers[key] = answer
            if answer is None:
                yield item
            elif isinstance(answer, Reject):
                yield replace(answer, piece=item.piece)
            else:
                yield Skipped(answer)
