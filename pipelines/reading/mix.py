"""Several corpora as one: a TOML file that names them, with weights and caps, and how much of each is taken.

    [corpora.code]
    corpus = "s3://bucket/code"     # any corpus; a relative path is relative to this file
    weight = 2.0                    # share of the result's bytes, against the other weights: all have one, or none
    max_bytes = "100GB"             # take at most this
    format = "jsonl"                # like --format and --include, for this corpus
    include = ["*.jsonl.zst"]

Bytes are those of the files as they are stored. Corpora are cut down, never repeated: what is taken is the largest
total in which the caps and the weights hold. `takes` says how much that is; `plan.py` then takes blocks of
each corpus in the order of their draws until there is enough, so caps and weights hold to within one block each
(about 1 MiB; a compressed file is one block, however large) and what is left out is never read.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import isfinite
from pathlib import PurePath
from typing import Any

from pipelines.planning.sizes import parse_size
from pipelines.reading.inputs import local_place, refuse_nul
from pipelines.remote_file import DEADLINE_SECONDS, REQUEST_SECONDS
from schemas.errors import UserError
from schemas.remote import filesystem, is_remote, repeated
from schemas.secrets import redacted

SUFFIX = ".toml"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""Of a corpus: it becomes the first part of `source`, and a `group`."""

_KEYS = ("corpus", "weight", "max_bytes", "format", "include")
_NO_PATHS = ("stdlib", "site-packages")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A corpus of a mix as the file names it.

    Attributes:
        name: see `NAME`.
        spec: of the corpus; a relative path already joined to the file's folder.
        weight: its share of the result against the other weights; None: there are no weights.
        max_bytes: its cap, in stored bytes.
        format: as `--format`; None: that option's.
        include: as `--include`; None: that option's.
    """

    name: str
    spec: str
    weight: float | None = None
    max_bytes: int | None = None
    format: str | None = None
    include: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A corpus of a mix as it was listed.

    Attributes:
        name, spec, weight, max_bytes: as in `Entry`.
        include: as in `Entry`, or the option's.
        root: of its files.
        files: their number.
        listed_bytes: their stored bytes.
        taken_bytes: how much of that is taken; blocks are taken until there is as much.
    """

    name: str
    spec: str
    weight: float | None
    max_bytes: int | None
    include: tuple[str, ...]
    root: str
    files: int
    listed_bytes: int
    taken_bytes: int

    def description(self) -> dict[str, Any]:
        """For the dataset's description: no credentials, no place of this machine but what the user named."""
        fields = asdict(self)
        del fields["root"], fields["include"]
        return {**fields, "spec": redacted(self.spec)}


def read_mix(spec: str) -> list[Entry] | None:
    """The corpora of a mix, sorted by name; None if this is no file whose name ends in .toml.

    Raises:
        UserError: the file is not TOML, names no corpora, or what it says cannot be.
    """
    if not spec.lower().endswith(SUFFIX):
        return None
    refuse_nul(spec)
    try:
        document = tomllib.loads(_read(spec).decode())
    except UserError:
        raise
    except OSError:
        return None  # whoever lists it says what is wrong
    except (ValueError, RecursionError) as error:
        raise UserError(f"{redacted(spec)}: not TOML ({error}); mend the file that names the corpora") from None
    corpora = document.get("corpora")
    if corpora is None:  # a misspelt table more often than a text
        raise UserError(
            f"{redacted(spec)}: has no tables [corpora.NAME], which name the corpora; as a document a .toml file comes "
            "by its folder or a glob only"
        )
    try:
        entries = _entries(document, corpora, spec)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{redacted(spec)}: {error}") from None
    return sorted(entries, key=lambda entry: entry.name)


def _read(spec: str) -> bytes:
    if not is_remote(spec):
        return local_place(spec).read_bytes()
    fs, path = filesystem(spec)
    data: bytes = repeated(
        lambda: fs.cat_file(path), spec, request_seconds=REQUEST_SECONDS, deadline_seconds=DEADLINE_SECONDS
    )
    return data


