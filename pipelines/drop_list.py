"""The list of a unit's documents that are duplicates: which file it is, and whether a document is on it.

A Parquet file with `source` and `record` of each, sorted. Its name holds the unit's index and its own digest, which is
also `Unit.drops`: a unit whose list changes is another unit, and a list is never taken for another.
"""

import hashlib
import io
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.reading.plan import Unit
from pipelines.storage import Folder
from schemas.errors import UserError

FOLDER = "meta/dedupe"
FILE_NAME = re.compile(r"(ids|drop)-[\w-]+\.(parquet|json)", re.ASCII)
"""Of ours in the folder."""

SCHEMA = pa.schema(
    [pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False), pa.field("record", pa.uint64())]
)


@dataclass(frozen=True)
class DropList:
    """Documents of a unit that are left out as duplicates.

    Attributes:
        records: source -> its records, u64, sorted: 8 bytes each, since a unit of tiny documents has millions.
    """

    records: dict[str, npt.NDArray[np.uint64]] = field(default_factory=dict)

    def __contains__(self, key: tuple[str, int]) -> bool:
        records = self.records.get(key[0])
        if records is None:
            return False
        at = int(np.searchsorted(records, np.uint64(key[1])))
        return at < len(records) and int(records[at]) == key[1]

    @classmethod
    def read(cls, out: Folder, unit: Unit) -> "DropList":
        """The unit's list; an empty one if it has none.

        Raises:
            UserError: it is missing or damaged.
        """
        if not unit.drops:
            return cls()
        name = name_of(unit, unit.drops)
        try:
            data = out.read(name)
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != unit.drops:
            raise UserError(f"{out.locate(name)}: missing or damaged; run the same command again, which makes it anew")
        table = pq.read_table(io.BytesIO(data))
        source = table["source"].combine_chunks()
        records = table["record"].to_numpy()
        return cls({name: records[start:stop] for name, start, stop in _runs(source)})


def write(out: Folder, unit: Unit, table: pa.Table) -> str:
    """Write a unit's list, sorted by (source, record); returns its digest."""
    sink = io.BytesIO()
    pq.write_table(table.cast(SCHEMA), sink, compression="zstd", use_dictionary=["source"])
    data = sink.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    out.write(name_of(unit, digest), data)
    return digest


def name_of(unit: Unit, digest: str) -> str:
    """Of the list's file in the dataset."""
    return f"{FOLDER}/drop-{unit.index:05d}-of-{unit.count:05d}-{digest[:16]}.parquet"


def _runs(source: Any) -> list[tuple[str, int, int]]:
    """(value, start, stop) of each run of equal values."""
    if not len(source):
        return []
    codes = source.indices.to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist()]
    names = source.dictionary
    return [
        (names[int(codes[start])].as_py(), start, stop)
        for start, stop in zip(starts, [*starts[1:], len(codes)], strict=True)
    ]
