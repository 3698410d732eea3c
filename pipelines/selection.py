"""Which documents of a unit go on to the encoder: what readers give, less what was left out on purpose."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.documents import Document, Reject
from pipelines.job import Job
from pipelines.plan import Unit
from pipelines.readers import read_block

DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A document that was read and left out on purpose.

    Attributes:
        reason: `DUPLICATE`, or the name of the filter.
    """

    reason: str


def selected(job: Job, unit: Unit) -> Iterator[Document | Reject | Skipped]:
    """What a unit's blocks hold, in their order, each document once."""
    for block in unit.blocks:
        yield from read_block(block, job.read)
