"""Seeded edits of a text: characters deleted, inserted or substituted, at a rate or once.

Text is handled as code points, uint32 [n]. A byte that is no UTF-8 is a character of its own, so that any bytes can
be edited. What is inserted or substituted is drawn from the text's own characters, so that it stays text of its kind.
"""

from typing import Literal, get_args

import numpy as np

from pipelines.proxies.base import I64, U32

Kind = Literal["deletion", "insertion", "substitution"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def characters(raw: bytes) -> U32:
    """Code points of bytes, uint32 [n]; a byte b that is no UTF-8 is 0xDC00 + b, as in Python's surrogateescape."""
    text = raw.decode("utf-8", "surrogateescape")
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32)


def to_bytes(text: U32) -> bytes:
    """Inverse of `characters`."""
    return text.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogateescape")


def edit(text: U32, kind: Kind, rate: float, rng: np.random.Generator) -> U32:
    """Edit each character (insertion: before each) with probability `rate`.

    Args:
        text: uint32 [n], n at least 1.
        kind: of the edits.
        rate: in (0, 1).
        rng: decides.

    Returns:
        uint32 [m], the edited text.
    """
    return _at(text, kind, np.flatnonzero(rng.random(len(text)) < rate), rng)


def edit_once(text: U32, kind: Kind, rng: np.random.Generator) -> U32:
    """One edit at a place drawn uniformly; else as `edit`."""
    return _at(text, kind, rng.integers(0, len(text), 1), rng)


def _at(text: U32, kind: Kind, places: I64, rng: np.random.Generator) -> U32:
    if kind == "deletion":
        return np.delete(text, places)
    if kind == "insertion":
        return np.insert(text, places, text[rng.integers(0, len(text), len(places))])
    edited = text.copy()
    edited[places] = _others(text, text[places], rng)
    return edited


def _others(text: U32, replaced: U32, rng: np.random.Generator) -> U32:
    """For each character replaced, one drawn from the text's others; itself if there are no others."""
    in_order = np.sort(text)
    first, end = np.searchsorted(in_order, replaced, "left"), np.searchsorted(in_order, replaced, "right")
    others = len(text) - (end - first)
    drawn = rng.integers(0, np.maximum(others, 1))
    drawn += np.where((drawn >= first) & (others > 0), end - first, 0)  # over the block of the character itself
    return np.where(others > 0, in_order[drawn], replaced)
