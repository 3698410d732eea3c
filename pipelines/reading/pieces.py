"""Cuts documents longer than a limit into pieces: at the last newline, else a UTF-8 boundary, else a byte.

Input: a document's bytes, whole (`pieces`) or as chunks (`stream_pieces`); output: pieces of 1 to `limit` bytes
whose concatenation is the document. Where the cuts lie depends on the bytes and the limit alone. A streamed
document needs `limit` bytes plus one chunk of memory; about 1 GB/s.
"""

from collections.abc import Iterable, Iterator

_MAX_BACKTRACK = 3
"""Continuation bytes of the longest UTF-8 character."""


def pieces(raw: bytes, limit: int) -> Iterator[bytes]:
    """The pieces of a document that is in memory; the document itself if it is not too long, even if empty."""
    start = 0
    while len(raw) - start > limit:
        end = _cut(raw, start, limit)
        yield raw[start:end]
        start = end
    if start < len(raw) or not raw:
        yield raw[start:]


def stream_pieces(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """The pieces of the concatenated chunks, the same as `pieces` of it."""
    buffer = bytearray()
    cut = False
    for chunk in chunks:
        buffer += chunk
        while len(buffer) > limit:
            end = _cut(buffer, 0, limit)
            with memoryview(buffer) as view:
                piece = bytes(view[:end])
            yield piece
            del buffer[:end]  # CPython moves the start, it does not copy the rest
            cut = True
    if buffer or not cut:
        yield bytes(buffer)


def _cut(data: bytes | bytearray, start: int, limit: int) -> int:
    """End of the piece that starts at `start`; data must hold at least one byte more than `limit` from there."""
    full = start + limit
    newline = data.rfind(b"\n", start, full)
    if newline >= 0:
        return newline + 1
    end = full
    while end > full - _MAX_BACKTRACK and end > start and data[end] & 0xC0 == 0x80:
        end -= 1
    if end == start or data[end] & 0xC0 == 0x80:
        return full  # not UTF-8, or the limit is below one character
    return end
