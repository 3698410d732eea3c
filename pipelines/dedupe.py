"""`--dedupe`: of documents with equal bytes the first by (source, record) is kept, over the whole corpus.

Two steps before the shards. `identify(job, unit)` reads a unit as the encoder will (filters first) and writes who its
documents are, `meta/dedupe/ids-….parquet`, and beside it a sealed receipt: a resumed job reuses what is whole, and
reads a unit again whose inputs have changed. Documents that share even source and record are told apart, and ordered,
by their unit and their number in it. `drop_duplicates` then finds the duplicates with
DuckDB and gives each unit that holds some the list of them (`pipelines.drop_list`), whose digest is part of the unit.
Nothing depends on the number of workers, and any of it may be killed at any moment.

Costs: the corpus is read twice, the first time at the speed of `pipelines.reading.readers` (150 to 400 MB/s a core);
20 to 60 stored bytes an id while the dataset exists; the driver needs `MEMORY_BYTES` and, in the output folder (of an
object store: in TMPDIR), about 30 bytes an id and 100 for each that has an equal; about 1 million ids/s.
Near-duplicates are not found.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import drop_list
from pipelines.drop_list import FOLDER, Seen, ids_receipt
from pipelines.job import Job, UnitNames
from pipelines.reading.documents import Document, Reject
from pipelines.reading.plan import Unit
from pipelines.selection import kept
from pipelines.shard import Outcome
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.files import sha256
from schemas.machine import available_cores
from schemas.manifest import seal, unseal
from schemas.secrets import redacted
from schemas.shard import FORMAT_VERSION

if TYPE_CHECKING:
    import duckdb

MEMORY_BYTES = 1 << 30
"""Of DuckDB in the driver, however many ids there are: what is more lies on disk."""

IDS_SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.uuid(), nullable=False),  # 128 bits: DuckDB groups them as numbers
        pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("record", pa.uint64(), nullable=False),
        pa.field("ordinal", pa.uint64(), nullable=False),
    ]
)

_BATCH_ROWS = 1 << 16
_GROUP_BYTES = 170  # of a hash table's entry beside its source
_ROW_BYTES = 50  # of a row that is sorted
_SHARE = 6  # of the memory that one step's tables may take, as DuckDB needs room beside them

Run = Callable[[Callable[[Unit], Outcome], list[Unit], list[str]], object]
"""Does a piece of work for each unit, on whatever runner; the names are of the receipts that progress is seen by."""


def identify(job: Job, unit: Unit) -> Outcome:
    """Write the ids of a unit's documents unless they are there, whole and of the inputs as they are now.

    Raises:
        UserError: as `pipelines.selection.selected`, or the output cannot be written.
    """
    names = job.names(unit)
    receipt, ids = ids_receipt(names), _ids_name(names)
    known = {
        "format_version": FORMAT_VERSION,
        "unit_digest": names.digest,
        "inputs": unit.inputs,
        "columns": IDS_SCHEMA.names,
    }
    if _is_done(job.out, receipt, ids, known):
        return Outcome(receipt, True)
    job.out.remove(receipt)  # else it would pass for this run's
    with job.out.staged(ids) as path:
        known["seen"], known["unreadable"] = _write_ids(job, unit, path)
        known["sha256"] = sha256(path)
    job.out.write(receipt, seal(known))
    return Outcome(receipt, False)


def _ids_name(names: UnitNames) -> str:
    return f"{FOLDER}/ids-{names.stem}.parquet"


def _is_done(out: Folder, receipt: str, ids: str, known: dict[str, Any]) -> bool:
    try:
        fields = unseal(out.read(receipt), receipt)
        found = {name: fields.pop(name, None) for name in ("sha256", "seen", "unreadable")}
        if fields != known or None in found.values() or found["unreadable"]:
            return False  # what could not be read may have had a bad moment, and then be in the shard
        return out.digest(ids, str(found["sha256"])) == found["sha256"]
    except (FileNotFoundError, UserError):
        return False


def _write_ids(job: Job, unit: Unit, path: Path) -> tuple[str, int]:
    """Write who the documents are; gives what was seen, and how many inputs could not be read."""
    seen, unreadable = Seen(), 0
    with pq.ParquetWriter(path, IDS_SCHEMA, compression="zstd", use_dictionary=["source"]) as writer:
        rows: list[tuple[bytes, str, int, int]] = []
        for ordinal, item in kept(unit.blocks, job.read, job.filters):
            unreadable += isinstance(item, Reject) and item.reason == "unreadable"
            if isinstance(item, Document):
                seen.add(ordinal, item)
            if isinstance(item, Document) and item.piece == 0:
                rows.append((item.doc_id, item.source, item.record, ordinal))
                if len(rows) == _BATCH_ROWS:
                    writer.write_batch(_batch(rows))
                    rows.clear()
        writer.write_batch(_batch(rows))
    return seen.hexdigest(), unreadable


def _batch(rows: list[tuple[bytes, str, int, int]]) -> pa.RecordBatch:
    arrays = [
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([row[0] for row in rows], pa.binary(16))),
        pa.array([row[1] for row in rows], pa.string()).dictionary_encode(),
        pa.array([row[2] for row in rows], pa.uint64()),
        pa.array([row[3] for row in rows], pa.uint64()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=IDS_SCHEMA)


def drop_duplicates(job: Job, units: list[Unit], run: Run, memory_bytes: int = MEMORY_BYTES) -> list[Unit]:
    """The units, each with the list of its documents that are duplicates. Lists of an earlier plan are deleted.

    Args:
        job: of the dataset.
        units: of its plan, without lists.
        run: does the first step.
        memory_bytes: of DuckDB.

    Raises:
        UserError: a unit failed, its ids are damaged since, or there is no room on the disk.
        KeyboardInterrupt: also while DuckDB works.
    """
    import duckdb  # workers, which identify, need not have it

    run(partial(identify, job), units, [ids_receipt(job.names(unit)) for unit in units])
    with job.out.work_folder() as folder:
        connection = duckdb.connect(
            str(folder / "ids.duckdb"),
            config={
                "memory_limit": f"{memory_bytes}B",
                "temp_directory": str(folder),
                "threads": min(4, available_cores()),
                "preserve_insertion_order": False,
            },
        )
        try:
            with connection:
                _load(connection, job, units, folder)
                _find(connection, memory_bytes)
                lists = _lists(connection, memory_bytes)
                digests = dict(job.out.each(partial(_write_list, job, units), lists))
        except duckdb.InterruptException:
            raise KeyboardInterrupt from None
        except RuntimeError as error:  # what DuckDB makes of a signal's KeyboardInterrupt
            if "interrupted" in str(error):
                raise KeyboardInterrupt from None
            raise
        except duckdb.Error as error:
            raise UserError(
                f"--dedupe: DuckDB in {folder}: {' '.join(str(error).split())[:300]}; make room there (for an object "
                "store set TMPDIR) and run the same command again: finished units are kept"
            ) from None
    listed = [replace(unit, drops=digests.get(unit.index, "")) for unit in units]
    _sweep(job, listed)
    return listed


def _sweep(job: Job, units: list[Unit]) -> None:
    """Delete the ids and lists of another plan."""
    names = {drop_list.name_of(unit, unit.drops) for unit in units if unit.drops}
    for unit in units:
        before = job.names(replace(unit, drops=""))
        names |= {ids_receipt(before), _ids_name(before)}
    others = sorted(job.out.sizes(FOLDER).keys() - names)
    job.out.do_each(job.out.remove, [name for name in others if drop_list.FILE_NAME.fullmatch(Path(name).name)])


def _load(connection: "duckdb.DuckDBPyConnection", job: Job, units: list[Unit], folder: Path) -> None:
    """Table `ids`: those of all units. Of a store's, as many files lie in the folder as are fetched at once."""
    connection.execute("create table ids (unit uinteger, doc_id uuid, source varchar, record ubigint, ordinal ubigint)")
    connection.begin()
    for unit, path in zip(units, job.out.each(partial(_fetched, job, folder), units), strict=True):
        try:
            with pq.ParquetFile(path) as stored:
                for batch in stored.iter_batches(_BATCH_ROWS, use_threads=False):
                    rows = pa.table(batch)  # noqa: F841 - named in the query
                    connection.execute(f"insert into ids select {unit.index}, * from rows")
        except (pa.ArrowException, OSError):
            raise _unusable(job, unit, "damaged") from None
        if not job.out.is_local:
            path.unlink()
    connection.commit()


