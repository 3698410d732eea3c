"""Receipts without shards, for what reads only receipts."""

from pathlib import Path
from typing import Any

from schemas.manifest import Receipt, RejectsEntry, RowGroupEntry, ShardEntry


def stem_of(unit: int, units: int) -> str:
    return f"part-{unit:05d}-of-{units:05d}-{unit:08x}"


def receipt(unit: int, units: int, **changes: Any) -> Receipt:
    """A receipt of 9 rows and a reject, 1,000 raw bytes, 400 symbols, 600 stored bytes and 2 s of work."""
    stem = stem_of(unit, units)
    shard = ShardEntry(
        name=f"{stem}.parquet",
        size=600,
        sha256="0" * 64,
        footer_digest="0" * 64,
        content_digest="0" * 64,
        rows=9,
        raw_bytes=1000,
        comp_symbols=400,
        row_groups=1,
    )
    fields: dict[str, Any] = {
        "unit": unit,
        "units": units,
        "unit_digest": f"{unit:064x}",
        "shard": shard,
        "rejects": RejectsEntry(name=f"rejects/{stem}.parquet", size=100, sha256="0" * 64, rows=1),
        "documents": 10,
        "escaped_bytes": 0,
        "rejected": {"invalid-json": 1},
        "inputs": [["small.py", 10, "1"], [f"large{unit}.py", 1000, "1"], ["middle.py", 500, "1"]],
        "row_groups": [
            RowGroupEntry(offset=4, length=500, rows=9, raw_bytes=1000, comp_symbols=400, digests="0" * 288)
        ],
        "seconds": {"encode": 1.5, "write": 0.5},
    }
    return Receipt(**{**fields, **changes})


def write_receipts(out: Path, receipts: list[Receipt]) -> None:
    (out / "receipts").mkdir(parents=True, exist_ok=True)
    for one in receipts:
        (out / "receipts" / f"{Path(one.shard.name).stem}.json").write_bytes(one.to_bytes())
