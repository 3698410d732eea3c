"""What general compressors make of the same documents: yardsticks that everybody knows.

Each document is compressed alone, as a model is asked about it, headers included: on documents of 500 bytes
these are .3 (gzip) to .9 (xz) bits a byte. xz also gets all documents as one stream, where it may look at all that came
before; the models may not.
"""

import gzip
import lzma
from collections.abc import Callable, Sequence

import zstandard


def _filters(preset: int, size: int) -> list[dict[str, int]]:
    # a dictionary of the text's size gives the same bytes with a hundredth of the preset's memory
    most = min(64 << 20, max(4096, 1 << (size - 1).bit_length()))
    return [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": most}]


ALONE: dict[str, Callable[[bytes], int]] = {
    "gzip -9": lambda raw: len(gzip.compress(raw, 9, mtime=0)),
    "zstd -19": lambda raw: len(zstandard.ZstdCompressor(level=19).compress(raw)),
    "xz -6": lambda raw: len(lzma.compress(raw, filters=_filters(6, len(raw)))),
}
"""Compressed size in bytes, by name."""

TOGETHER = "xz -9, one stream"


def sizes(raw: bytes) -> dict[str, int]:
    """Compressed sizes in bytes of one document, by compressor."""
    return {name: size(raw) for name, size in ALONE.items()}


def together(documents: Sequence[bytes]) -> int:
    """Compressed size in bytes of the documents as one stream."""
    compressor = lzma.LZMACompressor(filters=_filters(9, sum(map(len, documents))))
    return sum(len(compressor.compress(raw)) for raw in documents) + len(compressor.flush())
