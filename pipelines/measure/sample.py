"""The text that is measured: seeded pieces of documents, or whole documents up to a size."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.measure.edits import characters
from pipelines.proxies.base import U32
from pipelines.proxies.sampler import Sampler
from pipelines.reading.documents import Document
from schemas.draws import may_fit
from schemas.errors import UserError

MIN_BYTES = 64
"""Shorter documents have nothing to edit."""

_PLACE = 0


@dataclass(frozen=True)
class Piece:
    """A piece of a document.

    Attributes:
        text: uint32 [n], its characters, see `edits.characters`.
        doc_id: of the document, 16 bytes.
        group: of the document.
        source: the first folder, or else the file, that the document is from.
    """

    text: U32
    doc_id: bytes
    group: str
    source: str

    def rng(self, seed: int, *purpose: int) -> np.random.Generator:
        """Draws about this document for one purpose: the same whatever else is sampled."""
        return np.random.default_rng([seed, *purpose, int.from_bytes(self.doc_id)])


def pieces(sampler: Sampler, *, count: int, length: int, seed: int, all_documents: bool) -> list[Piece]:
    """Pieces of at most `length` characters, one a document at most, each at a drawn place.

    Raises:
        UserError: no document is long enough.
    """
    found: dict[bytes, Piece] = {}
    for document in _documents(sampler, all_documents):
        if document.doc_id in found or len(document.raw) < MIN_BYTES:
            continue
        whole = Piece(characters(document.raw), document.doc_id, document.group, document.source.split("/")[0])
        start = int(whole.rng(seed, _PLACE).integers(0, max(1, len(whole.text) - length + 1)))
        text = whole.text[start : start + length].copy()  # a view would keep the document
        found[document.doc_id] = Piece(text, whole.doc_id, whole.group, whole.source)
        if len(found) == count:
            break
    if not found:
        raise _nothing(sampler, f"document of {MIN_BYTES} bytes or more", all_documents)
    return list(found.values())


def documents(sampler: Sampler, *, limit: int, all_documents: bool) -> list[bytes]:
    """The first documents of the corpus in its drawn order, `limit` bytes of them; the last may be cut.

    Raises:
        UserError: there is no text.
    """
    found: list[bytes] = []
    size = 0
    for document in _documents(sampler, all_documents):
        if document.raw:
            found.append(document.raw[: limit - size])
            size += len(found[-1])
        if size >= limit:
            break
    if not found:
        raise _nothing(sampler, "document with text", all_documents)
    return found


def _documents(sampler: Sampler, all_documents: bool) -> Iterator[Document]:
    return (document for document in sampler.documents() if all_documents or not may_fit(document.doc_id))


def _nothing(sampler: Sampler, what: str, all_documents: bool) -> UserError:
    if all_documents:
        return UserError(f"CORPUS={sampler.corpus.spec}: no {what}; give a larger corpus")
    return UserError(
        f"CORPUS={sampler.corpus.spec}: no held-out {what}; use --all-documents (figures are then flattered where a "
        "proxy was fitted to them)"
    )
