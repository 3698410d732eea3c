"""The control that must fail: each document's gzip member, one symbol a byte.

The header is written by us (no name, no time, OS unknown), the body is raw deflate of the linked zlib. zlib
builds differ in output, so the fingerprint is taken from the output on a fixed probe.
"""

import hashlib
import zlib

import numpy as np

from pipelines.proxies.base import U32, Encoded, Proxy
from schemas.digests import digest_of
from schemas.vocabulary import COMP_OFFSET, Vocabulary

LEVEL = 9
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"  # deflate, no flags, no mtime, best compression, OS unknown


class GzipProxy(Proxy):
    """gzip -9 of each document; no spans, since a deflate byte covers no definite raw bytes."""

    name = "gzip"
    vocabulary = Vocabulary(proxy="gzip", comp_symbols=256)

    def __init__(self) -> None:
        words = b"".join(b"%d %x\n" % (i * i, i * 2654435761) for i in range(4096))
        probe = hashlib.sha256(_member(words) + _member(bytes(range(256)) * 64)).hexdigest()
        self.fingerprint = digest_of({"proxy": "gzip", "version": 1, "level": LEVEL, "probe": probe})

    def encode(self, raw: bytes) -> Encoded:
        """The bytes of a gzip member at 320 + b."""
        ids = np.frombuffer(_member(raw), np.uint8).astype(np.uint32)
        ids += np.uint32(COMP_OFFSET)
        return Encoded(ids, None)

    def decode(self, ids: U32) -> bytes:
        """Decompress, checksum and length included."""
        if len(ids) and not COMP_OFFSET <= ids.min() <= ids.max() < COMP_OFFSET + 256:
            raise ValueError(f"ids from {ids.min()} to {ids.max()}; those of gzip are {COMP_OFFSET} and 255 more")
        # modulo 256 as the low byte of each id, so that four bytes an id are not copied
        member = (ids.astype(np.uint8) - np.uint8(COMP_OFFSET & 0xFF)).tobytes()
        decompressor = zlib.decompressobj(wbits=31)
        try:
            # no more than the member says that it holds: a few bytes may decode to a thousand times as many
            raw = decompressor.decompress(member, 1 + int.from_bytes(member[-4:], "little"))
        except zlib.error as error:
            raise ValueError(f"not a gzip member: {error}") from None
        if not decompressor.eof or decompressor.unused_data:
            raise ValueError("not one whole gzip member")
        return raw


def _member(raw: bytes) -> bytes:
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    end = zlib.crc32(raw).to_bytes(4, "little") + (len(raw) & 0xFFFFFFFF).to_bytes(4, "little")
    return b"".join((HEADER, deflate.compress(raw), deflate.flush(), end))
