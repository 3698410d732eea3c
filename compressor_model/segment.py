"""Entropy segmentation: a segment starts where the next byte is hard to predict.

By table (default): the byte LM's entropy, averaged over every occurrence of the last 2..4 bytes, is distilled into one
uint8 table per context length, hashed and with back-off. A boundary so depends on these bytes only: K bytes after an
edit the segments are the same again, which is what makes the proxy stable. Compiled, about 600 MB/s on one core.
By LM: its own entropies, of its full context; the paper's form. In: bytes. Out: a mark per byte.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from compressor_model.model import ENTROPY_UNITS, U16, ByteLM
from compressor_model.text import I64, U8, Text

MIN_CONTEXT, MAX_CONTEXT = 2, 4
TABLE_BITS = 20
UNSEEN = 255
MIN_COUNT = 3
"""A context seen fewer times backs off to a shorter one."""

TABLE_UNITS = 16
"""Table entries are sixteenths of a bit, so that a byte holds any entropy."""

_SHIFT = 64 - TABLE_BITS
_BLOCK = 1 << 20


class Segmenter(Protocol):
    """Where segments start."""

    @property
    def name(self) -> Literal["table", "lm"]:
        """Whose entropies."""
        ...

    @property
    def units(self) -> int:
        """Steps of entropies and threshold in a bit."""
        ...

    @property
    def threshold(self) -> int:
        """A segment starts where the entropy is greater."""
        ...

    def entropies(self, data: U8, offsets: I64) -> U8 | U16:
        """Entropy before each byte, [n] in `units`.

        Args:
            data: uint8 [n], documents end to end.
            offsets: int64 [d + 1], their bounds.
        """
        ...

    def marks(self, data: U8, offsets: I64) -> U8:
        """1 where a segment starts, at each document's first byte too, else 0: uint8 [n]; arguments as above."""
        ...


@dataclass(frozen=True, kw_only=True)
class EntropyTable:
    """Mean entropy of the next byte by context, in sixteenths of a bit.

    Attributes:
        tables: uint8 [K, 2^TABLE_BITS], K = 2..4; row k - 1 is indexed by the hash of the last k bytes
            (bytes before the document are 0); UNSEEN means back off.
        fallback: entropy where no context was seen.
        threshold: a segment starts where the entropy is greater than this (and at byte 0).

    Raises:
        ValueError: tables of another shape; the compiled loops check no bounds.
    """

    tables: U8
    fallback: int
    threshold: int

    def __post_init__(self) -> None:
        orders, size = self.tables.shape
        if not MIN_CONTEXT <= orders <= MAX_CONTEXT or size != 1 << TABLE_BITS:
            raise ValueError(
                f"entropy tables of shape {self.tables.shape}: not {MIN_CONTEXT} to {MAX_CONTEXT} of 2^{TABLE_BITS}"
            )


class TableSegmenter:
    """Segments by an entropy table.

    Args:
        table: the table.
        threshold: in sixteenths of a bit; default the table's.
    """

    name: Literal["table"] = "table"
    units = TABLE_UNITS

    def __init__(self, table: EntropyTable, threshold: int | None = None) -> None:
        self.table = table
        self.threshold = table.threshold if threshold is None else threshold

    def entropies(self, data: U8, offsets: I64) -> U8:
        """By the longest context that was seen, uint8 [n]; see `Segmenter`."""
        from compressor_model import kernels

        values = np.empty(len(data), np.uint8)
        kernels.table_entropies(data, offsets, self.table.tables, self.table.fallback, _SHIFT, values)
        return values

    def marks(self, data: U8, offsets: I64) -> U8:
        """See `Segmenter`; one byte of memory per byte."""
        values = self.entropies(data, offsets)
        return marks_above(values, self.threshold, offsets, out=values.view(np.bool_))


@dataclass(frozen=True)
class LMSegmenter:
    """Segments by a byte LM's own entropies.

    Attributes:
        model: the byte LM.
        threshold: in 1/256 bit.
    """

    name: ClassVar[Literal["lm"]] = "lm"
    units: ClassVar[int] = ENTROPY_UNITS
    model: ByteLM
    threshold: int

    def entropies(self, data: U8, offsets: I64) -> U16:
        """The model's, uint16 [n]; see `Segmenter`."""
        return self.model.entropies(_text(data, offsets))

    def marks(self, data: U8, offsets: I64) -> U8:
        """See `Segmenter`."""
        return marks_above(self.entropies(data, offsets), self.threshold, offsets)


def distil(values: U16, text: Text, mean_segment: float, context_bytes: int) -> EntropyTable:
    """Average a byte LM's full-context entropies by context; set the threshold by the wanted segment length.

    Args:
        values: uint16 [n], the model's `entropies` of the text.
        text: n bytes of training text; about 3 MB fill the tables, more refine them.
        mean_segment: wanted mean segment length in bytes; the threshold gives the least reachable one above.
        context_bytes: K, 2..4: how many bytes a boundary depends on.
    """
    from compressor_model import kernels

    offsets = text.offsets
    sums = np.zeros((context_bytes, 1 << TABLE_BITS), np.int64)
    counts = np.zeros_like(sums)
    kernels.sum_by_context(text.data, offsets, values, _SHIFT, sums, counts)
    scale = TABLE_UNITS / ENTROPY_UNITS
    mean = np.clip(np.rint(sums / np.maximum(counts, 1) * scale), 0, UNSEEN - 1)
    overall = int(values.sum(dtype=np.int64)) / max(len(values), 1)
    table = EntropyTable(
        tables=np.where(counts >= MIN_COUNT, mean, UNSEEN).astype(np.uint8),
        fallback=min(round(overall * scale), UNSEEN - 1),
        threshold=UNSEEN,
    )
    return replace(table, threshold=threshold_for(TableSegmenter(table).entropies(text.data, offsets), mean_segment))


def threshold_for(values: U8 | U16, mean_segment: float) -> int:
    """The least threshold whose mean segment over these entropies is at least as long as wanted.

    At least, and not nearest: on text so repetitive that segments of 1 or of 40 bytes are all there is, short ones
    would be no compression.
    """
    steps = int(np.iinfo(values.dtype).max) + 1
    counts = np.zeros(steps, np.int64)
    for at in range(0, len(values), _BLOCK):  # bincount makes int64 of what it counts
        counts += np.bincount(values[at : at + _BLOCK], minlength=steps)
    above = len(values) - np.cumsum(counts)
    return int(np.flatnonzero(above * mean_segment <= len(values))[0])


def marks_above(values: U8 | U16, threshold: int, offsets: I64, out: npt.NDArray[np.bool_] | None = None) -> U8:
    """`Segmenter.marks` of entropies that are known, uint8 [n]; `out`, bool [n], may be memory of theirs."""
    marks: npt.NDArray[np.bool_] = np.greater(values, threshold, out=out)
    marks[offsets[:-1][np.diff(offsets) > 0]] = True
    return marks.view(np.uint8)


def _text(data: U8, offsets: I64) -> Text:
    if len(offsets) == 2:  # a long document comes alone: its starts need not take 8 bytes a byte
        return Text(data, np.broadcast_to(offsets[0], len(data)))
    return Text(data, np.repeat(offsets[:-1], np.diff(offsets)))
