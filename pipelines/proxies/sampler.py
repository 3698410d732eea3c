"""Seeded samples of a corpus: what tokenizers and compressors are trained and tried on."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.reading.corpus import Corpus
from pipelines.reading.documents import Document
from pipelines.reading.filters import Filters
from pipelines.reading.plan import permuted_blocks
from pipelines.reading.records import ReadOptions
from pipelines.selection import kept
from schemas.digests import digest_of
from schemas.draws import may_fit


@dataclass(frozen=True)
class Sampler:
    """Documents of a corpus in the order of its permuted blocks: any prefix is a seeded sample.

    Attributes:
        corpus: what to sample.
        read: how documents are read.
        filters: which are left out; duplicates are not.
    """

    corpus: Corpus
    read: ReadOptions
    filters: Filters = field(default_factory=Filters)

    def documents(self) -> Iterator[Document]:
        """All documents that filters keep (pieces of long ones); rejects are left out."""
        for _, item in kept(permuted_blocks(self.corpus), self.read, self.filters):
            if isinstance(item, Document):
                yield item

    def training(self, limit: int) -> Iterator[bytes]:
        """Documents that may be fitted on, `limit` bytes of them."""
        size = 0
        for document in self.documents():
            if may_fit(document.doc_id):
                yield document.raw
                size += len(document.raw)
                if size >= limit:
                    return

    def identity(self) -> dict[str, Any]:
        """What decides the sample: the key of caches."""
        versions = [[file.source, file.size, file.version, file.format] for file in self.corpus.inputs]
        read: list[Any] = [self.read.field, self.read.max_document_bytes, self.read.max_record_bytes]
        chosen: dict[str, Any] = {}
        if self.filters != Filters():
            chosen["filters"] = asdict(self.filters)
            read += [self.read.group_field, list(self.read.keep_columns)]  # which filters see
        if self.corpus.parts:
            chosen["mix"] = self.corpus.listing_digest
        return {**chosen, "inputs": digest_of({"files": versions}), "read": read}

    def first(self, limit: int) -> list[bytes]:
        """The first documents, `limit` bytes of them: the last one may be cut."""
        documents: list[bytes] = []
        size = 0
        for document in self.documents():
            documents.append(document.raw[: limit - size])
            size += len(documents[-1])
            if size >= limit:
                break
        return documents
