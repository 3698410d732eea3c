"""The plan covers every byte once and depends on listing and options alone."""

import itertools
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.corpus import Corpus, list_corpus
from pipelines.reading.inputs import InputFile
from pipelines.reading.plan import (
    BLOCK_FILES,
    Block,
    JsonlBlock,
    ParquetBlock,
    PlanOptions,
    TextBlock,
    cut_blocks,
    permuted_blocks,
    plan_units,
    row_group_bytes,
)
from schemas.draws import draw_u64
from schemas.errors import UserError

MIB = 1 << 20


def listed(*files: tuple[str, int], version: str = "v", root: str = "/corpus") -> Corpus:
    inputs = [
        InputFile(
            root=root,
            path=path,
            size=size,
            format="jsonl" if "jsonl" in path else "text",
            compression="gzip" if path.endswith(".gz") else "",
            version=version,
        )
        for path, size in files
    ]
    return Corpus(spec=root, inputs=tuple(inputs))


def pieces_of(blocks: list[Block]) -> dict[str, list[tuple[int, int]]]:
    covered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for block in blocks:
        if isinstance(block, JsonlBlock):
            covered[block.file.path].append((block.start, block.stop))
        else:
            for file in block.files:
                covered[file.path].append((0, file.size))
    return covered


names = st.sampled_from([".txt", ".txt.gz", ".jsonl", ".jsonl.gz"])
listings = st.lists(st.tuples(names, st.integers(0, 5000)), min_size=1, max_size=30).map(
    lambda files: [(f"{index:03}{name}", size) for index, (name, size) in enumerate(files)]
)


@given(listings, st.integers(1, 3000), st.integers(1, 20000), st.integers(0, 9))
def test_every_byte_is_in_exactly_one_block_of_one_unit(
    files: list[tuple[str, int]], block_bytes: int, unit_bytes: int, seed: int
) -> None:
    corpus = listed(*files)
    options = PlanOptions(seed=seed, unit_bytes=unit_bytes, block_bytes=block_bytes)
    units = plan_units(corpus, options)
    covered = pieces_of([block for unit in units for block in unit.blocks])
    assert set(covered) == {path for path, _ in files}
    for path, size in files:
        ranges = sorted(covered[path])
        assert ranges[0][0] == 0
        assert ranges[-1][1] == size
        assert all(left[1] == right[0] for left, right in itertools.pairwise(ranges))
    assert [unit.index for unit in units] == list(range(len(units)))
    assert {unit.count for unit in units} == {len(units)}
    largest = max(block.input_bytes for unit in units for block in unit.blocks)
    for unit in units:
        assert unit.input_bytes == sum(block.input_bytes for block in unit.blocks)
        assert unit.input_bytes < unit_bytes + max(1, largest)


@given(listings, st.integers(1, 3000))
def test_blocks_respect_their_size_unless_a_file_must_stay_whole(
    files: list[tuple[str, int]], block_bytes: int
) -> None:
    for block in cut_blocks(listed(*files), block_bytes):
        if isinstance(block, JsonlBlock) and block.file.compression:
            assert (block.start, block.stop) == (0, block.file.size)
        elif isinstance(block, JsonlBlock):
            assert block.input_bytes <= block_bytes
        else:
            assert block.input_bytes <= block_bytes or len(block.files) == 1
            assert len(block.files) == 1 or not any(file.compression for file in block.files)


def test_the_plan_ignores_root_and_versions_and_follows_the_seed() -> None:
    files = [(f"{index:03}.txt", 900_000) for index in range(60)]
    here = plan_units(listed(*files))
    there = plan_units(listed(*files, version="later", root="memory://bucket"))
    assert [unit.identity() for unit in here] == [unit.identity() for unit in there]
    assert [unit.identity() for unit in plan_units(listed(*files), PlanOptions(seed=1))] != [
        unit.identity() for unit in here
    ]


def test_blocks_are_permuted_by_the_draws_of_their_ordinals() -> None:
    corpus = listed(("a.jsonl", 50 * MIB), ("b.txt", 7))
    blocks = list(cut_blocks(corpus))
    draws = [draw_u64("block", seed=5, record=ordinal) for ordinal in range(len(blocks))]
    expected = [blocks[index] for index in sorted(range(len(blocks)), key=lambda index: (draws[index], index))]
    assert permuted_blocks(corpus, PlanOptions(seed=5)) == expected
    assert [block for unit in plan_units(corpus, PlanOptions(seed=5)) for block in unit.blocks] == expected


@pytest.mark.parametrize(
    ("listed_bytes", "unit_bytes", "units"), [(0, MIB, 1), (5 * MIB, MIB, 5), (32 * MIB, 2 * MIB, 16)]
)
def test_a_small_corpus_has_several_units(listed_bytes: int, unit_bytes: int, units: int) -> None:
    corpus = listed(("a.jsonl", listed_bytes))
    assert PlanOptions().resolved_unit_bytes(listed_bytes) == unit_bytes
    assert len(plan_units(corpus)) == units


