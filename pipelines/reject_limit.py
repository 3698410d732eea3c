"""The share of rejects that a dataset may have: what stops a job, and its manifest from being made without it."""

import shlex
from collections import Counter

import pyarrow.parquet as pq

from pipelines.commit import totals_of
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Receipt


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
    reasons: Counter[str] = Counter()
    for receipt in receipts:
        reasons.update(receipt.rejected)
    listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(5))
    raise UserError(
        f"{totals.rejects:,} of {totals.documents:,} documents were rejected, more than --max-reject-fraction "
        f"{limit:g} allows: {listed}{_example(out, receipts)}; look at them (make sql DATA={shlex.quote(out.url)} "
        "Q='from rejects'), then mend the corpus or allow more: what is done is kept"
    )


def _example(out: Folder, receipts: list[Receipt]) -> str:
    """One reject in words."""
    name = next((receipt.rejects.name for receipt in receipts if receipt.rejects.rows), None)
    if name is None:
        return ""
    with out.open(name) as file:
        row = pq.read_table(file, pre_buffer=False).slice(0, 1).to_pylist()[0]
    return f" (for example {row['source']}, record {row['record']}: {row['detail']})"
