"""The checks of one work unit: its receipt, its shard and row groups, its rejects.

`check_unit(task) -> Checked` runs in any process. It reads a shard once for its SHA-256, then row group by row
group, so that its memory is one decoded row group; a remote file is copied to a temporary one first. Bytes are
parsed only where their digests hold, and whatever is wrong becomes a line that names file, row group and column.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import proxies
from pipelines.reading.dataset_reader import MISSING_PIECES
from pipelines.storage import Folder
from pipelines.verify_rows import Faults, RowChecks
from schemas.digests import digest_of
from schemas.errors import UserError, one_line
from schemas.files import sha256
from schemas.manifest import Receipt, RejectsEntry, RowGroupEntry, ShardEntry, seal, unseal
from schemas.remote import StoreError
from schemas.shard import REJECTS_SCHEMA, chunk_digest, chunk_ranges, footer_start, metadata_of, shard_schema
from schemas.vocabulary import Vocabulary

NOT_AS_SEALED = "not the bytes that were written, though it says the same (white space was changed)"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a unit is checked against.

    Attributes:
        folder: the dataset.
        stem: of the names of the unit's files.
        unit: its index.
        shard: the manifest's line; None where the manifest is damaged, and the receipt's line counts.
        rejects: likewise.
        described: the dataset's description.
        proxy_uri: the proxy to decode with; None leaves that out.
    """

    folder: Folder
    stem: str
    unit: int
    shard: ShardEntry | None
    rejects: RejectsEntry | None
    described: dict[str, Any]
    proxy_uri: str | None


@dataclass(frozen=True)
class Checked:
    """The outcome.

    Attributes:
        faults: one line each.
        receipt: without its long lists; None where it is missing or damaged.
        groups_digest: of the receipt's row groups, see `groups_digest`.
    """

    faults: list[str]
    receipt: Receipt | None
    groups_digest: str = ""


def groups_digest(groups: list[RowGroupEntry]) -> str:
    """SHA-256 (hex) of row-group entries: compares a receipt's with those of the table without moving them."""
    return digest_of({"groups": [asdict(group) for group in groups]})


def is_as_sealed(data: bytes, name: str) -> bool:
    """Whether a sealed file is byte for byte what was written; its digest covers only what it says.

    Raises:
        UserError: it is damaged.
    """
    return seal(unseal(data, name)) == data


def check_unit(task: Task) -> Checked:
    """Check everything about a unit; whatever is found, it gives lines.

    Raises:
        StoreError: the store gives no answer, or there is no room in TMPDIR: nothing can be said of the unit.
    """
    faults = Faults()
    receipt = _check_receipt(task, faults)
    shard = task.shard or (receipt.shard if receipt else None)
    rejects = task.rejects or (receipt.rejects if receipt else None)
    if shard is not None and rejects is not None:
        with _reported(shard.name, faults):
            _ShardCheck(task, shard, rejects, receipt, faults).run()
        with _reported(rejects.name, faults):
            _check_rejects(task.folder, rejects, receipt, faults)
    if receipt is None:
        return Checked(faults.all(task.stem), None)
    slim = replace(receipt, row_groups=[], inputs=[], seconds={})
    return Checked(faults.all(task.stem), slim, groups_digest(receipt.row_groups))


@contextmanager
def _reported(name: str, faults: Faults) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        faults.add(f"{name}: missing")
    except StoreError:
        raise
    except UserError as error:
        faults.add(str(error))
    except Exception as error:  # noqa: BLE001 - damage that no digest shows can make a library raise anything
        faults.add(f"{name}: cannot be checked: {one_line(error)[:300]}")