def _entries(document: dict[str, Any], corpora: Any, spec: str) -> list[Entry]:
    if not isinstance(corpora, dict) or not corpora or len(document) > 1:
        raise ValueError("holds tables [corpora.NAME] and nothing else; see docs/corpora.md")
    entries = [_entry(name, fields, spec) for name, fields in corpora.items()]
    weighted = [entry.name for entry in entries if entry.weight is not None]
    if weighted and len(weighted) < len(entries):
        without = next(entry.name for entry in entries if entry.weight is None)
        raise ValueError(f"{weighted[0]!r} has a weight and {without!r} has none; give all corpora one, or none")
    return entries


def _entry(name: str, fields: Any, spec: str) -> Entry:
    place = f"[corpora.{name}]"
    if not NAME.fullmatch(name):
        raise ValueError(f"{place}: a name is lower-case letters and digits, then also '-' and '_'")
    if not isinstance(fields, dict) or not isinstance(fields.get("corpus"), str) or not fields["corpus"]:
        raise ValueError(f'{place}: needs corpus = "...", a path, URL, stdlib or site-packages')
    unknown = [key for key in fields if key not in _KEYS]
    if unknown:
        raise ValueError(f"{place}: unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}")
    if fields["corpus"].lower().endswith(SUFFIX):
        raise ValueError(f"{place}: a mix holds no other mix; name its corpora here")
    weight, form, include = fields.get("weight"), fields.get("format"), fields.get("include")
    if weight is not None and not (type(weight) in (int, float) and isfinite(weight) and weight > 0):
        raise ValueError(f"{place}: weight {weight!r} is not a positive number")
    if form is not None and not isinstance(form, str):
        raise ValueError(f"{place}: format {form!r} is not a string")
    if isinstance(include, str):
        include = [include]
    if include is not None and not (isinstance(include, list) and all(isinstance(item, str) for item in include)):
        raise ValueError(f"{place}: include is a list of patterns")
    return Entry(
        name=name,
        spec=_joined(spec, fields["corpus"]),
        weight=weight,
        max_bytes=None if "max_bytes" not in fields else _size(fields["max_bytes"], place),
        format=form,
        include=None if include is None else tuple(include),
    )


def _joined(mix: str, spec: str) -> str:
    """A relative path, seen from the folder of the file that names it."""
    if "://" in spec or spec in _NO_PATHS or spec.startswith("~") or PurePath(spec).is_absolute():
        return spec
    folder = mix.rpartition("/")[0]
    return f"{folder}/{spec}" if folder else spec


def _size(value: Any, place: str) -> int:
    if type(value) is int and value > 0:
        return value
    if not isinstance(value, str):
        raise ValueError(f'{place}: max_bytes {value!r} is not a size; give bytes, or "100GB", "512MiB"')
    return parse_size(value, f"{place}: max_bytes")


def takes(entries: Sequence[Entry], listed: Sequence[int]) -> list[int]:
    """How many bytes of each corpus are taken: the largest total in which caps and weights hold.

    Args:
        entries: of the mix.
        listed: stored bytes of each.

    Raises:
        UserError: a corpus with a weight has no bytes.
    """
    capped = [
        size if entry.max_bytes is None else min(size, entry.max_bytes)
        for entry, size in zip(entries, listed, strict=True)
    ]
    weights = [Fraction(entry.weight) for entry in entries if entry.weight is not None]
    if not weights:
        return capped
    for entry, size in zip(entries, capped, strict=True):
        if not size:
            raise UserError(f"corpus {entry.name!r}: has no bytes, so weights cannot hold; leave it out")
    scale = min(size / weight for size, weight in zip(capped, weights, strict=True))
    return [max(1, int(scale * weight)) for weight in weights]