def _fetched(job: Job, folder: Path, unit: Unit) -> Path:
    """A unit's ids as a local file, whole as its receipt says; of a store's a copy in the folder."""
    names = job.names(unit)
    name, receipt = _ids_name(names), ids_receipt(names)
    try:
        digest = str(unseal(job.out.read(receipt), redacted(job.out.locate(receipt))).get("sha256"))
        with job.out.fetched(name, digest) as path:
            if sha256(path) != digest:
                raise _unusable(job, unit, "damaged")
            return path if job.out.is_local else path.rename(folder / path.name)
    except FileNotFoundError:
        raise _unusable(job, unit, "missing") from None


def _unusable(job: Job, unit: Unit, fault: str) -> UserError:
    place = redacted(job.out.locate(_ids_name(job.names(unit))))
    return UserError(f"{place}: {fault}, or its receipt is; run the same command again, which makes it anew")


def _find(connection: "duckdb.DuckDBPyConnection", memory_bytes: int) -> None:
    """Table `drops`: what is not the first of its doc_id.

    The first step holds 16 bytes an id, which DuckDB spills. What holds text is done for a part of the doc_ids at a
    time, since the states of `min` over text do not spill.
    """
    connection.execute("create table twice as select doc_id from ids group by doc_id having count(*) > 1")
    connection.execute("create table equals as select ids.* from ids semi join twice using (doc_id)")
    connection.execute("create table drops (unit uinteger, ordinal ubigint)")
    groups, mean = _row(connection, "select (select count(*) from twice), (select avg(strlen(source)) from equals)")
    passes = 1 + int(groups * (_GROUP_BYTES + (mean or 0))) * _SHARE // memory_bytes
    for index in range(passes):
        start, stop = ((at << 128) // passes for at in (index, index + 1))
        connection.execute(
            """
            insert into drops
            with part as (select * from equals where doc_id between $1::uuid and $2::uuid),
                 firsts as (select doc_id, min((source, record, unit, ordinal)) as first from part group by doc_id)
            select unit, ordinal from part join firsts using (doc_id) where (source, record, unit, ordinal) <> first
            """,
            [str(uuid.UUID(int=start)), str(uuid.UUID(int=stop - 1))],
        )


def _lists(connection: "duckdb.DuckDBPyConnection", memory_bytes: int) -> Iterator[tuple[int, pa.Table]]:
    """(unit, its rows of `drops`) for each unit that has some: of as many units at a time as can be sorted at once."""
    query = f"select unit, count(*) * {_ROW_BYTES} from drops group by unit"
    sizes = connection.execute(query).fetchall()
    batch: list[int] = []
    total = 0
    for unit, size in sorted(sizes):
        if batch and total + size > memory_bytes // _SHARE:
            yield from _sorted(connection, batch)
            batch, total = [], 0
        batch.append(unit)
        total += size
    if batch:
        yield from _sorted(connection, batch)


def _sorted(connection: "duckdb.DuckDBPyConnection", units: list[int]) -> Iterator[tuple[int, pa.Table]]:
    query = "select * from drops where unit between $1 and $2 order by unit, ordinal"
    table = connection.sql(query, params=[units[0], units[-1]]).to_arrow_table()
    column = table["unit"].to_numpy()
    for unit in units:
        start, stop = column.searchsorted(unit, "left"), column.searchsorted(unit, "right")
        yield unit, table.slice(start, stop - start).select(["ordinal"])


def _write_list(job: Job, units: list[Unit], listed: tuple[int, pa.Table]) -> tuple[int, str]:
    return listed[0], drop_list.write(job.out, units[listed[0]], listed[1])


def _row(connection: "duckdb.DuckDBPyConnection", query: str) -> Any:
    return connection.execute(query).fetchone()
