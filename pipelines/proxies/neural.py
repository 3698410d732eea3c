"""The neural proxy: entropy-segmented arithmetic coding by a byte LM, in two forms.

`codebook` (default): the arithmetic code with a fresh context per window, enumerated once; no LM at run time, over
100 MB/s, lossless unless `fuzz` lets windows drop tails. `range`: the paper's literal form, the LM's context running
on inside a segment; not decodable. Segments are cut by the entropy table or by the LM itself. All but a large LM
decides in integers.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compressor_model import encoder
from compressor_model.artefact import Compressor, open_compressor
from compressor_model.encoder import Windows
from compressor_model.model import ByteLM
from compressor_model.range_coder import RangeCoder, cut
from compressor_model.segment import LMSegmenter, Segmenter, TableSegmenter
from compressor_model.text import Text
from pipelines.proxies.base import I64, U8, U32, Encoded, EncodedBatch, Proxy, joined, slices, sums
from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.vocabulary import COMP_OFFSET, Vocabulary

CoderName = Literal["codebook", "range"]
Segmentation = Literal["table", "lm"]
Fuzz = Literal["none", "tail"]
Device = Literal["cpu", "cuda"]

UNITS: dict[Segmentation, int] = {"table": TableSegmenter.units, "lm": LMSegmenter.units}
"""Steps of a threshold in a bit."""

_PART_BYTES = 1 << 17
"""Bytes whose segments are Python objects at a time: 20 MB of them at most; a multiple of `MAX_SEGMENT`."""

_VERSION = 2  # of what the coders make of the same files and parameters

_PROBE = [b"", bytes(range(256)), b"    return self._value\n" * 100]
"""What an LM makes of this stands for it in the fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What decides a neural proxy's symbols besides the compressor's files.

    Attributes:
        coder: codebook or range.
        bits: of a symbol, 12 to 16.
        segmentation: whose entropies cut segments: the table's or the LM's.
        threshold: a segment starts where the entropy is above it, in steps of the segmentation's `units` a bit;
            None: the compressor's own.
        windows: of the codebook: see `compressor_model.encoder`.
        fuzz: of the codebook: tail lets a window drop up to a quarter of its length at a segment's end.
        device: where a large LM runs.
    """

    coder: CoderName = "codebook"
    bits: int = 16
    segmentation: Segmentation = "table"
    threshold: int | None = None
    windows: Windows = "segment"
    fuzz: Fuzz = "none"
    device: Device = "cpu"

    def __post_init__(self) -> None:
        for option, value, known in (
            ("CODER", self.coder, ("codebook", "range")),
            ("SEGMENTATION", self.segmentation, ("table", "lm")),
            ("WINDOWS", self.windows, ("segment", "packed", "equal-info")),
            ("FUZZ", self.fuzz, ("none", "tail")),
            ("--lm-device", self.device, ("cpu", "cuda")),
        ):
            if value not in known:
                raise UserError(f"{option}={value}: unknown; give {' or '.join(known)}")
        if not 12 <= self.bits <= 16:
            raise UserError(f"BITS={self.bits}: symbols have 12 to 16 bits")
        if self.coder == "range" and (self.windows, self.fuzz) != ("segment", "none"):
            raise UserError(
                f"WINDOWS={self.windows} FUZZ={self.fuzz}: these are of the codebook; leave them out with CODER=range"
            )
        if self.windows == "equal-info" and self.fuzz != "none":
            raise UserError("FUZZ=tail: drops the ends of segments, and WINDOWS=equal-info has none; use another")

    @classmethod
    def of(cls, query: dict[str, str]) -> "Parameters":
        """From the options of a URI; others are ignored.

        Raises:
            UserError: a value that is not known.
        """
        values: dict[str, Any] = {name: query[name] for name in cls.__dataclass_fields__ if name in query}
        for name in ("bits", "threshold"):
            if name in values:
                try:
                    values[name] = int(values[name])
                except ValueError:
                    raise UserError(f"neural proxy: {name}={values[name]}: give a number") from None
        return cls(**values)

    def query(self) -> dict[str, str]:
        """The options of a URI, in one spelling."""
        return {name: str(value) for name, value in asdict(self).items() if value is not None}


class NeuralProxy(Proxy):
    """What both coders share: segments, and the vocabulary of 2^bits symbols."""

    name = "neural"

    def __init__(self, compressor: Compressor, parameters: Parameters, lm: ByteLM | None) -> None:
        self.segmenter = _segmenter(compressor, parameters, lm)
        self.parameters = replace(parameters, threshold=self.segmenter.threshold)
        self.vocabulary = Vocabulary(proxy="neural", comp_symbols=1 << parameters.bits)
        names = compressor.files_for(parameters.coder, parameters.bits, parameters.segmentation)
        decides = {**self.parameters.query(), "files": {name: compressor.card["files"].get(name) for name in names}}
        if lm is None:
            del decides["device"]
        else:  # a large LM rounds as its device does; the range coder's words are constriction's
            decides["probe"] = self._probe(lm)
        self.fingerprint = digest_of({"proxy": "neural", "version": _VERSION, **decides})

    def encode(self, raw: bytes) -> Encoded:
        """The comp view; spans are the bytes of each window."""
        batch = self.encode_batch([raw])
        return Encoded(batch.ids, batch.spans, dropped_bytes=batch.dropped_bytes)

    def encode_batch(self, raws: Sequence[bytes]) -> EncodedBatch:
        """As `encode` of each, in one pass."""
        data, offsets = joined(raws)
        return self.encode_marked(data, offsets, self.segmenter.marks(data, offsets))

    @abstractmethod
    def encode_marked(self, data: U8, offsets: I64, marks: U8) -> EncodedBatch:
        """The views of documents end to end whose segments are known; see `Segmenter` for the arrays."""

    @abstractmethod
    def _probe(self, lm: ByteLM) -> str:
        """Digest of what the LM decides, on a fixed input."""


class CodebookProxy(NeuralProxy):
    """Walks the codebook's tree through the segments."""

    def __init__(self, compressor: Compressor, parameters: Parameters) -> None:
        book = compressor.codebook(parameters.bits)
        lm = compressor.lm(parameters.device) if parameters.segmentation == "lm" else None
        super().__init__(compressor, parameters, lm)
        self.lossless = parameters.fuzz == "none"
        self._coder = encoder.coder(book, parameters.windows, fuzz=not self.lossless)

    @property
    def provable(self) -> bool:
        """Always: what a window keeps decodes, and what it drops is bounded."""
        return True

    def encode_marked(self, data: U8, offsets: I64, marks: U8) -> EncodedBatch:
        """See `NeuralProxy`."""
        ids, spans, counts = self._coder.encode(data, offsets, marks)
        dropped = 0 if self.lossless else int((spans - self._coder.table.lengths[ids]).sum(dtype=np.int64))
        ids += np.uint32(COMP_OFFSET)
        return EncodedBatch(ids, spans, counts, dropped_bytes=dropped)

    def decode(self, ids: U32) -> bytes:
        """The strings of the codewords; what windows dropped is not there."""
        return self._coder.decode(self._codewords(ids))

    def decode_batch(self, batch: EncodedBatch) -> list[bytes]:
        """As `decode` of each."""
        codewords = self._codewords(batch.ids)
        return slices(self._coder.decode(codewords), sums(self._coder.table.lengths[codewords], batch.counts))

    def mismatches(self, raws: Sequence[bytes], batch: EncodedBatch) -> npt.NDArray[np.bool_]:
        """Views of which a window does not begin with its codeword's string, or drops more than it may."""
        self._check(batch.ids)
        data, offsets = joined(raws)
        spans, share = (None, 0) if self.lossless else (batch.spans, encoder.FUZZ_SHARE)
        return self._coder.table.differing(batch.ids, COMP_OFFSET, batch.counts, data, offsets, spans, share)

    def _check(self, ids: U32) -> None:
        if len(ids) and not COMP_OFFSET <= int(ids.min()) <= int(ids.max()) < self.vocabulary.size:
            raise ValueError("an id that is no codeword")

    def _codewords(self, ids: U32) -> U32:
        self._check(ids)
        return ids - np.uint32(COMP_OFFSET)

    def _probe(self, lm: ByteLM) -> str:
        return hashlib.sha256(lm.entropies(Text.of(_PROBE)).tobytes()).hexdigest()


class RangeProxy(NeuralProxy):
    """Codes each segment by the byte LM and constriction's range coder."""

    lossless = False

    def __init__(self, compressor: Compressor, parameters: Parameters) -> None:
        lm = compressor.lm(parameters.device)
        self._coder = RangeCoder(lm, parameters.bits)
        super().__init__(compressor, parameters, lm)
        self._coder.forget()

    @property
    def cache_hits(self) -> float:
        """Share of segments so far that were in the cache."""
        return self._coder.hits / max(self._coder.hits + self._coder.misses, 1)

    def encode_marked(self, data: U8, offsets: I64, marks: U8) -> EncodedBatch:
        """See `NeuralProxy`; segments of all documents are coded together, many at a time."""
        coded, spans = [np.empty(0, np.uint32)], [np.empty(0, np.uint16)]
        counts = np.zeros(len(offsets) - 1, np.int64)
        for at, stop in _parts(marks):
            starts = marks[at:stop] != 0
            starts[0] = True
            first = cut(starts)
            lengths = np.diff(first, append=stop - at)
            symbols = self._coder.encode(slices(data[at:stop].tobytes(), lengths))
            coded.append(np.concatenate(symbols) + np.uint32(COMP_OFFSET))
            sizes = np.array([len(one) for one in symbols], np.int64)
            spans.append(np.zeros(len(coded[-1]), np.uint16))
            spans[-1][np.cumsum(sizes) - sizes] = lengths
            np.add.at(counts, np.searchsorted(offsets, first + at, side="right") - 1, sizes)
        return EncodedBatch(np.concatenate(coded), np.concatenate(spans), counts)

    def decode(self, ids: U32) -> bytes:
        """Not possible: bits beyond a segment's information are dropped."""
        raise ValueError("the range coder's symbols cannot be decoded (lossless = False)")

    def _probe(self, lm: ByteLM) -> str:
        coded = [*self._coder.encode(_PROBE[1:])]
        if isinstance(self.segmenter, LMSegmenter):
            coded.append(lm.entropies(Text.of(_PROBE)).astype(np.uint32))
        return hashlib.sha256(np.concatenate(coded).tobytes()).hexdigest()


def _parts(marks: U8) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive parts of `_PART_BYTES` at most, between which `cut` cuts too."""
    at = 0
    while at < len(marks):
        stop = at + _PART_BYTES
        if stop < len(marks):
            inside = np.flatnonzero(marks[at + 1 : stop + 1])
            stop = at + 1 + int(inside[-1]) if len(inside) else stop
        stop = min(stop, len(marks))
        yield at, stop
        at = stop


def load(path: str, query: dict[str, str]) -> NeuralProxy:
    """The proxy of a compressor folder.

    Raises:
        UserError: unknown parameters, or a folder without what they need.
    """
    return build(open_compressor(path), Parameters.of(query))


def build(compressor: Compressor, parameters: Parameters) -> NeuralProxy:
    """As `load`."""
    kind = RangeProxy if parameters.coder == "range" else CodebookProxy
    return kind(compressor, parameters)


def _segmenter(compressor: Compressor, parameters: Parameters, lm: ByteLM | None) -> Segmenter:
    if parameters.segmentation == "lm":
        assert lm is not None
        return LMSegmenter(lm, compressor.lm_threshold if parameters.threshold is None else parameters.threshold)
    return TableSegmenter(compressor.segments(), parameters.threshold)
