"""The neural proxy: entropy-segmented arithmetic coding by a small byte LM, in two forms.

`codebook` (default): the arithmetic code with a fresh context per window, enumerated once; lossless, no LM at
run time, about 100 MB/s. `range`: the paper's literal form, the LM's context running on inside a segment;
not decodable. Both cut segments by the same entropy table. Everything that decides a symbol is integer.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np

from compressor_model import encoder, segment
from compressor_model.artefact import Compressor, open_compressor
from compressor_model.range_coder import RangeCoder, cut
from compressor_model.text import Text
from pipelines.proxies.base import U32, Encoded, EncodedBatch, Proxy, slices, sums
from schemas.errors import UserError
from schemas.manifest import digest_of
from schemas.vocabulary import COMP_OFFSET, Vocabulary

CoderName = Literal["codebook", "range"]


class _NeuralProxy(Proxy):
    name = "neural"
    coder: CoderName

    def __init__(self, compressor: Compressor, bits: int, version: dict[str, int | str]) -> None:
        if not 12 <= bits <= 16:
            raise UserError(f"BITS={bits}: symbols have 12 to 16 bits")
        files = {name: compressor.card["files"].get(name) for name in compressor.files_for(self.coder, bits)}
        self.fingerprint = digest_of(
            {"proxy": "neural", "coder": self.coder, "bits": bits, "windows": "segment", "files": files, **version}
        )
        self.vocabulary = Vocabulary(proxy="neural", comp_symbols=1 << bits)

    def encode(self, raw: bytes) -> Encoded:
        """The comp view; spans are the bytes of each window."""
        batch = self.encode_batch([raw])
        return Encoded(batch.ids, batch.spans)

    @abstractmethod
    def encode_batch(self, raws: Sequence[bytes]) -> EncodedBatch:
        """As `encode` of each."""


class CodebookProxy(_NeuralProxy):
    """Walks the codebook's tree from segment boundary to segment boundary."""

    coder = "codebook"

    def __init__(self, compressor: Compressor, bits: int) -> None:
        book = compressor.codebook(bits)
        super().__init__(compressor, bits, {"version": 1})
        self._coder = encoder.coder(book, compressor.segments())

    def encode_batch(self, raws: Sequence[bytes]) -> EncodedBatch:
        """As `encode` of each, in one compiled pass."""
        offsets = np.zeros(len(raws) + 1, np.int64)
        np.cumsum([len(raw) for raw in raws], out=offsets[1:])
        ids, spans, counts = self._coder.encode(np.frombuffer(b"".join(raws), np.uint8), offsets)
        return EncodedBatch(ids + np.uint32(COMP_OFFSET), spans.copy(), counts)

    def decode(self, ids: U32) -> bytes:
        """The strings of the codewords."""
        return self._coder.decode(self._codewords(ids))

    def decode_batch(self, batch: EncodedBatch) -> list[bytes]:
        """As `decode` of each."""
        codewords = self._codewords(batch.ids)
        return slices(self._coder.decode(codewords), sums(self._coder.table.lengths[codewords], batch.counts))

    def _codewords(self, ids: U32) -> U32:
        codewords = ids - np.uint32(COMP_OFFSET)  # ids below the offset wrap to large numbers
        if len(ids) and int(codewords.max()) >= self.vocabulary.comp_symbols:
            raise ValueError("an id that is no codeword")
        return codewords


class RangeProxy(_NeuralProxy):
    """Codes each segment by the byte LM and constriction's range coder."""

    coder = "range"
    lossless = False

    def __init__(self, compressor: Compressor, bits: int) -> None:
        self._table = compressor.segments()
        self._coder = RangeCoder(compressor.lm(), bits)
        # The coder's words are constriction's: what it makes of this enters the fingerprint.
        probe = np.concatenate(self._coder.encode([bytes(range(256)), b"    return self._value\n"]))
        super().__init__(compressor, bits, {"version": 1, "probe": hashlib.sha256(probe.tobytes()).hexdigest()})
        self._coder.forget()

    @property
    def cache_hits(self) -> float:
        """Share of segments so far that were in the cache."""
        return self._coder.hits / max(self._coder.hits + self._coder.misses, 1)

    def encode_batch(self, raws: Sequence[bytes]) -> EncodedBatch:
        """As `encode` of each; segments of all of them are coded together."""
        text = Text.of(raws)
        first = cut(segment.boundaries(self._table, text.data, text.start))
        lengths = np.diff(first, append=len(text.data))
        symbols = self._coder.encode(slices(text.data.tobytes(), lengths))
        counts = np.array([len(part) for part in symbols], np.int64)
        ids = np.concatenate([*symbols, np.empty(0, np.uint32)]) + np.uint32(COMP_OFFSET)
        spans = np.zeros(len(ids), np.uint16)
        spans[np.cumsum(counts) - counts] = lengths
        ends = np.searchsorted(first, np.cumsum([len(raw) for raw in raws]))
        return EncodedBatch(ids, spans, sums(counts, np.diff(ends, prepend=0)))

    def decode(self, ids: U32) -> bytes:
        """Not possible: bits beyond a segment's information are dropped."""
        raise ValueError("the range coder's symbols cannot be decoded (lossless = False)")


def load(path: str, coder: str, bits: int) -> Proxy:
    """The proxy of a compressor folder.

    Raises:
        UserError: an unknown coder, or a folder without what it needs.
    """
    kinds: dict[str, type[CodebookProxy] | type[RangeProxy]] = {"codebook": CodebookProxy, "range": RangeProxy}
    if coder not in kinds:
        raise UserError(f"CODER={coder}: give codebook or range")
    return kinds[coder](open_compressor(path), bits)