def _check_receipt(task: Task, faults: Faults) -> Receipt | None:
    name = f"receipts/{task.stem}.json"
    with _reported(name, faults):
        data = task.folder.read(name)
        receipt = Receipt.from_bytes(data, name)
        if not is_as_sealed(data, name):
            faults.add(f"{name}: {NOT_AS_SEALED}")
        shard, groups = receipt.shard, receipt.row_groups
        for what, found, expected in (
            ("is of unit", receipt.unit, task.unit),
            ("units of the plan", receipt.units, task.described["plan"]["units"]),
            ("unit digest begins", receipt.unit_digest[:8], task.stem[-8:]),
            ("shard", shard.name, f"{task.stem}.parquet"),
            ("rejects", receipt.rejects.name, f"rejects/{task.stem}.parquet"),
            ("documents", receipt.documents, receipt.accounted),
            ("sum of rejects by reason", sum(receipt.rejected.values()), receipt.rejects.rows),
            ("number of row groups", len(groups), shard.row_groups),
            ("rows of row groups", sum(group.rows for group in groups), shard.rows),
            ("raw bytes of row groups", sum(group.raw_bytes for group in groups), shard.raw_bytes),
            ("symbols of row groups", sum(group.comp_symbols for group in groups), shard.comp_symbols),
        ):
            faults.compare(name, what, found, expected)
        for entry, line in ((shard, task.shard), (receipt.rejects, task.rejects)):
            for key, value in asdict(line).items() if line is not None else ():
                faults.compare(name, f"other {key} of {entry.name} than in the manifest:", getattr(entry, key), value)
        return receipt
    return None


