"""The proof of comp views: before a view is written it must stand for its document, whatever the proxy.

In: a proxy, documents, their views. Out: nothing, or the reason. About 250 MB/s with the neural codebook.
"""

import numpy as np

from pipelines.proxies.base import EncodedBatch, Proxy, sums
from schemas.vocabulary import BYTE_OFFSET


class ProofError(ValueError):
    """A comp view that does not stand for its document."""


def prove(proxy: Proxy, raws: list[bytes], batch: EncodedBatch) -> None:
    """Check views against their documents: ids, spans, and that decoding gives the document.

    Where a proxy drops bytes by a rule, decoding gives what the rule keeps; what cannot be decoded has its structure
    checked only.

    Raises:
        ProofError: naming the first document that fails.
    """
    ids, spans, counts = batch.ids, batch.spans, batch.counts
    if len(counts) != len(raws) or int(counts.sum()) != len(ids):
        raise ProofError(f"{len(counts)} views of {int(counts.sum())} symbols for {len(raws)} documents")
    if len(ids) and not BYTE_OFFSET <= int(ids.min()) <= int(ids.max()) < proxy.vocabulary.size:
        raise ProofError(f"ids {int(ids.min())}..{int(ids.max())} leave the vocabulary of {proxy.vocabulary.size}")
    if spans is not None:
        first = np.cumsum(counts)[counts > 0] - counts[counts > 0]
        lengths = np.array([len(raw) for raw in raws], np.int64)
        if len(spans) != len(ids) or (sums(spans, counts) != lengths).any() or (spans[first] == 0).any():
            raise ProofError("spans do not add up to the document, or the first is 0")
    wrong = np.flatnonzero(proxy.mismatches(raws, batch))
    if len(wrong):
        raise ProofError(f"document {wrong[0]} of the batch ({len(raws[wrong[0]])} bytes) decodes to other bytes")
