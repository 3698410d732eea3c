"""What readers hand to the encoder: documents (or pieces of long ones) and rejects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["read", "parse", "filter", "encode", "decode"]

EXCERPT_BYTES = 256
"""Rejects keep this much of the offending bytes: enough to recognise a record, never a copy of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One row of a shard before its comp view exists.

    Attributes:
        doc_id: blake2b-128 of the whole document's raw bytes (16 bytes), the same for each of its pieces.
        source: input file, relative to the corpus root; in a mix behind the name of its corpus.
        record: byte offset of the line (JSONL, in decompressed bytes), row index (Parquet), 0 (text).
        piece: 0-based number of the piece of a cut document; 0 for others.
        group: key of per-source figures.
        raw: the bytes of this piece.
        kept: the `--keep-columns` values: strings as they are, anything else as JSON text, None if absent.
        whole_bytes: of the whole document, of which `raw` may be a piece; 0 where no filter will ask.
    """

    doc_id: bytes
    source: str
    record: int
    piece: int
    group: str
    raw: bytes
    kept: Mapping[str, str | None] = field(default_factory=dict)
    whole_bytes: int = field(default=0, compare=False)

    @property
    def key(self) -> tuple[bytes, bytes, int, int]:
        """The order of rows within a run of a shard."""
        return (self.doc_id, self.source.encode("utf-8", "surrogateescape"), self.record, self.piece)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A document (or the unreadable rest of an input) that did not become a row.

    Attributes:
        source, record, piece: as in `Document`.
        stage: where it failed.
        reason: a short fixed word, the key of the counts (`invalid-utf8`, `missing-field`, ...).
        detail: one line for a person.
        excerpt: at most `EXCERPT_BYTES` of the offending bytes.
        lost_bytes: of the input as it is stored, which are not read because of this: one reject may stand for a whole
            file. 0 where it stands for a record.
    """

    source: str
    record: int
    piece: int = 0
    stage: Stage
    reason: str
    detail: str
    excerpt: bytes = b""
    lost_bytes: int = 0
