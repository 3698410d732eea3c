"""One work unit to one shard: read documents, encode, prove, write, commit. No Beam here, no global state.

`encode_shard(job, unit) -> Outcome` may run twice, anywhere, and be killed at any moment: it writes the same bytes
under the same names, and nothing under a final name before it is whole. Memory: one run of `run_bytes`, as it is in
memory, and one row group's views, see docs/memory.md. Two files are open for writing, the shard and its rejects. On one
core about 30 MB/s with the neural codebook.
"""

import hashlib
import io
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import begin
from pipelines.job import Job, UnitNames
from pipelines.prove import ProofError, prove
from pipelines.proxies.base import EncodedBatch
from pipelines.reading.documents import EXCERPT_BYTES, Document, Reject
from pipelines.reading.inputs import printable
from pipelines.reading.plan import Unit
from pipelines.rows import group_limit, group_table, memory_of, row_groups, update_content_digest
from pipelines.selection import DUPLICATE, Skipped, selected
from schemas.errors import one_line
from schemas.files import sha256
from schemas.manifest import Receipt, RejectsEntry, RowGroupEntry, ShardEntry
from schemas.remote import retries_made
from schemas.shard import (
    FORMAT_VERSION,
    REJECTS_SCHEMA,
    chunk_digest,
    chunk_ranges,
    footer_start,
    shard_schema,
    writer_options,
)

_REJECTS_BUFFER = 1024


@dataclass(frozen=True)
class Outcome:
    """What a unit's worker hands back: small, for counting and progress.

    Attributes:
        receipt: name of the receipt.
        reused: whether the unit was already done; it counts nothing then.
        documents: read.
        raw_bytes: written.
        rejects: of the documents.
        seconds: in all stages.
    """

    receipt: str
    reused: bool
    documents: int = 0
    raw_bytes: int = 0
    rejects: int = 0
    seconds: float = 0.0


def encode_shard(job: Job, unit: Unit) -> Outcome:
    """Do the unit unless its receipt says it is done.

    Raises:
        UserError: the proxy cannot be loaded or is not the job's here, or the output cannot be written.
    """
    stages, retries = _Stages(), retries_made()
    with stages.timed("check"):
        names = job.names(unit)
        if not begin(job, unit, names):
            return Outcome(names.receipt, True)
    with stages.timed("load"):
        job.check_proxy()
    # The order of publication: rejects, shard, receipt. (Contexts end in reverse.)
    with ExitStack() as staged:
        shard_path = staged.enter_context(job.out.staged(names.shard))
        rejects_path = staged.enter_context(job.out.staged(names.rejects))
        receipt = _Work(job, unit, names, shard_path, rejects_path, stages).run()
        with stages.timed("commit"):
            staged.close()
    receipt = replace(receipt, seconds=stages.rounded(), retries=retries_made() - retries)
    job.out.write(names.receipt, receipt.to_bytes())
    return Outcome(
        names.receipt,
        False,
        documents=receipt.documents,
        raw_bytes=receipt.shard.raw_bytes,
        rejects=receipt.rejects.rows,
        seconds=sum(receipt.seconds.values()),
    )


