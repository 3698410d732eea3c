"""The documents that an evaluation is about: held-out ones of a dataset, with their group and the views it needs."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from schemas.errors import UserError
from trainer.checkpoints.restore import Restored
from trainer.data.dataset import Dataset
from trainer.data.held_out import sample

By = Literal["group", "source"]
"""What documents are put together by: the dataset's group (by default the file extension), or their input file."""

GROUPS = 20
"""Rows of a table, at most."""

Item = TypeVar("Item")


class Grouped(Protocol):
    """What can be put together: a group and bytes."""

    @property
    def group(self) -> str:
        """Its name."""

    @property
    def raw(self) -> bytes:
        """By which groups are ranked."""


Member = TypeVar("Member", bound=Grouped)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A document that is not empty.

    Attributes:
        key: doc_id, record, piece and source: unique in a dataset.
        doc_id: hex; pieces of a document share it.
        group: or source, whichever was asked for.
        raw: its bytes.
        comp: its comp view, vocabulary ids int32 [symbols]; None if it was not asked for.
        spans: bytes of each symbol, uint16 [symbols]; None if it was not asked for, or there are none.
    """

    key: str
    doc_id: str
    group: str
    raw: bytes
    comp: npt.NDArray[np.int32] | None = None
    spans: npt.NDArray[np.uint16] | None = None


def dataset_of(run: str, restored: Restored, data: str | None) -> Dataset:
    """The dataset that is meant: the one given, else the run's first.

    Raises:
        UserError: the run does not say, or there is no dataset there.
    """
    url = data or next(iter(restored.config["data"]), None)
    if url is None:
        raise UserError(f"RUN={run}: does not say what it was trained on; give --data")
    return Dataset(url)


def check_proxy(run: str, restored: Restored, dataset: Dataset, remedy: str) -> None:
    """See that a dataset's symbols are those that a model was trained on.

    Raises:
        UserError: they are of another proxy.
    """
    same = restored.vocabulary == dataset.vocabulary
    known = (restored.fingerprint or "unknown")[:8]
    if not same or restored.fingerprint not in (None, dataset.fingerprint):
        raise UserError(
            f"DATA={dataset.url}: its symbols are of another proxy ({dataset.proxy_name}, {dataset.fingerprint[:8]}) "
            f"than those of RUN={run} ({restored.vocabulary.proxy}, {known}); {remedy}"
        )


def texts_of(
    dataset: Dataset,
    val_fraction: float | None,
    count: int | None = None,
    columns: tuple[str, ...] = ("raw",),
    by: By = "group",
) -> list[Text]:
    """Documents of a dataset that are not empty, as many different ones as there are (`sample`), in stored order.

    Args:
        dataset: whose keys are read until there are enough.
        val_fraction: only documents held out by it; None: all there are.
        count: at most so many; None: no bound.
        columns: raw, comp and spans, as far as they are needed.
        by: what `group` is.

    Raises:
        UserError: the dataset is damaged, or there is no such document.
    """  # fmt: skip
    found = list(_read(dataset, val_fraction, count, columns, by))
    if not found:
        if val_fraction is None:
            raise UserError(f"DATA={dataset.url}: no document that is not empty")
        raise UserError(
            f"DATA={dataset.url}: no held-out documents at val_fraction {val_fraction}; train with a larger"
        )
    return found


def _read(
    dataset: Dataset, val_fraction: float | None, count: int | None, columns: tuple[str, ...], by: By
) -> Iterator[Text]:
    chosen = sample(dataset, val_fraction, count=sys.maxsize if count is None else count)
    for ordinal, numbers in chosen.items():
        rows = dataset.read(ordinal, columns)
        groups = dataset.groups(ordinal) if by == "group" else None
        for row in numbers:
            key, document = rows.keys[row], rows.document(row)
            assert document.raw is not None, "every evaluation asks for it"
            yield Text(
                key=f"{key.doc_id.hex()} {key.record} {key.piece} {key.source}",
                doc_id=key.doc_id.hex(),
                group=key.source if groups is None else groups[row],
                raw=document.raw.tobytes(),
                # copies: a slice would keep its whole row group in memory
                comp=_copy(document.comp) if "comp" in columns else None,
                spans=_copy(document.spans) if "spans" in columns else None,
            )


def _copy(column: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
    return None if column is None else column.copy()


def grouped(texts: Iterable[Member], most: int = GROUPS) -> dict[str, list[Member]]:
    """Documents by group, the group with the most bytes first; beyond so many groups the rest is "(others)"."""
    found: dict[str, list[Member]] = {}
    for text in texts:
        found.setdefault(text.group or "(none)", []).append(text)
    names = sorted(found, key=lambda name: (-sum(len(text.raw) for text in found[name]), name))
    if len(names) <= most:
        return {name: found[name] for name in names}
    kept = {name: found[name] for name in names[: most - 1]}
    return {**kept, "(others)": [text for name in names[most - 1 :] for text in found[name]]}


class OfDocument(Protocol):
    """What is a document or a piece of one."""

    @property
    def doc_id(self) -> str:
        """Of the document."""


def counted(texts: Sequence[OfDocument]) -> dict[str, int]:
    """How many pieces there are, and of how many documents; where these are stored whole, as many."""
    return {"pieces": len(texts), "documents": len({text.doc_id for text in texts})}


def count_column(row: Mapping[str, Any]) -> str:
    """Which of `counted` a table has, whose heading tells the other: pieces where documents have several."""
    return "pieces" if row["pieces"] > row["documents"] else "documents"


def how_many(row: Mapping[str, Any], kind: str) -> str:
    """The same in words, such as 400 pieces of 101 held-out documents."""
    pieces = f"{row['pieces']:,} pieces of " if row["pieces"] > row["documents"] else ""
    return f"{pieces}{row['documents']:,} {kind}"


def watched(items: Iterable[Item], word: str, *, total: int, done: int = 0) -> Iterator[Item]:
    """The items one by one, with a line on standard error that says how far they are, if it is a terminal.

    Args:
        items: those that are left.
        word: what they are.
        total: of them, those that are done included.
        done: of them before.
    """
    shown = sys.stderr.isatty()
    for number, item in enumerate(items, done + 1):
        yield item
        if shown:
            sys.stderr.write(f"\r{number:,} of {total:,} {word}")
    if shown:
        sys.stderr.write("\r\033[K")
