"""When a unit is done, and what a finished dataset says of itself.

A unit is done iff its receipt exists, is whole, is of this very unit, and names the present shard's and rejects'
size and SHA-256; and no input has changed since. Anything else is redone. The manifest and the row-group table
are made from the receipts alone, so they can be rebuilt at any time.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.job import Job, UnitNames
from pipelines.reading.plan import Unit
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.files import sha256
from schemas.manifest import Manifest, Receipt, RejectsEntry, ShardEntry, Totals
from schemas.names import MANIFEST, ROW_GROUPS
from schemas.remote import StoreError
from schemas.shard import ROW_GROUPS_SCHEMA
from schemas.vocabulary import Vocabulary

ERROR_LOG = "meta/error.log"

_TABLE_ROWS = 1 << 16  # rows of the row-group table held at once


def begin(job: Job, unit: Unit, names: UnitNames) -> bool:
    """Take up a unit: False if it is done.

    If it is not, the manifest is deleted, as the dataset is not finished now, and then a receipt that does not hold:
    else it would be taken for this unit's if the worker fails.
    """
    try:
        data = job.out.read(names.receipt)
    except FileNotFoundError:
        job.out.remove(MANIFEST)
        return True
    if _holds(job, unit, names, data):
        return False
    job.out.remove(MANIFEST)
    job.out.remove(names.receipt)
    return True


def _holds(job: Job, unit: Unit, names: UnitNames, data: bytes) -> bool:
    """Whether a receipt is of this very unit and of inputs as they are, and what it names is there."""
    try:
        receipt = Receipt.from_bytes(data, names.receipt)
    except UserError:
        return False
    if receipt.unit_digest != names.digest or receipt.inputs != unit.inputs:
        return False
    if receipt.rejected.get("unreadable"):  # by permissions or a bad moment, say, which change neither size nor time
        return False
    return all(is_whole(job.out, entry) for entry in (receipt.rejects, receipt.shard))


def is_whole(out: Folder, entry: ShardEntry | RejectsEntry) -> bool:
    """Whether a file is there with the size and SHA-256 that its entry names."""
    return out.matches(entry.name, entry.size, entry.sha256)


def receipt_names(out: Folder) -> list[str]:
    """Names of all receipts in a folder, by unit."""
    return sorted(out.sizes("receipts"))


def read_receipts(out: Folder, names: Iterable[str], damaged: list[str] | None = None) -> Iterator[Receipt]:
    """The receipts of these names, in order and few at a time: each holds its row groups, which add up.

    Args:
        out: the dataset's folder.
        names: of the receipts.
        damaged: takes what is wrong with those that cannot be read, which are then left out.

    Raises:
        UserError: a receipt is missing or damaged, and there is no `damaged` to say so.
    """
    for receipt in out.each(partial(_read_receipt, out), names):
        if isinstance(receipt, Receipt):
            yield receipt
        elif damaged is None:
            raise receipt
        else:
            damaged.append(str(receipt))


def _read_receipt(out: Folder, name: str) -> Receipt | UserError:
    try:
        return Receipt.from_bytes(out.read(name), out.locate(name))
    except FileNotFoundError:
        text = "missing; run the same preprocess command again to complete the dataset"
        return UserError(f"{out.locate(name)}: {text}")
    except StoreError:
        raise
    except UserError as error:
        return error


def slim(receipts: Iterable[Receipt]) -> list[Receipt]:
    """Receipts without their row groups, and with the largest of their inputs only.

    Raises:
        UserError: they are not one for each unit of one plan.
    """
    slimmed = (replace(one, row_groups=[], inputs=[one.largest_input] if one.inputs else []) for one in receipts)
    kept = sorted(slimmed, key=lambda receipt: receipt.unit)
    counts = {receipt.units for receipt in kept}
    if len(counts) > 1 or [receipt.unit for receipt in kept] != list(range(max(counts, default=0))):
        raise UserError(
            f"receipts of {len(kept)} units, of {sorted(counts) or 'no'} planned; "
            "run the same preprocess command again to complete the dataset"
        )
    return kept


def write_manifest(
    out: Folder, dataset: dict[str, Any], vocabulary: Vocabulary, receipts: list[Receipt], names: list[str]
) -> Manifest:
    """Write the row-group table and then, last of all, the manifest.

    Args:
        out: the dataset's folder.
        dataset: its description.
        vocabulary: of its proxy.
        receipts: slim, by unit.
        names: of the receipts, by unit; read once more, few at a time, for their row groups.
    """
    with out.staged(ROW_GROUPS) as path:
        with pq.ParquetWriter(path, ROW_GROUPS_SCHEMA, compression="zstd") as writer:
            held: list[Receipt] = []
            rows = 0
            for receipt in read_receipts(out, names):
                held.append(replace(receipt, inputs=[]))
                rows += len(receipt.row_groups)
                if rows >= _TABLE_ROWS:
                    writer.write_table(row_group_table(held))
                    held, rows = [], 0
            writer.write_table(row_group_table(held))
        digest = sha256(path)  # of what was written; not of what a store gives back
    manifest = manifest_of(dataset, vocabulary, receipts, digest)
    out.write(MANIFEST, manifest.to_bytes())
    return manifest


def manifest_of(
    dataset: dict[str, Any], vocabulary: Vocabulary, receipts: list[Receipt], row_groups_sha256: str
) -> Manifest:
    """The manifest that receipts amount to."""
    return Manifest(
        dataset=dataset,
        vocabulary=vocabulary,
        totals=totals_of(receipts),
        rejected=dict(sorted(rejected_of(receipts).items())),
        shards=[receipt.shard for receipt in receipts],
        rejects=[receipt.rejects for receipt in receipts],
        row_groups_sha256=row_groups_sha256,
    )


def rejected_of(receipts: Iterable[Receipt]) -> Counter[str]:
    """Rejects by reason, over receipts."""
    rejected: Counter[str] = Counter()
    for receipt in receipts:
        rejected.update(receipt.rejected)
    return rejected


def totals_of(receipts: Iterable[Receipt]) -> Totals:
    """Sums over receipts."""
    sums: Counter[str] = Counter()
    for receipt in receipts:
        sums.update(
            documents=receipt.documents,
            rows=receipt.shard.rows,
            rejects=receipt.rejects.rows,
            raw_bytes=receipt.shard.raw_bytes,
            comp_symbols=receipt.shard.comp_symbols,
            escaped_bytes=receipt.escaped_bytes,
            dropped_bytes=receipt.dropped_bytes,
            duplicates=receipt.duplicates,
            filtered=sum(receipt.filtered.values()),
            stored_bytes=receipt.shard.size,
        )
    return Totals(**{name: sums[name] for name in Totals.__dataclass_fields__})


def row_group_table(receipts: list[Receipt]) -> pa.Table:
    """One row per row group, shards by name, groups by place."""
    groups = [
        (receipt.shard.name, index, group) for receipt in receipts for index, group in enumerate(receipt.row_groups)
    ]
    columns: dict[str, list[Any]] = {
        "shard": [name for name, _, _ in groups],
        "group": [index for _, index, _ in groups],
        "digests": [
            [bytes.fromhex(group.digests[at : at + 32]) for at in range(0, len(group.digests), 32)]
            for _, _, group in groups
        ],
    }
    for name in ("offset", "length", "rows", "raw_bytes", "comp_symbols"):
        columns[name] = [getattr(group, name) for _, _, group in groups]
    arrays = [pa.array(columns[field.name], field.type) for field in ROW_GROUPS_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=ROW_GROUPS_SCHEMA)
