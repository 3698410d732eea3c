"""Receipts and the manifest: sealed JSON files that say what a dataset holds.

A receipt is the commit record of one work unit; the manifest is written last, from all receipts. Both carry the
SHA-256 of all their other fields under "digest", so a flipped byte in them is noticed. Nothing here is a
timestamp except the inputs' modification times in receipts, which enter no dataset digest.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.names import SHARD_NAME
from schemas.shard import FORMAT_VERSION, check_version
from schemas.vocabulary import Vocabulary


def seal(fields: dict[str, Any]) -> bytes:
    """The file form: the fields and their digest, one key a line, and one item a line in lists of objects."""
    sealed = {**fields, "digest": digest_of(fields)}
    lines = []
    for key, value in sealed.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(_line(item) for item in value) + "\n ]"
        else:
            text = _line(value)
        lines.append(f" {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def unseal(data: bytes, path: str) -> dict[str, Any]:
    """The fields of a sealed file without the digest.

    Raises:
        UserError: not JSON, no digest, or a digest that does not fit.
        FormatVersionError: of a format version that this program does not read.
    """
    try:
        fields = json.loads(data)
        digest = fields.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: damaged (not a sealed JSON file: {type(error).__name__})") from None
    version = fields.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        check_version(version, path)  # whose digests may be another format's too
    if digest != digest_of(fields):
        raise UserError(f"{path}: damaged (its content does not match its digest)")
    check_version(fields.get("format_version"), path)
    return dict(fields)


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


@dataclass(frozen=True, kw_only=True)
class RowGroupEntry:
    """One row group: where its bytes are and what they hold; `digests` is the hex of 16 bytes a column chunk."""

    offset: int
    length: int
    rows: int
    raw_bytes: int
    comp_symbols: int
    digests: str


@dataclass(frozen=True, kw_only=True)
class RejectsEntry:
    """The rejects file of a unit."""

    name: str
    size: int
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard's line in the manifest.

    Attributes:
        footer_digest: SHA-256 of the bytes from the footer's start to the end of the file.
        content_digest: blake2b-256 over (doc_id, raw, comp, spans) in row order; the same across library versions.
    """

    name: str
    size: int
    sha256: str
    footer_digest: str
    content_digest: str
    rows: int
    raw_bytes: int
    comp_symbols: int
    row_groups: int


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The commit record of a unit: it is done iff this exists and the files it names have these sizes and digests.

    Attributes:
        unit_digest: digest of everything that decides the unit's bytes; its first 8 hex digits are in the names.
        documents: documents read; equals shard.rows + rejects.rows + duplicates + all filtered.
        escaped_bytes: raw bytes that the proxy could only escape (bpe).
        dropped_bytes: raw bytes that symbols cover and do not code (neural with fuzz).
        rejected: rejects by reason.
        duplicates: documents left out because an equal one comes before (--dedupe).
        filtered: documents left out by each filter.
        retries: remote calls that were made again.
        inputs: [path, size, version] of each input file, version being its mtime or etag.
        seconds: wall time by stage, for people.
        input_bytes: of the unit, as they are stored; 0 in receipts of earlier versions.
        lost_bytes: of these, in inputs that could not be read (further): one reject may stand for a whole file.
    """

    unit: int
    units: int
    unit_digest: str
    shard: ShardEntry
    rejects: RejectsEntry
    documents: int
    escaped_bytes: int
    rejected: dict[str, int]
    inputs: list[list[Any]]
    row_groups: list[RowGroupEntry]
    seconds: dict[str, float] = field(default_factory=dict)
    dropped_bytes: int = 0
    duplicates: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    input_bytes: int = 0
    lost_bytes: int = 0

    @property
    def accounted(self) -> int:
        """Documents whose fate is known: rows, rejects, duplicates, filtered."""
        return self.shard.rows + self.rejects.rows + self.duplicates + sum(self.filtered.values())

    @property
    def largest_input(self) -> list[Any]:
        """That of `inputs` with the largest size; an empty path if there is none."""
        return max(self.inputs, key=lambda row: row[1], default=["", 0, ""])

    def to_bytes(self) -> bytes:
        """The sealed file."""
        return seal({"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes, path: str) -> "Receipt":
        """Inverse of `to_bytes`.

        Raises:
            UserError: damaged, or of another version.
        """
        fields = unseal(data, path)
        fields.pop("format_version")
        try:
            fields["shard"] = ShardEntry(**fields["shard"])
            fields["rejects"] = RejectsEntry(**fields["rejects"])
            fields["row_groups"] = [RowGroupEntry(**entry) for entry in fields["row_groups"]]
            receipt = cls(**fields)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not a receipt ({error})") from None
        _check_names([receipt.shard], [receipt.rejects], path)
        return receipt


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over the shards; documents = rows + rejects + duplicates + filtered, exactly."""

    documents: int
    rows: int
    rejects: int
    raw_bytes: int
    comp_symbols: int
    escaped_bytes: int
    stored_bytes: int
    dropped_bytes: int = 0
    duplicates: int = 0
    filtered: int = 0

    @property
    def accounted(self) -> int:
        """Documents whose fate is known: rows, rejects, duplicates, filtered."""
        return self.rows + self.rejects + self.duplicates + self.filtered


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished dataset holds; the last file written.

    Attributes:
        dataset: the configuration (corpus, listing digest, options, proxy, library versions, lock digest).
        rejected: rejects by reason.
        row_groups_sha256: of meta/row_groups.parquet.
    """

    dataset: dict[str, Any]
    vocabulary: Vocabulary
    totals: Totals
    rejected: dict[str, int]
    shards: list[ShardEntry]
    rejects: list[RejectsEntry]
    row_groups_sha256: str

    def to_bytes(self) -> bytes:
        """The sealed file."""
        return seal({"format_version": FORMAT_VERSION, **asdict(self), "vocabulary": self.vocabulary.to_json()})

    @classmethod
    def from_bytes(cls, data: bytes, path: str) -> "Manifest":
        """Inverse of `to_bytes`.

        Raises:
            UserError: damaged, or of another version.
        """
        fields = unseal(data, path)
        fields.pop("format_version")
        try:
            manifest = cls(
                dataset=fields["dataset"],
                vocabulary=Vocabulary.from_json(fields["vocabulary"]),
                totals=Totals(**fields["totals"]),
                rejected=fields["rejected"],
                shards=[ShardEntry(**entry) for entry in fields["shards"]],
                rejects=[RejectsEntry(**entry) for entry in fields["rejects"]],
                row_groups_sha256=fields["row_groups_sha256"],
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not a manifest ({error})") from None
        _check_names(manifest.shards, manifest.rejects, path)
        return manifest


def _check_names(shards: Iterable[ShardEntry], rejects: Iterable[RejectsEntry], path: str) -> None:
    """Names become paths: a file from elsewhere must not lead out of the dataset's folder."""
    names = [(entry.name, "") for entry in shards] + [(entry.name, "rejects/") for entry in rejects]
    for name, folder in names:
        if not (isinstance(name, str) and name.startswith(folder) and SHARD_NAME.fullmatch(name[len(folder) :])):
            raise UserError(f"{path}: names {name!r}, which is no file of a dataset; it is damaged or not ours")