def test_a_large_corpus_has_units_of_64_mib() -> None:
    assert PlanOptions().resolved_unit_bytes(1 << 40) == 64 * MIB
    units = plan_units(listed(("a.jsonl", 2048 * MIB)))
    assert {unit.input_bytes for unit in units} == {64 * MIB}


def test_a_block_larger_than_a_unit_is_a_unit_alone_or_with_neighbours() -> None:
    units = plan_units(listed(("a.jsonl.gz", 100 * MIB), ("b.jsonl", 3 * MIB)), PlanOptions(unit_bytes=MIB))
    assert sum(unit.input_bytes for unit in units) == 103 * MIB
    assert all(unit.blocks for unit in units)


def test_many_empty_files_are_not_one_block() -> None:
    blocks = list(cut_blocks(listed(*((f"{index:05}.txt", 0) for index in range(2 * BLOCK_FILES + 1)))))
    assert [len(block.files) for block in blocks] == [BLOCK_FILES, BLOCK_FILES, 1]


def test_small_text_files_share_a_block_and_others_stand_alone() -> None:
    corpus = listed(("a.txt", 10), ("b.txt", 20), ("c.txt.gz", 5), ("d.txt", 1), ("e.txt", 2 * MIB), ("f.txt", 1))
    assert [[file.path for file in block.files] for block in cut_blocks(corpus)] == [
        ["a.txt", "b.txt"],
        ["c.txt.gz"],
        ["d.txt"],
        ["e.txt"],
        ["f.txt"],
    ]


def parquet(path: Path, rows: int, group_rows: int) -> None:
    table = pa.table({"text": [f"row {row} " * 20 for row in range(rows)]})
    pq.write_table(table, path, row_group_size=group_rows, compression="none", use_dictionary=False)


def test_parquet_blocks_are_runs_of_row_groups(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", 1000, 100)
    corpus = list_corpus(str(tmp_path))
    blocks: list[Any] = list(cut_blocks(corpus, block_bytes=50_000))
    assert all(isinstance(block, ParquetBlock) for block in blocks)
    assert len(blocks) > 2
    assert (blocks[0].start, blocks[-1].stop) == (0, 10)
    for left, right in itertools.pairwise(blocks):
        assert left.stop == right.start
        assert right.first_row == left.first_row + left.rows == 100 * right.start
    assert sum(block.rows for block in blocks) == 1000


def test_a_row_group_larger_than_a_block_is_a_block(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", 300, 100)
    blocks: list[Any] = list(cut_blocks(list_corpus(str(tmp_path)), block_bytes=1))
    assert [(block.start, block.stop) for block in blocks] == [(0, 1), (1, 2), (2, 3)]


def test_an_unreadable_parquet_file_is_one_block_and_a_rowless_one_too(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"this is not Parquet at all")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "packed.parquet.gz").write_bytes(b"x")
    parquet(tmp_path / "norows.parquet", 0, 10)
    parquet(tmp_path / "good.parquet", 10, 10)
    blocks: list[Any] = list(cut_blocks(list_corpus(str(tmp_path))))
    assert {block.file.path: (block.readable, block.rows, block.stop) for block in blocks} == {
        "bad.parquet": (False, 0, 0),
        "empty.parquet": (False, 0, 0),
        "packed.parquet.gz": (False, 0, 0),
        "norows.parquet": (True, 0, 0 if not pq.ParquetFile(tmp_path / "norows.parquet").num_row_groups else 1),
        "good.parquet": (True, 10, 1),
    }


def test_units_name_their_inputs_once_and_travel() -> None:
    (unit,) = plan_units(listed(("a.jsonl", 5000), ("b.txt", 3)), PlanOptions(unit_bytes=MIB, block_bytes=1000))
    assert sorted(file.path for file in unit.files) == ["a.jsonl", "b.txt"]
    assert pickle.loads(pickle.dumps(unit)) == unit


def test_identity_tells_blocks_apart() -> None:
    corpus = listed(("a.jsonl", 5000), ("b.txt", 3), ("c.txt.gz", 3))
    identities = [str(block.identity()) for block in cut_blocks(corpus, 1000)]
    assert len(set(identities)) == len(identities) == 7
    assert isinstance(next(iter(cut_blocks(listed(("b.txt", 3))))), TextBlock)


@pytest.mark.parametrize(
    ("listed_bytes", "expected"), [(0, 16 << 10), (31_000_000, 30_273), (1 << 30, MIB), (1 << 40, MIB)]
)
def test_row_groups_are_small_for_small_corpora(listed_bytes: int, expected: int) -> None:
    assert row_group_bytes(listed_bytes) == expected


def test_bad_options_name_themselves() -> None:
    with pytest.raises(UserError, match="--seed: -1"):
        PlanOptions(seed=-1)
    with pytest.raises(UserError, match="--unit-bytes: 0"):
        PlanOptions(unit_bytes=0)
