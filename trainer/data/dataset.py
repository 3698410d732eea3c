"""A dataset of `preprocess`, opened for training: verified bytes in, row groups as numpy arrays out.

The manifest is checked against its own digest, the row-group table against the manifest, a shard's footer against the
manifest, column chunks against the table; bytes are parsed only after that, from memory, so that no flipped byte
reaches a batch or a parser. Only the column chunks that are asked for are read, and only those that a document needs
are checked and decoded. Cost: 50 microseconds a row group and about 5 ms per MB stored, of which the digests are 1;
memory: what `read` returns belongs to the caller, kept here are at most `_FOOTER_BYTES` of footers. `read` may be
called from several threads.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import FormatVersionError, UserError
from schemas.manifest import Manifest, ShardEntry
from schemas.names import DATASET, MANIFEST, ROW_GROUPS
from schemas.shard import ROW_GROUPS_SCHEMA, chunk_digest, footer_start, metadata_of
from trainer.data.files import CACHE_BYTES, Files
from trainer.data.parquet import Chunks, Shard
from trainer.data.rows import (
    KEY_COLUMNS,
    Column,
    CorruptionError,
    RowGroup,
    check_comp,
    check_lengths,
    check_raw,
    check_spans,
)

_FOOTER_BYTES = 64 << 20
"""Stored bytes of the footers kept open; parsed they take a few times that. A footer has about 1 KB a row group."""

_TAIL = 1 << 16
"""Read at once from a shard's end: the whole footer of 64 row groups."""

_GAP = 1 << 16
"""Unneeded bytes between two chunks that are read along rather than by another request."""


