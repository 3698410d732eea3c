"""The share of rejects that a dataset may have: what stops a job, and its manifest from being made without it.

It is a share of the documents, and also of the input's bytes that were not read: an unreadable file is one reject,
whatever it held.
"""

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
        UserError: there are more, or they stand for more of the input; with the commonest reasons and an example.
    """
    totals = totals_of(receipts)
    if totals.rejects > limit * totals.documents:
        example = next(receipt.rejects.name for receipt in receipts if receipt.rejects.rows)
        raise too_many(out, totals.documents, rejected_of(receipts), example, limit)
    lost, read = sum(one.lost_bytes for one in receipts), sum(one.input_bytes for one in receipts)
    if lost > limit * read:
        example = next(receipt.rejects.name for receipt in receipts if receipt.lost_bytes)
        raise too_much_lost(out, lost, read, rejected_of(receipts), example, limit)


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
    what = f"{reasons.total():,} of {documents:,} documents were rejected"
    return _refused(out, what, reasons, _in_words(out, example), limit)


def too_much_lost(out: Folder, lost: int, read: int, reasons: Counter[str], example: str, limit: float) -> UserError:
    """What is said of inputs that could not be read and hold too much.

    Args:
        out: the dataset's folder.
        lost: stored bytes of the inputs that were not read.
        read: stored bytes that the units were to read.
        reasons: of the rejects.
        example: name of a file of rejects, which holds some of theirs.
        limit: the share that is allowed.
    """
    what = f"{lost / 1e6:,.1f} of {read / 1e6:,.1f} MB of input could not be read ({lost / read:.1%})"
    return _refused(out, what, reasons, _in_words(out, example, "read"), limit)


def _refused(out: Folder, what: str, reasons: Counter[str], in_words: str, limit: float) -> UserError:
    listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(5))
    return UserError(
        f"{what}, more than --max-reject-fraction {limit:g} allows: {listed}{in_words}; look at them "
        f"(make sql DATA={shlex.quote(redacted(out.url))} Q='from rejects'), then mend the corpus or allow more: what "
        "is done is kept"
    )


def _in_words(out: Folder, name: str, stage: str = "") -> str:
    """The first reject of a file, of this stage if there is one; nothing if it cannot be read, which stops no job."""
    try:
        with out.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as stored:
            rows = (batch.to_pylist()[0] for batch in stored.iter_batches(1))
            row = first = next(rows)
            while stage and row is not None and row["stage"] != stage:
                row = next(rows, None)
            row = row or first
    except (OSError, UserError, pa.ArrowException):
        return ""
    return f" (for example {visible(row['source'])}, record {row['record']}: {visible(row['detail'])})"
