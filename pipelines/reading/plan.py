"""Cuts a listed corpus into blocks, permutes them by draws and groups them into work units.

A pure function of listing and options, recomputed rather than stored: the same on every machine, whatever the
number of workers. A block is about 1 MiB of input: some small text files or one, a byte range of a JSONL file, a
run of row groups of a Parquet file, a shard of one of our datasets whole, or a compressed file whole, since it can be
read from its start only. As the blocks are permuted before they are grouped, each shard samples the whole corpus
without an engine shuffle.
Costs: no input is opened except for the footers of Parquet files, 16 at a time; about 3 us and 200 bytes a block.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipelines.reading.corpus import Corpus
from pipelines.reading.inputs import InputError, InputFile, check_size, input_errors, open_input, refuse_encrypted
from pipelines.reading.mix import Part
from schemas.draws import draw_u64, permutation
from schemas.errors import UserError
from schemas.shard import METADATA_KEY

KIB = 1 << 10
MIB = 1 << 20

BLOCK_BYTES = MIB
"""Small enough that a shard of 64 MiB samples 64 places of the corpus, large enough to cost one remote request."""

BLOCK_FILES = 1024
"""At most so many files a block, so that a million empty files are not one."""

MAX_UNIT_BYTES = 64 * MIB
UNITS_OF_A_SMALL_CORPUS = 16
"""Enough units for the cores of one machine and for a restart that loses little."""

_FOOTER_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a plan depends on besides the listing.

    Attributes:
        seed: of the permutation of blocks, u64.
        unit_bytes: input bytes of a work unit; None: a 16th of the corpus, between 1 and 64 MiB.
        block_bytes: size of a block; one value for all datasets, changed in tests only.
    """

    seed: int = 0
    unit_bytes: int | None = None
    block_bytes: int = BLOCK_BYTES

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise UserError(f"--seed: {self.seed} is not a u64; choose one from 0 to 2^64 - 1")
        if self.unit_bytes is not None and self.unit_bytes < 1:
            raise UserError(f"--unit-bytes: {self.unit_bytes} is not positive; the default suits most corpora")

    def resolved_unit_bytes(self, listed_bytes: int) -> int:
        """`unit_bytes`, or its default for a corpus of this size."""
        if self.unit_bytes is not None:
            return self.unit_bytes
        return min(MAX_UNIT_BYTES, max(MIB, -(-listed_bytes // UNITS_OF_A_SMALL_CORPUS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBlock:
    """Whole text files: several small ones, one, or one compressed one."""

    files: tuple[InputFile, ...]

    @property
    def input_bytes(self) -> int:
        """Stored bytes of the block."""
        return sum(file.size for file in self.files)

    def identity(self) -> list[Any]:
        """What is read, as JSON values, for the unit's digest."""
        return ["text", [[_name(file), file.size, file.compression] for file in self.files]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonlBlock:
    """The lines of a JSONL file that start in bytes start <= b < stop; of a compressed file always all."""

    file: InputFile
    start: int
    stop: int

    @property
    def files(self) -> tuple[InputFile, ...]:
        """The one file."""
        return (self.file,)

    @property
    def input_bytes(self) -> int:
        """Stored bytes of the block."""
        return self.stop - self.start

    def identity(self) -> list[Any]:
        """What is read, as JSON values, for the unit's digest."""
        return ["jsonl", _name(self.file), self.file.size, self.file.compression, self.start, self.stop]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetBlock:
    """Row groups start <= g < stop of a Parquet file; of a shard of ours always all.

    Attributes:
        first_row: index in the file of the first row of group `start`.
        rows: in these groups.
        input_bytes: their compressed bytes; they do not add up to the file, which has a footer and gaps.
        readable: False if the footer could not be read: a block of no row groups, for the reader to reject.
        is_dataset: whether the file is a shard of a dataset of ours.
    """

    file: InputFile
    start: int
    stop: int
    first_row: int
    rows: int
    input_bytes: int
    readable: bool = True
    is_dataset: bool = False

    @property
    def files(self) -> tuple[InputFile, ...]:
        """The one file."""
        return (self.file,)

    def identity(self) -> list[Any]:
        """What is read, as JSON values, for the unit's digest."""
        kind = "dataset" if self.is_dataset else "parquet"
        file = self.file
        return [kind, _name(file), file.size, file.compression, self.start, self.stop, self.readable]


Block = TextBlock | JsonlBlock | ParquetBlock


def _name(file: InputFile) -> Any:
    """As a unit's digest knows it: not as a source of the same name in a corpus that is no mix, whose group differs."""
    return [file.corpus, file.path] if file.corpus else file.path


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One work unit: what becomes one shard.

    Attributes:
        index: 0-based.
        count: number of units of the plan.
        blocks: in permuted order.
        input_bytes: stored bytes of the blocks.
        drops: SHA-256 (hex) of the list of its documents that are duplicates (`pipelines.dedupe`); empty if none are.
    """

    index: int
    count: int
    blocks: tuple[Block, ...]
    input_bytes: int
    drops: str = ""

    def identity(self) -> list[Any]:
        """What is read, as JSON values, for the unit's digest: paths, sizes, ranges; no times."""
        blocks = [block.identity() for block in self.blocks]
        return [self.index, self.count, blocks, *([self.drops] if self.drops else [])]

    @property
    def files(self) -> list[InputFile]:
        """Each input of the unit once, in order of first use."""
        return list({(file.corpus, file.path): file for block in self.blocks for file in block.files}.values())

    @property
    def inputs(self) -> list[list[Any]]:
        """[source, size, version] of each of `files`, as receipts hold them: another list, and the unit is redone."""
        return [[file.source, file.size, file.version] for file in self.files]


def plan_units(corpus: Corpus, options: PlanOptions | None = None) -> list[Unit]:
    """The work units of a corpus: its permuted blocks, cut consecutively into parts of at most about `unit_bytes`.

    There are ceil(listed / unit_bytes) parts of nearly equal size, fewer where a block is larger than a part;
    a block belongs to the part in which its first byte falls, so no unit exceeds its part by more than a block.
    """
    options = options or PlanOptions()
    return units_of(permuted_blocks(corpus, options), options.resolved_unit_bytes(corpus.taken_bytes))


def units_of(blocks: Sequence[Block], unit_bytes: int) -> list[Unit]:
    """The work units of permuted blocks, see `plan_units`."""
    total = sum(block.input_bytes for block in blocks)
    parts = max(1, -(-total // unit_bytes))
    grouped: dict[int, list[Block]] = {}
    before = 0
    for block in blocks:
        part = min(parts - 1, before * parts // total) if total else 0
        grouped.setdefault(part, []).append(block)
        before += block.input_bytes
    return [
        Unit(
            index=index,
            count=len(grouped),
            blocks=tuple(members),
            input_bytes=sum(block.input_bytes for block in members),
        )
        for index, members in enumerate(grouped.values())
    ]


def permuted_blocks(corpus: Corpus, options: PlanOptions | None = None) -> list[Block]:
    """The blocks in the order of their draws; of a corpus in a mix only as many as are taken.

    A block's ordinal is its place in `cut_blocks` within its corpus, so what is taken of one does not depend on the
    others' files. It does not depend on the seed either: that permutes what is taken.
    """
    options = options or PlanOptions()
    parts = {part.name: part for part in corpus.parts}
    blocks: list[Block] = []
    draws: list[int] = []
    for name, members in groupby(cut_blocks(corpus, options.block_bytes), key=lambda block: block.files[0].corpus):
        cut = list(members)
        taken: Iterable[int] = range(len(cut))
        if name and parts[name].taken_bytes < parts[name].listed_bytes:
            taken = _taken(cut, parts[name])
        for ordinal in taken:
            blocks.append(cut[ordinal])
            draws.append(draw_u64("block", seed=options.seed, record=ordinal, source=name))
    return [blocks[index] for index in permutation(draws)]


def _taken(blocks: list[Block], part: Part) -> list[int]:
    """Ordinals of a corpus's blocks in the order of their draws, until they hold the share of it that is taken."""
    # as a share, since the blocks of Parquet files leave out their footers
    wanted = sum(block.input_bytes for block in blocks) * part.taken_bytes
    order = permutation(draw_u64("block", record=ordinal, source=part.name) for ordinal in range(len(blocks)))
    taken: list[int] = []
    size = 0
    for ordinal in order.tolist():
        if size * part.listed_bytes >= wanted:
            break
        taken.append(ordinal)
        size += blocks[ordinal].input_bytes
    return taken


def composition(parts: Sequence[Part], units: Sequence[Unit]) -> list[str]:
    """A table for people of what a plan takes of each corpus; no lines for a corpus that is no mix."""
    if not parts:
        return []
    taken: Counter[str] = Counter()
    for unit in units:
        for block in unit.blocks:
            taken[block.files[0].corpus] += block.input_bytes
    total = max(1, taken.total())
    width = max(len(part.name) for part in parts)
    lines = [f"  {'corpus':{max(6, width)}} {'files':>12} {'listed MB':>13} {'taken MB':>13} {'share':>7}"]
    lines += [
        f"  {part.name:{max(6, width)}} {part.files:>12,} {part.listed_bytes / 1e6:>13,.1f} "
        f"{taken[part.name] / 1e6:>13,.1f} {taken[part.name] / total:>7.2%}"
        for part in parts
    ]
    return lines


def row_group_bytes(listed_bytes: int) -> int:
    """Raw bytes of a shard's row groups: small corpora need enough of them to deal to the lanes."""
    return min(MIB, max(16 * KIB, listed_bytes // 1024))


def cut_blocks(corpus: Corpus, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """The blocks in listing order. Neighbouring uncompressed text files of a corpus share one as long as they fit."""
    small: list[InputFile] = []
    small_bytes = 0
    footers = _footers(corpus)
    for file in corpus.inputs:
        full = small_bytes + file.size > block_bytes or len(small) == BLOCK_FILES
        if small and (full or not _may_share(file) or small[0].corpus != file.corpus):
            yield TextBlock(files=tuple(small))
            small, small_bytes = [], 0
        if _may_share(file):
            small.append(file)
            small_bytes += file.size
        elif file.format == "text":
            yield TextBlock(files=(file,))
        elif file.format == "jsonl":
            yield from _jsonl_blocks(file, block_bytes)
        else:
            yield from _parquet_blocks(file, next(footers), block_bytes)
    if small:
        yield TextBlock(files=tuple(small))


def _may_share(file: InputFile) -> bool:
    return file.format == "text" and not file.compression


def _jsonl_blocks(file: InputFile, block_bytes: int) -> Iterator[Block]:
    count = 1 if file.compression else max(1, -(-file.size // block_bytes))
    for index in range(count):
        yield JsonlBlock(file=file, start=file.size * index // count, stop=file.size * (index + 1) // count)


class _Footer(NamedTuple):
    """(rows, compressed bytes) of each row group of a Parquet file, and whether it is a shard of ours."""

    groups: Sequence[tuple[int, int]]
    is_dataset: bool


def _footers(corpus: Corpus) -> Iterator[_Footer | None]:
    """The footers of the corpus's Parquet files, in listing order; None where it cannot be read."""
    files = [file for file in corpus.inputs if file.format == "parquet"]
    if not files:
        return
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        yield from pool.map(_footer, files)


def _footer(file: InputFile) -> _Footer | None:
    if file.compression:
        return None  # the reader says that it must be decompressed first
    try:
        with input_errors(file.root), open_input(file, block_bytes=64 * KIB) as stored:
            check_size(stored, file)
            metadata = pq.ParquetFile(stored, pre_buffer=False).metadata
            refuse_encrypted(metadata, stored)
            groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
            sizes = [
                (group.num_rows, sum(group.column(c).total_compressed_size for c in range(group.num_columns)))
                for group in groups
            ]
        if any(rows < 0 or size < 0 for rows, size in sizes):
            return None
        return _Footer(sizes, METADATA_KEY in (metadata.metadata or {}))
    except InputError:
        return None  # the reader finds and reports the same


def _parquet_blocks(file: InputFile, footer: _Footer | None, block_bytes: int) -> Iterator[Block]:
    if footer is None:
        yield ParquetBlock(file=file, start=0, stop=0, first_row=0, rows=0, input_bytes=file.size, readable=False)
        return
    if footer.is_dataset:  # pieces of a document may lie far apart, and no other unit may hold some of them
        block_bytes = file.size
    start = first_row = rows = size = 0
    for index, (group_rows, group_bytes) in enumerate(footer.groups):
        if index > start and size + group_bytes > block_bytes:
            yield ParquetBlock(file=file, start=start, stop=index, first_row=first_row, rows=rows, input_bytes=size)
            start, first_row, rows, size = index, first_row + rows, 0, 0
        rows += group_rows
        size += group_bytes
    # also for a file without rows, so that each input is in exactly one plan
    yield ParquetBlock(
        file=file,
        start=start,
        stop=len(footer.groups),
        first_row=first_row,
        rows=rows,
        input_bytes=size,
        is_dataset=footer.is_dataset,
    )
