"""Which different texts get the same code, and how much they differ.

A *code* is what codes by itself: a symbol with the symbols after it that cover no bytes (of the range coder, all
symbols of a segment; of the others, one symbol). A *chunk* is the raw bytes that a code covers at some place. A code
with several chunks collides: its most frequent chunk (ties: the first in byte order) is its usual one, the others
are *colliding*. Two chunks are compared by LCP / longer: the length of their longest common prefix over the length
of the longer one.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from compressor_model.text import batches
from pipelines.measure.bootstrap import rounded
from pipelines.measure.results import Collisions, Count, Example, FuzzinessOf
from pipelines.proxies import EncodedBatch, Proxy
from pipelines.proxies.base import slices

BATCH_BYTES = 1 << 20
BINS = 10
EXAMPLES = 12

ALIKE = (4, 5)
"""LCP / longer of 4/5 and more: the paper's figure for chunks that differ in their tails only."""

NEWLINES, BLANKS = frozenset(b"\r\n"), frozenset(b" \t")
_CLASSES = {
    "newline only": NEWLINES,
    "spaces and tabs": BLANKS,
    "newline and indentation": NEWLINES | BLANKS,
    "letters": frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "digits": frozenset(b"0123456789"),
    "punctuation": frozenset(b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
}
OTHER = "other"
DIFFERENCES = (*_CLASSES, OTHER)
"""What differs after the common prefix: all bytes of both tails are of the first class that holds them."""

Uses = Counter[tuple[bytes, bytes]]
"""How often each (code, chunk) occurs; a code is its ids' uint32 bytes."""


def fuzziness_of(name: str, proxy: Proxy, documents: Sequence[bytes]) -> FuzzinessOf | None:
    """Encode documents and count collisions; None for a proxy whose symbols cover no definite bytes."""
    uses: Uses = Counter()
    symbols = dropped = 0
    for batch in batches(documents, BATCH_BYTES):
        encoded = proxy.encode_batch(batch)
        if encoded is None or encoded.spans is None:
            return None
        uses.update(uses_of(batch, encoded))
        symbols += len(encoded.ids)
        dropped += encoded.dropped_bytes
    return {
        "variant": name,
        "lossless": proxy.lossless,
        "raw_bytes": sum(map(len, documents)),
        "symbols": symbols,
        "dropped_bytes": dropped,
        **collisions(uses),
    }


def uses_of(documents: Sequence[bytes], encoded: EncodedBatch) -> Uses:
    """The codes of an encoded batch with their chunks; see the module.

    Args:
        documents: what was encoded.
        encoded: their views, with spans.
    """
    assert encoded.spans is not None
    first = np.flatnonzero(encoded.spans)
    lengths = np.diff(first, append=len(encoded.ids))
    codes = slices(encoded.ids.astype("<u4").tobytes(), 4 * lengths)
    return Counter(zip(codes, slices(b"".join(documents), encoded.spans[first].astype(np.int64)), strict=True))


def common_prefix(one: bytes, other: bytes) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(at for at in range(shorter) if one[at] != other[at])


def difference(one: bytes, other: bytes) -> str:
    """Which of `DIFFERENCES` follows the common prefix of two different chunks."""
    shared = common_prefix(one, other)
    tails = set(one[shared:] + other[shared:])
    return next((name for name, members in _CLASSES.items() if tails <= members), OTHER)


def least_shared(chunks: Sequence[bytes]) -> float:
    """The least LCP / longer over all pairs of different chunks, of which there are at least two.

    No pair shares less than all do, and the longest chunk shares just that with some other: so the least is what all
    share over the longest. What all share is what the first and the last in byte order do.
    """
    return common_prefix(min(chunks), max(chunks)) / max(map(len, chunks))


def collisions(uses: Uses) -> Collisions:
    """Count collisions; see the module for the terms."""
    chunks_of: dict[bytes, list[bytes]] = {}
    for code, chunk in uses:
        chunks_of.setdefault(code, []).append(chunk)
    shared = {code: chunks for code, chunks in chunks_of.items() if len(chunks) > 1}
    colliding, alike = _nothing(), _nothing()
    histogram = [_nothing() for _ in range(BINS)]
    differences = {name: _nothing() for name in DIFFERENCES}
    found: list[tuple[int, bytes, bytes]] = []
    for code, chunks in shared.items():
        usual = min(chunks, key=lambda chunk: (-uses[code, chunk], chunk))
        for other in chunks:
            if other == usual:
                continue
            occurrences = uses[code, other]
            prefix, longer = common_prefix(usual, other), max(len(usual), len(other))
            _add(colliding, occurrences)
            _add(histogram[min(BINS - 1, BINS * prefix // longer)], occurrences)
            _add(differences[difference(usual, other)], occurrences)
            if ALIKE[1] * prefix >= ALIKE[0] * longer:
                _add(alike, occurrences)
            found.append((-occurrences, usual, other))
    return {
        "chunks": uses.total(),
        "distinct_chunks": len({chunk for _, chunk in uses}),
        "codes": len(chunks_of),
        "shared_codes": len(shared),
        "colliding": colliding,
        "alike": alike,
        "least_shared": rounded(min(map(least_shared, shared.values()))) if shared else None,
        "histogram": histogram,
        "differences": differences,
        "examples": [_example(*one) for one in sorted(found)[:EXAMPLES]],
    }


def _nothing() -> Count:
    return {"unique": 0, "occurrences": 0}


def _add(count: Count, occurrences: int) -> None:
    count["unique"] += 1
    count["occurrences"] += occurrences


def _example(negative: int, usual: bytes, other: bytes) -> Example:
    shared = common_prefix(usual, other) / max(len(usual), len(other))
    return {"usual": _shown(usual), "other": _shown(other), "occurrences": -negative, "shared": rounded(shared)}


def _shown(chunk: bytes) -> str:
    try:
        return repr(chunk.decode())
    except UnicodeDecodeError:
        return repr(chunk)