class _ShardCheck:
    """One shard's check."""

    def __init__(
        self, task: Task, entry: ShardEntry, rejects: RejectsEntry, receipt: Receipt | None, faults: Faults
    ) -> None:
        self._task, self._entry, self._rejects, self._receipt, self._faults = task, entry, rejects, receipt, faults
        self._vocabulary = Vocabulary.from_json(task.described["proxy"]["vocabulary"])
        proxy = None if task.proxy_uri is None else proxies.load(task.proxy_uri)
        self._rows = RowChecks(entry.name, self._vocabulary, proxy, faults)
        self._unread = False

    def run(self) -> None:
        before = len(self._faults)
        folder, entry = self._task.folder, self._entry
        with folder.fetched(entry.name, entry.sha256) as path, path.open("rb") as file:
            size = path.stat().st_size
            if size != self._entry.size:
                self._fault(f"{size:,} bytes, expected {self._entry.size:,} (truncated, or another file)")
                return
            whole = hashlib.file_digest(file, "sha256").hexdigest() == self._entry.sha256
            if not self._footer_is_whole(file, size):
                return
            with pq.ParquetFile(path) as parquet:
                self._check_footer(parquet)
                for group in range(parquet.metadata.num_row_groups):
                    self._check_group(file, parquet, group)
        if not self._unread:
            self._check_totals()
        if not whole and len(self._faults) == before:
            self._fault("SHA-256 differs; the change is outside of row groups and footer")

    def _fault(self, text: str) -> None:
        self._faults.add(f"{self._entry.name}: {text}")

    def _footer_is_whole(self, file: BinaryIO, size: int) -> bool:
        file.seek(max(0, size - 8))
        file.seek(footer_start(file.read(), size, self._entry.name))
        if hashlib.sha256(file.read()).hexdigest() == self._entry.footer_digest:
            return True
        self._fault("footer: differs from its digest; the row groups cannot be read")
        return False

    def _check_footer(self, parquet: pq.ParquetFile) -> None:
        name, options, proxy = self._entry.name, self._task.described["options"], self._task.described["proxy"]
        metadata = metadata_of(parquet.schema_arrow, name)
        expected = shard_schema(tuple(options["read"]["keep_columns"]), {})
        if not parquet.schema_arrow.equals(expected, check_metadata=False):
            self._fault("schema is not the format's with these --keep-columns")
        for key, value in (
            ("format_version", options["format_version"]),
            ("proxy", proxy["name"]),
            ("fingerprint", proxy["fingerprint"]),
            ("vocabulary", proxy["vocabulary"]),
            ("unit", self._task.unit),
            ("units", self._task.described["plan"]["units"]),
            *([("unit_digest", self._receipt.unit_digest)] if self._receipt else []),
        ):
            self._faults.compare(name, f"metadata {key}", metadata.get(key), value)
        self._faults.compare(name, "row groups", parquet.metadata.num_row_groups, self._entry.row_groups)

    def _check_group(self, file: BinaryIO, parquet: pq.ParquetFile, group: int) -> None:
        entry = None
        if self._receipt is not None and group < len(self._receipt.row_groups):
            entry = self._receipt.row_groups[group]
            if not self._chunks_are_whole(file, parquet.metadata, group, entry):
                self._unread = True
                return
        try:
            table = parquet.read_row_group(group, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            self._fault(f"row group {group}: cannot be read: {' '.join(str(error).split())[:300]}")
            self._unread = True
            return
        found = self._rows.add(group, table)
        if entry is not None:
            expected = (entry.rows, entry.raw_bytes, entry.comp_symbols)
            self._faults.compare(f"{self._entry.name}: row group {group}", "rows, bytes, symbols", found, expected)

    def _chunks_are_whole(self, file: BinaryIO, metadata: pq.FileMetaData, group: int, entry: RowGroupEntry) -> bool:
        ranges = chunk_ranges(metadata, group)
        first = min(offset for offset, _ in ranges)
        length = max(offset + size for offset, size in ranges) - first
        place = f"{self._entry.name}: row group {group}"
        self._faults.compare(place, "offset, length", (first, length), (entry.offset, entry.length))
        digests = bytes.fromhex(entry.digests)
        self._faults.compare(place, "digests of columns", len(digests), 16 * len(ranges))
        whole = True
        for index, (offset, size) in enumerate(ranges):
            file.seek(offset)
            if chunk_digest(file.read(size)) != digests[16 * index : 16 * index + 16]:
                column = metadata.row_group(group).column(index).path_in_schema.split(".")[0]
                self._fault(f"row group {group}, column {column}: differs from its digest")
                whole = False
        return whole

    def _check_totals(self) -> None:
        name, entry = self._entry.name, self._entry
        for what, found, expected in (
            ("rows", self._rows.rows, entry.rows),
            ("raw bytes", self._rows.raw_bytes, entry.raw_bytes),
            ("symbols", self._rows.symbols, entry.comp_symbols),
            ("content digest", self._rows.content_digest, entry.content_digest),
        ):
            self._faults.compare(name, what, found, expected)
        broken = list(self._rows.cut.broken())
        if not broken:
            return
        wanted = {one.key[1:] for one in broken}
        rejected = _rejected_pieces(self._task.folder, self._rejects.name, wanted)
        for one in broken:
            doc_id, source, record = one.key
            if not all(_is_excused(source, record, gap, rejected) for gap in one.lacks):
                self._fault(
                    f"document {doc_id} ({source}, record {record}): doc_id is not the digest of its bytes, or a piece "
                    "is missing, comes twice or out of order"
                )


def _rejected_pieces(folder: Folder, name: str, wanted: set[tuple[str, int]]) -> dict[tuple[str, int, int], str]:
    """Reasons of the rejects of these sources and records, by source, record and piece."""
    with folder.fetched(name) as path, pq.ParquetFile(path) as parquet:
        return {
            (row["source"], row["record"], row["piece"]): row["reason"]
            for batch in parquet.iter_batches(columns=["source", "record", "piece", "reason"], use_threads=False)
            for row in batch.to_pylist()
            if (row["source"], row["record"]) in wanted
        }


def _is_excused(source: str, record: int, gap: range, rejected: dict[tuple[str, int, int], str]) -> bool:
    """Whether the rejects say of each piece of a gap where it went: a document without it cannot be checked."""
    for piece in gap:
        reason = rejected.get((source, record, piece))
        if reason == MISSING_PIECES:
            return True  # says so of all up to the next that is there
        if reason is None:
            return False
    return True


def _check_rejects(folder: Folder, entry: RejectsEntry, receipt: Receipt | None, faults: Faults) -> None:
    name = entry.name
    with folder.fetched(name, entry.sha256) as path:
        if (path.stat().st_size, sha256(path)) != (entry.size, entry.sha256):
            faults.add(f"{name}: differs from its size or SHA-256")
            return
        reasons: Counter[str] = Counter()
        with pq.ParquetFile(path) as parquet:
            if not parquet.schema_arrow.equals(REJECTS_SCHEMA):
                faults.add(f"{name}: schema is not the format's")
            for batch in parquet.iter_batches(columns=["reason"], use_threads=False):
                reasons.update(batch.column(0).to_pylist())
    faults.compare(name, "rows", reasons.total(), entry.rows)
    if receipt is not None:
        faults.compare(name, "rejects by reason", dict(sorted(reasons.items())), receipt.rejected)
