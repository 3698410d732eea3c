"""Which documents are left out: too short, too long, or refused by a user's function. Whole documents, not pieces.

A filter is a function `Document -> bool` (True keeps) that an installed package registers:

    [project.entry-points."proxy_compression.filters"]
    no-licence = "my_package.filters:no_licence"

It sees the document's fields with `raw` at most `--max-document-bytes` long: of a longer one the first piece, whose
answer holds for all of them, while `whole_bytes` is the size of the whole. What is left out is counted by name, each
piece of a cut document as one. Who the filter is (name, distribution and version, digest of its module's file) is part
of the job's identity and is checked by each worker; what its module imports, only the version can tell.
"""

import hashlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.reading.documents import EXCERPT_BYTES, Document, Reject
from pipelines.reading.inputs import printable
from schemas.errors import UserError, one_line

ENTRY_POINTS = "proxy_compression.filters"

TOO_SHORT = "keep-min-bytes"
TOO_LONG = "keep-max-bytes"
DUPLICATE = "duplicate"
"""Why a document was left out, beside the names of filters; the first two are the options that say so."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")

Filter = Callable[[Document], bool]


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Which documents are kept.

    Attributes:
        keep_min_bytes: documents of fewer bytes are left out.
        keep_max_bytes: documents of more bytes are left out; default: none are.
        filter: names of filters that installed packages register; a document is kept if all say so.
    """

    keep_min_bytes: int = 0
    keep_max_bytes: int | None = None
    filter: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.keep_min_bytes < 0:
            raise UserError(f"--keep-min-bytes: {self.keep_min_bytes} is negative")
        if self.keep_max_bytes is not None and self.keep_max_bytes < self.keep_min_bytes:
            raise UserError(f"--keep-max-bytes: {self.keep_max_bytes} is less than --keep-min-bytes, so none is kept")
        if len(set(self.filter)) < len(self.filter):
            raise UserError("--filter: a name is given twice; give each once")

    def resolve(self) -> "Filters":
        """The filters themselves, found among those that are registered here.

        Raises:
            UserError: a name is unknown or cannot be one, or its module cannot be imported.
        """
        named = tuple(_identified(_entry(name)) for name in self.filter)
        return Filters(min_bytes=self.keep_min_bytes, max_bytes=self.keep_max_bytes, named=named)


@dataclass(frozen=True)
class Named:
    """Who a filter is.

    Attributes:
        name: of the entry point.
        distribution: that registers it, and `version`.
        module_digest: SHA-256 (hex) of the file of the module that holds the function; empty if it has none.
    """

    name: str
    distribution: str
    version: str
    module_digest: str


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a worker leaves out; small and picklable. By default nothing.

    Attributes:
        min_bytes, max_bytes: as in `FilterOptions`.
        named: the user's filters, in the order in which they are asked.
    """

    min_bytes: int = 0
    max_bytes: int | None = None
    named: tuple[Named, ...] = ()

    def why_not(self, document: Document) -> str | Reject | None:
        """Why a document is left out; None: it is kept.

        Args:
            document: whole, or the first piece of a cut one.

        Returns:
            The name of the filter that refused it; a reject if a filter raised an error or did not answer with a bool.

        Raises:
            UserError: a filter is not here, or another than the job was planned with.
            OSError, MemoryError: what a filter met that a retry may cure.
        """
        if document.whole_bytes < self.min_bytes:
            return TOO_SHORT
        if self.max_bytes is not None and document.whole_bytes > self.max_bytes:
            return TOO_LONG
        for one in self.named:
            keeps = _load(one)
            try:
                answer = keeps(document)
                if not isinstance(answer, bool | np.bool_):
                    raise TypeError(f"answered {type(answer).__name__}, not True or False")
            except (MemoryError, OSError, KeyboardInterrupt):
                raise  # the machine's fault, not the document's: a retry gives it
            except BaseException as error:  # noqa: BLE001 - whatever it raises, a panic of Rust too, is about this document
                return Reject(
                    source=document.source,
                    record=document.record,
                    piece=document.piece,
                    stage="filter",
                    reason="filter-error",
                    detail=printable(f"{one.name}: {one_line(error)}")[:300],
                    excerpt=document.raw[:EXCERPT_BYTES],
                )
            if not answer:
                return one.name
        return None


def names() -> list[str]:
    """Filters that installed packages register."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def _entry(name: str) -> EntryPoint:
    if name in (TOO_SHORT, TOO_LONG, DUPLICATE) or not _NAME.fullmatch(name):
        raise UserError(f"--filter {name}: no name for a filter; register it under another")
    found = [entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == name]
    if not found:
        there = ", ".join(names()) or "none"
        raise UserError(f"--filter {name}: unknown; registered (entry points {ENTRY_POINTS}): {there}")
    if len({entry.value for entry in found}) > 1:
        places = ", ".join(sorted({entry.value for entry in found}))
        raise UserError(f"--filter {name}: registered more than once ({places}); uninstall all but one")
    return found[0]


def _identified(entry: EntryPoint) -> Named:
    try:
        spec = importlib.util.find_spec(entry.module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - importing the packages around it runs their code
        raise _not_importable(entry, error) from None
    if spec is None:
        raise _not_importable(entry, ModuleNotFoundError(f"no module {entry.module}"))
    path = Path(spec.origin or "")
    distribution = entry.dist
    return Named(
        name=entry.name,
        distribution=distribution.name if distribution is not None else "",
        version=distribution.version if distribution is not None else "",
        module_digest=hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
    )


@lru_cache(maxsize=64)
def _load(named: Named) -> Filter:
    entry = _entry(named.name)
    here = _identified(entry)
    if here != named:
        raise UserError(
            f"--filter {named.name}: this worker has {here.distribution} {here.version}, not the filter that the job "
            f"was planned with ({named.distribution} {named.version}); install the same package everywhere"
        )
    try:
        found: Any = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a user's module
        raise _not_importable(entry, error) from None
    if not callable(found):
        raise UserError(f"--filter {named.name}: {entry.value} is no function")
    keeps: Filter = found
    return keeps


def _not_importable(entry: EntryPoint, error: BaseException) -> UserError:
    return UserError(f"--filter {entry.name}: {entry.value} cannot be imported ({one_line(error)[:200]})")
