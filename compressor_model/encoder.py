"""The codebook coder: bytes and marks of segments to codewords and spans, by a walk of the tree in a compiled loop.

A window starts at the root and is walked to a missing child; the node reached is its codeword. Where else it ends:

    segment      at the next mark: each segment alone, one longer than a window takes several (the default)
    packed       at line starts; where the walk dies it goes back to the last mark it passed, if any: windows of
                 several whole segments
    equal-info   nowhere: marks are ignored (Lester et al. 2024)

A line starts at the first byte that is not blank after a newline. With `fuzz` a walk that dies near its segment's end
drops the rest of it, up to a quarter of what was walked: chunks of one codeword then share at least .8 of the longer.
Without it all three are lossless. One look-up per byte in a tree of 0.6 MB, 190 to 300 MB/s on one core. Decoding
is a list look-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compressor_model.codebook import Codebook
from compressor_model.model import I32, U16, U32, U64
from compressor_model.text import I64, U8

Windows = Literal["segment", "packed", "equal-info"]

FUZZ_SHARE = 4
"""With `fuzz` a window of w walked bytes may drop w // FUZZ_SHARE more: w / (w + w // 4) >= .8."""


@dataclass(frozen=True, kw_only=True)
class CodebookCoder:
    """A codebook in the form that the compiled loops read; made by `coder`.

    Attributes:
        windows: where windows end.
        fuzz: whether they may drop a segment's tail.
        roots: uint64 [256], the cell of each single byte.
        cells: uint64 [c]: of each edge its parent << 48 | child << 32 | where the child's edges are.
        table: the codewords' strings.
    """

    windows: Windows
    fuzz: bool
    roots: U64
    cells: U64
    table: "StringTable"

    def encode(self, data: U8, offsets: I64, marks: U8) -> tuple[U32, U16, I64]:
        """Code documents laid end to end.

        Args:
            data: uint8 [n].
            offsets: int64 [d + 1], bounds of the documents.
            marks: uint8 [n], not 0 where a segment starts; a document's first byte starts one in any case.

        Returns:
            Codewords uint32 [s], spans uint16 [s] (raw bytes of each, at least 1), and int64 [d], symbols of each
            document. Each document is coded as if alone. Memory that is written: 6 bytes a symbol.
        """
        from compressor_model import kernels

        codes, spans = np.empty(len(data), np.uint32), np.empty(len(data), np.uint16)
        counts = np.empty(len(offsets) - 1, np.int64)
        written = kernels.walk(
            data, offsets, marks, self.roots, self.cells, self.windows == "segment", self.windows == "packed",
            FUZZ_SHARE if self.fuzz else 0, codes, spans, counts,
        )  # fmt: skip
        return codes[:written], spans[:written], counts

    def decode(self, ids: U32) -> bytes:
        """The strings of codewords, uint32 [s], each below 2^bits: the bytes, but for what `fuzz` dropped."""
        return self.table.concatenate(ids)


_SPARE = 8  # bytes that `kernels.concatenate` may touch beyond a string's end


