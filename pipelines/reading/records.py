"""From one record of an input to documents: which field is the text, what is kept, how long ones are cut.

Owns the options of reading, the closed set of reasons why a record is refused, and what JSONL and Parquet have
in common. Pure; no I/O.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from pipelines.reading.documents import EXCERPT_BYTES, Document, Reject
from pipelines.reading.inputs import InputError, InputFile, printable
from pipelines.reading.pieces import pieces
from schemas.draws import document_id
from schemas.errors import UserError

RefusalReason = Literal[
    "invalid-utf8",
    "lone-surrogate",
    "invalid-json",
    "not-an-object",
    "missing-field",
    "wrong-type",
    "record-too-long",
]
_LISTED_NAMES = 20
"""Keys or columns that a detail lists: enough to see the right one, short enough for a line."""

_SHORT_NUMBER = 16
"""Characters of a number that no parser rounds: a float tells any 15 digits apart, and there is a point among them."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How records become documents.

    Attributes:
        field: key or column of the text; None: the first of `text` and `content` (in Parquet then `raw`, so that
            our own datasets are inputs too).
        group_field: key or column of the group; None: in a mix the name of the corpus, else the file extension of a
            text file, jsonl or parquet.
        keep_columns: keys or columns to keep beside the text; of a dataset of ours by default those it has.
        max_document_bytes: longer documents are cut into pieces; those of a dataset of ours stay as they are cut.
        max_record_bytes: longer JSON lines are rejected without being held.
    """

    field: str | None = None
    group_field: str | None = None
    keep_columns: tuple[str, ...] = ()
    max_document_bytes: int = 8 << 20
    max_record_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        if not 1 <= self.max_document_bytes < 1 << 31:  # Arrow's offsets within a binary column are int32
            raise UserError(f"--max-document-bytes: {self.max_document_bytes} is not from 1 to 2^31 - 1")
        if self.max_record_bytes < 1:
            raise UserError(f"--max-record-bytes: {self.max_record_bytes} is not positive")


class RefusalError(Exception):
    """A record that is no document, by one of the closed set of reasons."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def documents_of(
    raw: bytes, source: str, record: int, group: str, kept: Mapping[str, str | None], limit: int
) -> Iterator[Document]:
    """The document, or its pieces of at most `limit` bytes, all with the doc_id of the whole."""
    doc_id = document_id(raw)
    parts: Iterable[bytes] = (raw,) if len(raw) <= limit else pieces(raw, limit)
    for piece, part in enumerate(parts):
        yield Document(
            doc_id=doc_id,
            source=source,
            record=record,
            piece=piece,
            group=group,
            raw=part,
            kept=kept,
            whole_bytes=len(raw),
        )


def default_group(file: InputFile) -> str:
    """The group of a document that names none itself."""
    return file.corpus or (file.extension if file.format == "text" else file.format)


def rejected(
    source: str, record: int, error: RefusalError | InputError, excerpt: bytes = b"", lost_bytes: int = 0
) -> Reject:
    """The reject of a refused record (stage parse) or of the rest of an input (stage read; a wrong column: parse)."""
    return Reject(
        source=source,
        record=record,
        stage="parse" if isinstance(error, RefusalError) else "read",
        reason=error.reason,
        detail=error.detail,
        excerpt=excerpt[:EXCERPT_BYTES],
        lost_bytes=lost_bytes,
    )


Told = str | None | RefusalError
"""A kept or group value as text, or why it cannot be told: of a batch of values one must not refuse the others."""


def told(value: Told) -> str | None:
    """The text.

    Raises:
        RefusalError: there is none.
    """
    if isinstance(value, RefusalError):
        raise value
    return value


def missing_field(wanted: tuple[str, ...], present: list[str], kind: str) -> RefusalError:
    """The refusal that names what was looked for and what is there."""
    listed = ", ".join(printable(name[:60]) for name in present[:_LISTED_NAMES]) or "none"
    more = f" and {len(present) - _LISTED_NAMES} more" if len(present) > _LISTED_NAMES else ""
    return RefusalError("missing-field", f"no {' or '.join(map(repr, wanted))} (or null); {kind}: {listed}{more}")


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number that may not be what Python makes of it: its digits."""

    text: str

    @property
    def is_rounded(self) -> bool:
        """Whether the float of these digits is written as another number."""
        value = float(self.text)
        if len(self.text) <= _SHORT_NUMBER and "e" not in self.text.lower():
            return False
        try:
            return not math.isfinite(value) or Decimal(self.text) != Decimal(repr(value))
        except InvalidOperation:  # an exponent that is too long
            return True


def exact_int(text: str) -> int | Number:
    """An integer of JSON, which Python refuses beyond 4,300 digits and takes long over before."""
    return int(text) if len(text) <= _SHORT_NUMBER else Number(text)


def may_be_rounded(value: object) -> bool:
    """Whether a value holds a float: orjson makes one of each number that is no 64-bit integer."""
    return any(isinstance(one, float) for one in _scalars(value))


def is_rounded(value: object) -> bool:
    """Whether a value holds a number that Python would write as another."""
    return any(isinstance(one, Number) and one.is_rounded for one in _scalars(value))


def _scalars(value: object) -> Iterator[object]:
    """What is in a JSON value but for keys; without recursion, which ends at a thousand levels."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending += one.values()
        elif isinstance(one, list):
            pending += one
        else:
            yield one


def as_text(value: object, name: str) -> str | None:
    """A kept or group value: strings as they are, None as None, anything else as compact JSON.

    JSON has no NaN and no infinities: these are `NaN`, `Infinity` and `-Infinity`, within others in quotes.

    Args:
        value: as its format's reader gives it.
        name: of the key or column, for the refusal.

    Raises:
        RefusalError: wrong-type, nested more deeply than Python can write.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return json.dumps(value)
    try:
        return printable(_json(value))
    except RecursionError:
        raise RefusalError("wrong-type", f"{name!r} is nested too deeply to be kept as text; leave it out") from None


def _json(value: object) -> str:
    try:
        return _dumps(value)
    except ValueError:  # a number that the standard library cannot write
        return _by_hand(value)


class _Written(str):
    """A piece of JSON, not a string of a value."""

    __slots__ = ()


def _laid_out(start: str, items: list[tuple[str, object]], end: str) -> Iterator[object]:
    """What a list or object is written as, the last first."""
    yield _Written(end)
    for index, (before, inner) in reversed(list(enumerate(items))):
        yield inner
        yield _Written(("," if index else "") + before)
    yield _Written(start)


def _by_hand(value: object) -> str:
    """Without recursion, and with numbers as they are."""
    parts: list[str] = []
    pending: list[object] = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, _Written):
            parts.append(one)
        elif isinstance(one, dict):
            pending += _laid_out("{", [(f"{_dumps(key)}:", inner) for key, inner in one.items()], "}")
        elif isinstance(one, list | tuple):
            pending += _laid_out("[", [("", inner) for inner in one], "]")
        elif isinstance(one, Number):
            parts.append(one.text if one.is_rounded else json.dumps(float(one.text)))
        elif isinstance(one, float) and not math.isfinite(one):
            parts.append(f'"{json.dumps(one)}"')
        else:
            parts.append(_dumps(one))
    return "".join(parts)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_as_json, allow_nan=False)


def _as_json(value: object) -> str:
    if isinstance(value, Number):
        raise ValueError("a number that only `_by_hand` writes")
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
