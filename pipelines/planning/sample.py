"""A sample of a corpus to measure on: its first blocks by their draws, but only the heads of long files.

A compressed file is one block, and so is a text file, however long they are: of such a one the first bytes are copied
to a plain file here, which is read in its place. What is read is bounded by the sample's size and by one document, or
one Parquet row group; what is written to `folder` by 16 times that.
"""

import mmap
import os
import time
from dataclasses import replace
from pathlib import Path

from pipelines.reading.corpus import Corpus
from pipelines.reading.inputs import InputError, copy_head
from pipelines.reading.plan import (
    BLOCK_BYTES,
    Block,
    JsonlBlock,
    ParquetBlock,
    PlanOptions,
    TextBlock,
    Unit,
    permuted_blocks,
)
from pipelines.reading.records import ReadOptions

_EXPANSION = 16
"""Decompressed bytes of a head by its stored bytes, at most: text has 3 to 8, and a bomb a thousand."""


def sampled(corpus: Corpus, read: ReadOptions, sample_bytes: int, folder: Path) -> tuple[Unit, float]:
    """A unit of about `sample_bytes` of input, if the corpus has as many, and seconds that copying heads took.

    Args:
        corpus: listed.
        read: what is read of a text is one document of at most its `max_document_bytes`.
        sample_bytes: of input as it is stored.
        folder: for heads, empty.
    """
    blocks = permuted_blocks(corpus, PlanOptions())
    each = max(BLOCK_BYTES, -(-sample_bytes // max(1, len(blocks))))
    taken: list[Block] = []
    size, start = 0, time.perf_counter()
    for block in blocks:
        if size >= sample_bytes:
            break
        part, stored = _head(block, each, read.max_document_bytes, folder / str(len(taken)))
        taken.append(part)
        size += stored
    return Unit(index=0, count=1, blocks=tuple(taken), input_bytes=size), time.perf_counter() - start


def _head(block: Block, most: int, most_of_text: int, path: Path) -> tuple[Block, int]:
    """A block, or if it is of one long file its head; with the bytes of input that it stands for."""
    file = block.files[0]
    is_lines = isinstance(block, JsonlBlock)
    if isinstance(block, ParquetBlock) or len(block.files) > 1 or block.input_bytes <= most:
        return block, block.input_bytes
    # a text that is cut before its first piece ends would be a shorter document than any of it
    limits = (most, _EXPANSION * most) if is_lines else (file.size, most_of_text)
    try:
        with path.open("wb") as target:
            stored = copy_head(file, target, *limits)
    except InputError:
        return block, block.input_bytes  # as far as it can be read; the job says why
    if is_lines:
        whole = _whole_lines(path)
        if not whole:
            return block, block.input_bytes  # its first line is longer
        stored = stored * whole // path.stat().st_size
        os.truncate(path, whole)
    head = replace(file, root=str(path.parent), path=path.name, size=path.stat().st_size, compression="", version="")
    return (JsonlBlock(file=head, start=0, stop=head.size) if is_lines else TextBlock(files=(head,))), stored


def _whole_lines(path: Path) -> int:
    """Bytes of a file up to its last newline."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.rfind(b"\n") + 1