@dataclass(frozen=True, eq=False)
class StringTable:
    """Strings by number, for decoding: the codebook's, or a tokenizer's.

    Attributes:
        strings: uint8, end to end, and `_SPARE` more.
        starts: int32 [v].
        lengths: uint16 [v].
    """

    strings: U8
    starts: I32
    lengths: U16

    @classmethod
    def of(cls, strings: Sequence[bytes]) -> "StringTable":
        """Lay out strings, each below 64 KiB."""
        lengths = np.array([len(string) for string in strings], np.int64)
        joined = np.frombuffer(b"".join(strings) + bytes(_SPARE), np.uint8)
        return cls(joined, (np.cumsum(lengths) - lengths).astype(np.int32), lengths.astype(np.uint16))

    @classmethod
    def of_codebook(cls, codebook: Codebook) -> "StringTable":
        """As `of(codebook.strings())`, without 65,536 Python objects."""
        from compressor_model import kernels

        ends = np.cumsum(codebook.depth, dtype=np.int64)
        starts = (ends - codebook.depth).astype(np.int32)
        strings = np.zeros(int(ends[-1]) + _SPARE, np.uint8)
        kernels.spell(codebook.depth, codebook.last, starts, strings)
        return cls(strings, starts, codebook.depth)

    def concatenate(self, ids: U32) -> bytes:
        """The strings of ids, uint32 [s], one after another."""
        from compressor_model import kernels

        size = int(self.lengths[ids].sum(dtype=np.int64))
        out = np.empty(size + _SPARE, np.uint8)
        kernels.concatenate(ids, self.strings, self.starts, self.lengths, out)
        return out[:size].tobytes()

    def differing(
        self, ids: U32, first_id: int, counts: I64, data: U8, offsets: I64, spans: U16 | None = None, share: int = 0
    ) -> npt.NDArray[np.bool_]:
        """Which documents the strings of their ids do not spell: bool [d], without decoding into memory.

        Args:
            ids: uint32 [s], of all documents; the string of number n is `first_id` + n, any other id is a difference.
            first_id: see above.
            counts: int64 [d], ids of each document.
            data: uint8 [n], documents end to end.
            offsets: int64 [d + 1], their bounds.
            spans: uint16 [s], bytes of each id with what it dropped; None: its string's.
            share: an id may drop 1 / `share` of its string's length; 0: nothing.
        """
        from compressor_model import kernels

        wrong = np.empty(len(counts), np.bool_)
        covered = np.empty(0, np.uint16) if spans is None else spans
        kernels.differing(
            ids, first_id, counts, covered, share, self.strings, self.starts, self.lengths, data, offsets, wrong
        )
        return wrong


def coder(codebook: Codebook, windows: Windows = "segment", fuzz: bool = False) -> CodebookCoder:
    """Lay out the tables; about 0.1 s at 16 bits once the loops are compiled.

    Raises:
        ValueError: `fuzz` with windows that know no segments.
    """
    if fuzz and windows == "equal-info":
        raise ValueError("fuzz drops the ends of segments, and equal-info windows have none")
    base, cells = _cells(codebook)
    roots = np.flatnonzero(codebook.depth == 1)
    return CodebookCoder(
        windows=windows,
        fuzz=fuzz,
        roots=_with_base(roots, base),
        cells=(cells >> np.uint32(16)).astype(np.uint64) << np.uint64(48) | _with_base(cells & np.uint32(0xFFFF), base),
        table=StringTable.of_codebook(codebook),
    )


def _with_base(codes: npt.NDArray[np.integer[Any]], base: I32) -> U64:
    return codes.astype(np.uint64) << np.uint64(32) | base[codes].astype(np.uint64)


def _cells(codebook: Codebook) -> tuple[I32, U32]:
    from compressor_model import kernels

    parents = codebook.parents()
    inner = np.flatnonzero(parents >= 0)
    children = np.bincount(parents[inner], minlength=len(parents))
    # groups of siblings, largest first (ties: smaller parent), siblings by byte
    order = inner[np.lexsort((inner, parents[inner], -children[parents[inner]]))]
    first = np.flatnonzero(np.diff(parents[order], prepend=-1, append=-1)).astype(np.int64)
    # The last codeword of the preorder is a leaf, so its number marks a free cell; it gets cells of its own (of
    # parent 0), where it will not find itself.
    empty = np.uint32((len(parents) - 1) << 16)
    size = 2 * len(parents) + 512
    while True:
        base, cells = np.zeros(len(parents), np.int32), np.full(size, empty, np.uint32)
        used = kernels.build_cells(parents, codebook.last, order, first, base, cells, int(empty))
        if used >= 0:
            base[-1] = used
            return base, np.append(cells[:used], np.zeros(256, np.uint32))
        size *= 2