class Dataset:
    """An opened dataset; row groups are numbered by shard name, then place.

    Attributes:
        url: its folder.
        manifest: what it holds.
        rows, raw_bytes, comp_symbols: int64 [row groups], by the row-group table.
    """

    def __init__(self, url: str, *, make: str | None = None, cache_bytes: int = CACHE_BYTES) -> None:
        """Open it.

        Args:
            url: folder or fsspec URL.
            make: the command that makes it, for the message where there is none.
            cache_bytes: bound of the local copy of remote ranges; 0 for none.

        Raises:
            UserError: there is none, it is unfinished, damaged or of a newer format.
        """
        self.url = url
        self._files = Files(url, cache_bytes=cache_bytes)
        self.manifest = self._read_manifest(make or f"make preprocess OUT={url}")
        self._shards = sorted(self.manifest.shards, key=lambda shard: shard.name)
        self._read_row_groups()
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()
        self.vocabulary = self.manifest.vocabulary
        self.proxy_name = str(self.manifest.dataset["proxy"]["name"])
        self.fingerprint = str(self.manifest.dataset["proxy"]["fingerprint"])
        self.row_groups_digest = self.manifest.row_groups_sha256

    def __len__(self) -> int:
        """Number of row groups."""
        return len(self.rows)

    @property
    def has_comp(self) -> bool:
        """Whether documents have a comp view."""
        return self.vocabulary.comp_symbols > 0

    @cached_property
    def has_spans(self) -> bool:
        """Whether comp symbols have spans: as the first row group has it (one read, once)."""
        return self.has_comp and len(self) > 0 and self.read(0, ("comp", "spans")).column("spans") is not None

    def place(self, ordinal: int) -> str:
        """Shard and row group by name, for messages."""
        return f"{self._files.locate(self._shards[self._shard_of[ordinal]].name)}: row group {self._group_of[ordinal]}"

    def largest_decoded(self, columns: tuple[str, ...]) -> int:
        """Bytes of the largest row group, stored and decoded, by the row-group table."""
        if not len(self):
            return 0
        size = self._length + 300 * self.rows  # keys as Python objects
        for name, width, counts in (("raw", 1, self.raw_bytes), ("comp", 4, self.comp_symbols)):
            size = size + (width * counts if name in columns else 0)
        return int((size + (2 * self.comp_symbols if "spans" in columns else 0)).max())

    def read(self, ordinal: int, columns: tuple[str, ...] = ()) -> RowGroup:
        """One row group: its keys, and those of raw, comp, spans that are named.

        All bytes are read now. Keys are checked and decoded now, the other columns when a document needs them: late
        in a run most groups are shown as comp only.

        Raises:
            UserError: missing or damaged; the message names shard and row group, and column or document. Asking the
                row group for a column may raise it later.
        """
        with self._lock, self._damage_named(ordinal):
            shard = self._shard(int(self._shard_of[ordinal]))
            stored = _Stored(shard, int(self._group_of[ordinal]), ordinal, (*KEY_COLUMNS, *columns))
            self._verify(stored, KEY_COLUMNS)
            keys, lengths = shard.keys(stored.group, stored.chunks)
            check_lengths(lengths, rows=int(self.rows[ordinal]), raw_bytes=int(self.raw_bytes[ordinal]))

        def load(rows: RowGroup, name: str) -> Column | None:
            comp = rows.column("comp") if name == "spans" else None
            with self._lock, self._damage_named(ordinal):
                self._verify(stored, (name,))
                column = shard.column(stored.group, stored.chunks, name)
                if name == "raw":
                    return check_raw(column, lengths)
                if name == "comp":
                    symbols = int(self.comp_symbols[ordinal])
                    return check_comp(column, keys, comp_symbols=symbols, size=self.vocabulary.size)
                return check_spans(column, comp)

        return RowGroup(keys, lengths, load)

    def groups(self, ordinal: int) -> list[str]:
        """The `group` of each row of a row group, from verified bytes; "" where a row has none.

        Raises:
            UserError: missing or damaged; the message names shard and row group.
        """
        with self._lock, self._damage_named(ordinal):
            shard = self._shard(int(self._shard_of[ordinal]))
            if "group" not in shard.columns:
                return [""] * int(self.rows[ordinal])
            stored = _Stored(shard, int(self._group_of[ordinal]), ordinal, ("group",))
            self._verify(stored, ("group",))
            found = [name or "" for name in shard.group_names(stored.group, stored.chunks)]
            if len(found) != self.rows[ordinal]:
                raise CorruptionError("group has another length than the row-group table says")
            return found

    def damaged_document(self, ordinal: int, doc_id: bytes, what: str) -> UserError:
        """The error for a document whose columns do not fit each other."""
        return self._damaged(ordinal, f"document {doc_id.hex()}: {what}")

    @contextmanager
    def _damage_named(self, ordinal: int) -> Iterator[None]:
        """What the block raises about bytes becomes one line with the row group's name."""
        try:
            yield
        except (pa.ArrowException, OSError, KeyError, IndexError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise self._damaged(ordinal, " ".join(str(error).split())[:300]) from None

    def _damaged(self, ordinal: int, what: str) -> UserError:
        return UserError(f"{self.place(ordinal)}: damaged ({what}); make verify DATA={self.url} lists all damage")

    def _read_manifest(self, make: str, *, again: bool = False) -> Manifest:
        try:
            data = self._files.read(MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            if self._files.exists(DATASET):
                raise UserError(f"DATA={self.url}: not finished (no {MANIFEST}); finish it with: {make}") from None
            raise UserError(f"DATA={self.url}: no dataset there; make one with: {make}") from None
        try:
            return Manifest.from_bytes(data, self._files.locate(MANIFEST))
        except FormatVersionError:
            raise
        except UserError as error:
            if not (again or self._files.is_local):  # it may have been damaged on its way
                return self._read_manifest(make, again=True)
            raise UserError(
                f"{error}; python -m pipelines manifest --data {self.url} makes it anew from the receipts"
            ) from None

    def _read_row_groups(self) -> None:
        place = self._files.locate(ROW_GROUPS)
        remedy = f"python -m pipelines manifest --data {self.url} makes it anew"
        try:
            data = self._files.read(ROW_GROUPS)
            if not (self._files.is_local or hashlib.sha256(data).hexdigest() == self.manifest.row_groups_sha256):
                data = self._files.read(ROW_GROUPS)  # it may have been damaged on its way
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{place}: missing; {remedy}") from None
        if hashlib.sha256(data).hexdigest() != self.manifest.row_groups_sha256:
            raise UserError(f"{place}: damaged (it does not match the manifest's digest); {remedy}")
        table = pq.read_table(pa.BufferReader(data), schema=ROW_GROUPS_SCHEMA, use_threads=False)
        ordinals = {shard.name: index for index, shard in enumerate(self._shards)}
        names = table["shard"].to_pylist()
        groups = table["group"].to_numpy().astype(np.int64)
        shards = np.array([ordinals.get(name, -1) for name in names], np.int64)
        expected = np.repeat(np.arange(len(self._shards)), [shard.row_groups for shard in self._shards])
        order = np.lexsort((groups, shards))
        if not np.array_equal(shards[order], expected):
            raise UserError(f"{place}: its row groups are not those of the manifest's shards; {remedy}")
        self._shard_of, self._group_of = expected, groups[order]
        self.rows, self.raw_bytes, self.comp_symbols, self._length = (
            table[name].to_numpy().astype(np.int64)[order] for name in ("rows", "raw_bytes", "comp_symbols", "length")
        )
        digests = table["digests"].combine_chunks()
        bounds = digests.offsets.to_numpy().astype(np.int64)
        self._digest_from, self._digest_to = bounds[:-1][order], bounds[1:][order]
        self._digests = memoryview(digests.values.buffers()[1] or b"").cast("B")

    def _shard(self, index: int) -> Shard:
        """The shard with its parsed footer, from those kept or from its file."""
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        entry = self._shards[index]
        try:
            footer = self._footer(entry, fresh=False)
        except CorruptionError:
            if self._files.is_local:
                raise
            footer = self._footer(entry, fresh=True)
        shard = Shard(entry, footer)
        metadata = metadata_of(shard.parquet.schema_arrow, self._files.locate(entry.name))
        if metadata.get("fingerprint") != self.manifest.dataset["proxy"]["fingerprint"]:
            raise CorruptionError("its metadata names another proxy than the manifest")
        self._open[index] = shard
        while len(self._open) > 1 and sum(kept.footer_bytes for kept in self._open.values()) > _FOOTER_BYTES:
            self._open.popitem(last=False)
        return shard

    def _footer(self, entry: ShardEntry, *, fresh: bool) -> bytes:
        first = max(0, entry.size - _TAIL)
        tail = self._files.read_range(entry.name, first, entry.size, fresh=fresh)
        if first + len(tail) != entry.size:
            raise CorruptionError(f"the file has fewer than its {entry.size:,} bytes")
        try:
            start = footer_start(tail[-8:], entry.size, "")
        except UserError:
            raise CorruptionError("the file does not end like a Parquet file") from None
        if start < first:
            tail = self._files.read_range(entry.name, start, first, fresh=fresh) + tail
            first = start
        footer = tail[start - first :]
        if hashlib.sha256(footer).hexdigest() != entry.footer_digest:
            raise CorruptionError("the shard's footer differs from its digest")
        return footer

    def _fetch(self, stored: "_Stored", *, fresh: bool) -> Chunks:
        """The row group's chunks of its columns, as they are stored."""
        shard = stored.shard
        ranges = shard.ranges(stored.group)
        wanted = [index for index, name in enumerate(shard.columns) if name in stored.names]
        chunks: Chunks = {}
        for run in _runs([ranges[index] for index in wanted]):
            start, stop = ranges[wanted[run[0]]][0], sum(ranges[wanted[run[-1]]])
            data = memoryview(self._files.read_range(shard.entry.name, start, stop, fresh=fresh))
            if len(data) != stop - start:
                raise CorruptionError("the file ends within it")
            for place in run:
                offset, length = ranges[wanted[place]]
                chunks[shard.columns[wanted[place]]] = offset, data[offset - start : offset - start + length]
        return chunks

    def _verify(self, stored: "_Stored", names: tuple[str, ...]) -> None:
        """Read the chunks unless they are there, and check some; remote ones that differ are fetched anew once."""
        try:
            self._check(stored, names, fresh=False)
        except CorruptionError:
            if self._files.is_local:
                raise
            self._check(stored, names, fresh=True)

    def _check(self, stored: "_Stored", names: tuple[str, ...], *, fresh: bool) -> None:
        if fresh or not stored.chunks:
            stored.chunks = self._fetch(stored, fresh=fresh)
        first, last = int(self._digest_from[stored.ordinal]), int(self._digest_to[stored.ordinal])
        columns = stored.shard.columns
        if last - first != len(columns):
            raise CorruptionError(f"{len(columns)} columns, {last - first} digests")
        for name in names:
            at = 16 * (first + columns.index(name))
            if chunk_digest(stored.chunks[name][1]) != self._digests[at : at + 16]:
                raise CorruptionError(f"column {name} differs from its digest")


@dataclass
class _Stored:
    """The stored bytes of some columns of a row group; none before they are read."""

    shard: Shard
    group: int
    ordinal: int
    names: tuple[str, ...]
    chunks: Chunks = field(default_factory=dict)


def _runs(ranges: list[tuple[int, int]]) -> list[list[int]]:
    """Indices of ranges that lie close enough together to be read at once."""
    runs: list[list[int]] = []
    for index, (offset, _) in enumerate(ranges):
        if runs and 0 <= offset - sum(ranges[runs[-1][-1]]) <= _GAP:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs
