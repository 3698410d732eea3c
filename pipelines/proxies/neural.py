"""The neural proxy: entropy-segmented arithmetic coding by a byte LM, in two forms.

`codebook` (default): the arithmetic code with a fresh context per window, enumerated once; no LM at run time, over
100 MB/s, lossless unless `fuzz` lets windows drop tails. `range`: the paper's literal form, the LM's context running
on inside a segment; not decodable. Segments are cut by the entropy table or by the LM itself. All but a large LM
decides in integers.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
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
from pipelines.proxies.base import I64, U8, U32, Encoded, EncodedBatch, Proxy, slices, sums
from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.vocabulary import COMP_OFFSET, Vocabulary

CoderName = Literal["codebook", "range"]
Segmentation = Literal["table", "lm"]
Fuzz = Literal["none", "tail"]
Device = Literal["cpu", "cuda"]

UNITS: dict[Segmentation, int] = {"table": TableSegmenter.units, "lm": LMSegmenter.units}
"""Steps of a threshold in a bit."""

_CODED_SEGMENTS = 1 << 16
"""Segments that are Python objects at a time: some 20 MB."""

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
        codewords, spans, counts = self._coder.encode(data, offsets, marks)
        dropped = 0 if self.lossless else int((spans - self._coder.table.lengths[codewords]).sum(dtype=np.int64))
        return EncodedBatch(codewords + np.uint32(COMP_OFFSET), spans, counts, dropped_bytes=dropped)

    def decode(self, ids: U32) -> bytes:
        """The strings of the codewords; what windows dropped is not there."""
        return self._coder.decode(self._codewords(ids))

    def decode_batch(self, batch: EncodedBatch) -> list[bytes]:
        """As `decode` of each."""
        codewords = self._codewords(batch.ids)
        return slices(self._coder.decode(codewords), sums(self._coder.table.lengths[codewords], batch.counts))

    def mismatches(self, raws: Sequence[bytes], batch: EncodedBatch) -> npt.NDArray[np.bool_]:
        """Views of which a window does not begin with its codeword's string, or drops more than it may."""
        if self.lossless or batch.spans is None:
            return super().mismatches(raws, batch)
        lengths = self._coder.table.lengths[self._codewords(batch.ids)].astype(np.int64)
        dropped = batch.spans - lengths
        bad = sums((dropped < 0) | (dropped > lengths // encoder.FUZZ_SHARE), batch.counts) > 0
        dropped = np.maximum(dropped, 0)
        keep = np.ones(sum(map(len, raws)), bool)
        ends = np.repeat(np.cumsum(batch.spans, dtype=np.int64), dropped)
        places = ends - 1 - (np.arange(len(ends)) - np.repeat(np.cumsum(dropped) - dropped, dropped))
        keep[places[places < len(keep)]] = False
        data = np.frombuffer(b"".join(raws), np.uint8)
        kept = slices(data[keep].tobytes(), sums(keep, np.array([len(raw) for raw in raws], np.int64)))
        decoded = self.decode_batch(batch)
        return bad | np.array([a != b for a, b in zip(kept, decoded, strict=True)], bool)

    def _codewords(self, ids: U32) -> U32:
        codewords = ids - np.uint32(COMP_OFFSET)  # ids below the offset wrap to large numbers
        if len(ids) and int(codewords.max()) >= self.vocabulary.comp_symbols:
            raise ValueError("an id that is no codeword")
        return codewords

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
        first = cut(marks.view(bool))
        lengths = np.diff(first, append=len(data))
        coded, counts = [np.empty(0, np.uint32)], np.empty(len(first), np.int64)
        for at in range(0, len(first), _CODED_SEGMENTS):
            part = lengths[at : at + _CODED_SEGMENTS]
            begin = int(first[at])
            symbols = self._coder.encode(slices(data[begin : begin + int(part.sum())].tobytes(), part))
            coded.append(np.concatenate(symbols))
            counts[at : at + len(part)] = [len(one) for one in symbols]
        ids = np.concatenate(coded) + np.uint32(COMP_OFFSET)
        spans = np.zeros(len(ids), np.uint16)
        spans[np.cumsum(counts) - counts] = lengths
        ends = np.searchsorted(first, offsets[1:])
        return EncodedBatch(ids, spans, sums(counts, np.diff(ends, prepend=0)))

    def decode(self, ids: U32) -> bytes:
        """Not possible: bits beyond a segment's information are dropped."""
        raise ValueError("the range coder's symbols cannot be decoded (lossless = False)")

    def _probe(self, lm: ByteLM) -> str:
        coded = [*self._coder.encode(_PROBE[1:])]
        if isinstance(self.segmenter, LMSegmenter):
            coded.append(lm.entropies(Text.of(_PROBE)).astype(np.uint32))
        return hashlib.sha256(np.concatenate(coded).tobytes()).hexdigest()


def joined(raws: Sequence[bytes]) -> tuple[U8, I64]:
    """Documents end to end: uint8 [n], and their bounds, int64 [d + 1]."""
    offsets = np.zeros(len(raws) + 1, np.int64)
    np.cumsum([len(raw) for raw in raws], out=offsets[1:])
    return np.frombuffer(b"".join(raws), np.uint8), offsets


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