@dataclass
class _Work:
    """The state of one unit while it is being made."""

    job: Job
    unit: Unit
    names: UnitNames
    shard_path: Path
    rejects_path: Path
    stages: "_Stages"
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    raw_bytes: int = 0
    comp_symbols: int = 0
    escaped_bytes: int = 0
    dropped_bytes: int = 0
    lost_bytes: int = 0

    def run(self) -> Receipt:
        with self.stages.timed("load"):
            self.schema = shard_schema(self.job.read.keep_columns, self._metadata())
        self.content = hashlib.blake2b(digest_size=32)
        self.groups: list[tuple[int, int, int]] = []
        with ExitStack() as writers:
            with self.stages.timed("write"):
                rejects = pq.ParquetWriter(self.rejects_path, REJECTS_SCHEMA, compression="zstd")
                self.rejects = _RejectsBuffer(writers.enter_context(rejects))
                shard = pq.ParquetWriter(self.shard_path, self.schema, **writer_options(self.schema))
                self.writer = writers.enter_context(shard)
            for run in self._runs():
                for group in row_groups(run, self._group_limit):
                    self._write_group(group)
                    group.clear()  # what is written need not stay while the next run is read
            with self.stages.timed("write"):
                self.rejects.flush()
                writers.close()
        with self.stages.timed("digest"):
            shard_entry, row_groups_ = self._shard_entry()
            rejects_entry = RejectsEntry(
                name=self.names.rejects,
                size=self.rejects_path.stat().st_size,
                sha256=sha256(self.rejects_path),
                rows=sum(self.rejected.values()),
            )
        return Receipt(
            unit=self.unit.index,
            units=self.unit.count,
            unit_digest=self.names.digest,
            shard=shard_entry,
            rejects=rejects_entry,
            documents=self.documents,
            escaped_bytes=self.escaped_bytes,
            dropped_bytes=self.dropped_bytes,
            rejected=dict(sorted(self.rejected.items())),
            duplicates=self.skipped.pop(DUPLICATE, 0),
            filtered=dict(sorted(self.skipped.items())),
            inputs=self.unit.inputs,
            input_bytes=self.unit.input_bytes,
            lost_bytes=self.lost_bytes,
            row_groups=row_groups_,
        )

    def _group_limit(self) -> int:
        return group_limit(self.job.row_group_bytes, len(self.groups))

    def _metadata(self) -> dict[str, Any]:
        proxy = self.job.proxy
        return {
            "format_version": FORMAT_VERSION,
            "proxy": proxy.name,
            "fingerprint": proxy.fingerprint,
            "vocabulary": proxy.vocabulary.to_json(),
            "unit": self.unit.index,
            "units": self.unit.count,
            "unit_digest": self.names.digest,
        }

    def _runs(self) -> Iterator[list[Document]]:
        """Documents in sorted runs; each list is emptied when the next one is asked for."""
        items = selected(self.job, self.unit)
        while run := self._read_run(items):
            yield run
            run.clear()  # else it would stay until the next one is whole
            pa.default_memory_pool().release_unused()  # what a long document took would stay while the next are read

    def _read_run(self, items: Iterator[Document | Reject | Skipped]) -> list[Document]:
        """The documents that fill `run_bytes` of memory, sorted; none at the end. Rejects are put aside."""
        run: list[Document] = []
        size = 0
        with self.stages.timed("read"):
            for item in items:
                self.documents += 1
                if isinstance(item, Document):
                    run.append(item)
                    size += memory_of(item)
                    if size >= self.job.run_bytes:
                        break
                elif isinstance(item, Skipped):
                    self.skipped[item.reason] += 1
                else:
                    self._reject(item)
            run.sort(key=lambda document: document.key)
        return run

    def _reject(self, reject: Reject) -> None:
        self.rejected[reject.reason] += 1
        self.lost_bytes += reject.lost_bytes
        self.rejects.add(reject)

    def _write_group(self, documents: list[Document]) -> None:
        documents, batch = self._encode(documents)
        if not documents:
            return
        with self.stages.timed("write"):
            table = group_table(documents, batch, self.schema)
            self.writer.write_table(table, row_group_size=len(documents))
        with self.stages.timed("digest"):
            update_content_digest(self.content, documents, batch)
        raw_bytes = sum(len(document.raw) for document in documents)
        symbols = 0 if batch is None else len(batch.ids)
        self.groups.append((len(documents), raw_bytes, symbols))
        self.raw_bytes += raw_bytes
        self.comp_symbols += symbols
        if batch is not None:
            self.escaped_bytes += batch.escaped_bytes
            self.dropped_bytes += batch.dropped_bytes

    def _encode(self, documents: list[Document]) -> tuple[list[Document], EncodedBatch | None]:
        """The comp views, proven; a document whose view fails becomes a reject and the others go on."""
        try:
            batch = self._encode_and_prove(documents)
            return documents, batch
        except (MemoryError, OSError):
            raise  # the machine's fault, not the document's: a retry gives it
        except Exception:  # noqa: BLE001 - whatever a proxy raises, one document is the cause: find it
            good = [document for document in documents if self._is_codable(document)]
            return good, self._encode_and_prove(good) if good else None

    def _encode_and_prove(self, documents: list[Document]) -> EncodedBatch | None:
        raws = [document.raw for document in documents]
        with self.stages.timed("encode"):
            batch = self.job.proxy.encode_batch(raws)
        if self.job.prove and batch is not None:
            with self.stages.timed("prove"):
                prove(self.job.proxy, raws, batch)
        return batch

    def _is_codable(self, document: Document) -> bool:
        try:
            self._encode_and_prove([document])
        except (MemoryError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - becomes a reject with the error's text
            failed_proof = isinstance(error, ProofError)
            self._reject(
                Reject(
                    source=document.source,
                    record=document.record,
                    piece=document.piece,
                    stage="decode" if failed_proof else "encode",
                    reason="decode-mismatch" if failed_proof else "encode-error",
                    detail=printable(one_line(error))[:300],
                    excerpt=document.raw[:EXCERPT_BYTES],
                )
            )
            return False
        return True

    def _shard_entry(self) -> tuple[ShardEntry, list[RowGroupEntry]]:
        metadata = pq.read_metadata(self.shard_path)
        name = self.names.shard
        entries = []
        with self.shard_path.open("rb") as file:  # not mapped: its pages would count as this process's memory
            size = file.seek(0, io.SEEK_END)

            def read(at: int, length: int) -> bytes:
                file.seek(at)
                return file.read(length)

            for index, (rows, raw_bytes, symbols) in enumerate(self.groups):
                ranges = chunk_ranges(metadata, index)
                first = min(offset for offset, _ in ranges)
                entries.append(
                    RowGroupEntry(
                        offset=first,
                        length=max(offset + length for offset, length in ranges) - first,
                        rows=rows,
                        raw_bytes=raw_bytes,
                        comp_symbols=symbols,
                        digests=b"".join(chunk_digest(read(*place)) for place in ranges).hex(),
                    )
                )
            footer = footer_start(read(size - 8, 8), size, name)
            footer_digest = hashlib.sha256(read(footer, size - footer)).hexdigest()
        entry = ShardEntry(
            name=name,
            size=size,
            sha256=sha256(self.shard_path),
            footer_digest=footer_digest,
            content_digest=self.content.hexdigest(),
            rows=sum(rows for rows, _, _ in self.groups),
            raw_bytes=self.raw_bytes,
            comp_symbols=self.comp_symbols,
            row_groups=len(self.groups),
        )
        return entry, entries


class _Stages:
    """Wall seconds by what was being done."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        return {stage: round(seconds, 4) for stage, seconds in self._seconds.items()}


class _RejectsBuffer:
    """Rejects on their way to the file, a thousand at a time."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._rows: list[dict[str, Any]] = []

    def add(self, reject: Reject) -> None:
        self._rows.append({name: getattr(reject, name) for name in REJECTS_SCHEMA.names})
        if len(self._rows) >= _REJECTS_BUFFER:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, REJECTS_SCHEMA))
            self._rows = []
