"""The list of a unit's documents that are duplicates: its file, whether a document is on it, whether it still holds.

A Parquet file with the `ordinal` of each, sorted. Its name holds the unit's index and its own digest, which is
also `Unit.drops`: a unit whose list changes is another unit, and a list is never taken for another. It counts
documents, so it holds only while the unit reads as it did when its ids were written: `Seen` is what both passes must
agree on.
"""

import hashlib
import io
import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.job import Job, UnitNames
from pipelines.reading.documents import Document
from pipelines.reading.plan import Unit
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import unseal
from schemas.secrets import redacted

FOLDER = "meta/dedupe"
FILE_NAME = re.compile(r"(ids|drop)-[\w-]+\.(parquet|json)", re.ASCII)
"""Of ours in the folder."""

SCHEMA = pa.schema([pa.field("ordinal", pa.uint64(), nullable=False)])


@dataclass(frozen=True)
class DropList:
    """Documents of a unit that are left out as duplicates.

    Attributes:
        ordinals: of the documents (`pipelines.selection.kept`), u64, sorted: 8 bytes each, since a unit of tiny
            documents has millions.
    """

    ordinals: npt.NDArray[np.uint64]

    def __contains__(self, ordinal: int) -> bool:
        at = int(np.searchsorted(self.ordinals, np.uint64(ordinal)))
        return at < len(self.ordinals) and int(self.ordinals[at]) == ordinal

    @classmethod
    def read(cls, out: Folder, unit: Unit) -> "DropList":
        """The unit's list; an empty one if it has none.

        Raises:
            UserError: it is missing or damaged.
        """
        if not unit.drops:
            return cls(np.empty(0, np.uint64))
        name = name_of(unit, unit.drops)
        try:
            data = out.read(name, unit.drops)
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != unit.drops:
            raise UserError(
                f"{redacted(out.locate(name))}: missing or damaged; run the same command again, which makes it anew"
            )
        return cls(pq.read_table(pa.BufferReader(data))["ordinal"].to_numpy())


def write(out: Folder, unit: Unit, table: pa.Table) -> str:
    """Write a unit's list, sorted; returns its digest."""
    sink = io.BytesIO()
    pq.write_table(
        table.cast(SCHEMA), sink, compression="zstd", use_dictionary=False, column_encoding="DELTA_BINARY_PACKED"
    )
    data = sink.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    out.write(name_of(unit, digest), data)
    return digest


def name_of(unit: Unit, digest: str) -> str:
    """Of the list's file in the dataset."""
    return f"{FOLDER}/drop-{unit.index:05d}-of-{unit.count:05d}-{digest[:16]}.parquet"


class Seen:
    """The documents of a unit in the order in which a pass saw them."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, ordinal: int, document: Document) -> None:
        """Note a document, or the first piece of one."""
        if document.piece == 0:
            self._digest.update(document.doc_id + ordinal.to_bytes(8, "little"))

    def hexdigest(self) -> str:
        """Of all so far."""
        return self._digest.hexdigest()


def ids_receipt(names: UnitNames) -> str:
    """Name of the receipt that a unit's ids are written; `names` are those of the unit without a list."""
    return f"{FOLDER}/ids-{names.stem}.json"


def check_seen(job: Job, unit: Unit, seen: Seen) -> None:
    """See that a pass saw the documents whose ids were written.

    Raises:
        UserError: it saw others, and the list may name the wrong ones; the ids are read again in the next run.
    """
    name = ids_receipt(job.names(replace(unit, drops="")))
    try:
        expected = unseal(job.out.read(name), redacted(job.out.locate(name))).get("seen")
    except FileNotFoundError:
        expected = ""
    if seen.hexdigest() != expected:
        job.out.remove(name)
        raise UserError(
            f"unit {unit.index}: its documents are not those that --dedupe saw before (an input was changed, or could "
            "not be read at one of the two times); run the same command again when nothing writes to the corpus"
        )
