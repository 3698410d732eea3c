"""The codebook coder: bytes to codewords and spans, segmentation and tree walk fused in one compiled loop.

From each segment boundary the tree is walked until the next boundary or a missing child; the node reached is the
codeword. A segment longer than a window takes several. One look-up in the entropy table and one in the tree per
byte. About 100 MB/s on one core, under 10 MB of tables. Decoding is a list look-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressor_model.codebook import Codebook
from compressor_model.model import I64, U8
from compressor_model.segment import TABLE_BITS, UNSEEN, EntropyTable, slots

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class CodebookCoder:
    """A codebook and an entropy table in the form that the compiled loops read; made by `coder`."""

    starts3: U8
    starts2: U8
    roots: U16
    base: I32
    cells: U32
    table: "StringTable"

    def encode(self, data: U8, offsets: I64) -> tuple[U32, U16, I64]:
        """Code documents laid end to end.

        Args:
            data: uint8 [n].
            offsets: int64 [d + 1], bounds of the documents.

        Returns:
            Codewords uint32 [s], spans uint16 [s] (raw bytes of each, at least 1), and int64 [d], symbols of each
            document.
        """
        from compressor_model import kernels

        ids, spans = np.empty(len(data), np.uint32), np.empty(len(data), np.uint16)
        counts = np.empty(len(offsets) - 1, np.int64)
        written = kernels.encode(
            data, offsets, self.starts3, self.starts2, 64 - TABLE_BITS, self.roots, self.base, self.cells,
            ids, spans, counts,
        )  # fmt: skip
        return ids[:written], spans[:written], counts

    def decode(self, ids: U32) -> bytes:
        """The bytes of codewords, uint32 [s], each below 2^bits."""
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

    def concatenate(self, ids: U32) -> bytes:
        """The strings of ids, uint32 [s], one after another."""
        from compressor_model import kernels

        size = int(self.lengths[ids].sum(dtype=np.int64))
        out = np.empty(size + _SPARE, np.uint8)
        kernels.concatenate(ids, self.strings, self.starts, self.lengths, out)
        return out[:size].tobytes()


def coder(codebook: Codebook, table: EntropyTable) -> CodebookCoder:
    """Lay out the tables; about 0.1 s at 16 bits once the loops are compiled."""
    starts3, starts2 = _start_tables(table)
    base, cells = _cells(codebook)
    return CodebookCoder(
        starts3=starts3,
        starts2=starts2,
        roots=np.flatnonzero(codebook.depth == 1).astype(np.uint16),
        base=base,
        cells=cells,
        table=StringTable.of(codebook.strings()),
    )


def _start_tables(table: EntropyTable) -> tuple[U8, U8]:
    """Whether a segment starts, by hash of 3 bytes (2: not seen) and by the last 2 bytes themselves."""
    longest = table.tables[2]
    starts3 = np.where(longest == UNSEEN, 2, longest > table.threshold).astype(np.uint8)
    pairs = np.arange(1 << 16)
    index = slots(np.stack([pairs >> 8, pairs & 255], axis=1).astype(np.uint8))
    value = np.full(1 << 16, table.fallback, np.uint8)
    for k in range(2):
        found = table.tables[k][index[:, k]]
        value = np.where(found == UNSEEN, value, found)
    return starts3, (value > table.threshold).astype(np.uint8)


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
