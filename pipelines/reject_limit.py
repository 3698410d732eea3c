"""The share of rejects that a dataset may have: what stops a job, and its manifest from being made without it."""

import shlex
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import rejected_of, totals_of
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Receipt
from schemas.secrets import redacted
from schemas.terminal import visible

FORGIVEN = 1000
"""Documents: a job is not stopped before it has read so many, nor for so many times the limit of rejects."""


def check_rejects(out: Folder, receipts: list[Receipt], limit: float) -> None:
    """Refuse a dataset with too many rejects; what is done is kept.

    Args:
        out: the dataset's folder.
        receipts: of all its units.
        limit: the share of the documents read that may be rejects, 0 to 1.

    Raises:
        UserError: there are more, with the commonest reasons and one of the rejects.
    """
    totals = totals_of(receipts)
    if totals.rejects <= limit * totals.documents:
        return
    example = next(receipt.rejects.name for receipt in receipts if receipt.rejects.rows)
    raise too_many(out, totals.documents, rejected_of(receipts), example, limit)


def is_hopeless(documents: int, rejects: int, limit: float) -> bool:
    """Whether a job that has seen so much can be stopped: a few bad files at its beginning are forgiven.

    Args:
        documents: read so far.
        rejects: of them.
        limit: the share that may be rejects, 0 to 1.
    """
    return documents >= FORGIVEN and rejects > limit * (documents + FORGIVEN)


def too_many(out: Folder, documents: int, reasons: Counter[str], example: str, limit: float) -> UserError:
    """What is said of too many rejects.

    Args:
        out: the dataset's folder.
        documents: read.
        reasons: of the rejects.
        example: name of a file of rejects, which holds some.
        limit: the share that is allowed.
    """
    data = shlex.quote(redacted(out.url))
    listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(5))
    return UserError(
        f"{reasons.total():,} of {documents:,} documents were rejected, more than --max-reject-fraction "
        f"{limit:g} allows: {listed}{_in_words(out, example)}; look at them (make sql DATA={data} "
        "Q='from rejects'), then mend the corpus or allow more: what is done is kept"
    )


def _in_words(out: Folder, name: str) -> str:
    """The first reject of a file; nothing if it cannot be read, which is not what stops the job."""
    try:
        with out.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as stored:
            row = next(stored.iter_batches(1)).to_pylist()[0]
    except (OSError, UserError, pa.ArrowException):
        return ""
    return f" (for example {visible(row['source'])}, record {row['record']}: {visible(row['detail'])})"
