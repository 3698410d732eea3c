"""How a proxy's view of a text responds to edits: the figures of one proxy.

The distance is Levenshtein's between the symbols before and after, over the longer length: 0 unchanged, 1 all new.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressor_model.text import batches
from pipelines.measure.bootstrap import F64, Bootstrap, rounded
from pipelines.measure.edits import KINDS, Kind, edit, edit_once, to_bytes
from pipelines.measure.results import Part, Resynchronisation, Spread, StabilityOf
from pipelines.measure.sample import Piece
from pipelines.proxies import Proxy
from pipelines.proxies.base import I64
from schemas.vocabulary import COMP_OFFSET

ENOUGH_PIECES = 10
"""A group of fewer says little."""

_BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class View:
    """A proxy's view of a text: ids, and int64 [len(ids)] raw bytes that each covers, or None."""

    ids: list[int]
    spans: I64 | None


@dataclass(frozen=True)
class Edited:
    """Pieces and what becomes of them, as bytes: the same for every proxy.

    Attributes:
        pieces: as sampled.
        before: of each piece.
        after: of each piece, by kind and rate (as text).
        once: of each piece after one edit, by kind.
    """

    pieces: Sequence[Piece]
    before: list[bytes]
    after: dict[tuple[Kind, str], list[bytes]]
    once: dict[Kind, list[bytes]]

    @classmethod
    def of(cls, pieces: Sequence[Piece], rates: Sequence[float], seed: int) -> "Edited":
        """Make the edits, each seeded by piece, kind and rate."""
        after: dict[tuple[Kind, str], list[bytes]] = {}
        for number, kind in enumerate(KINDS, 1):
            for rate in rates:
                ppm = round(rate * 1e6)
                after[kind, f"{rate:g}"] = [
                    to_bytes(edit(piece.text, kind, rate, piece.rng(seed, number, ppm))) for piece in pieces
                ]
        once = {
            kind: [to_bytes(edit_once(piece.text, kind, piece.rng(seed, number, 0))) for piece in pieces]
            for number, kind in enumerate(KINDS, 1)
        }
        return cls(pieces, [to_bytes(piece.text) for piece in pieces], after, once)


def measure(name: str, proxy: Proxy, edited: Edited, rates: Sequence[float], seed: int) -> tuple[StabilityOf, F64]:
    """The figures of one proxy, and its main distance of each piece, float64 [pieces]."""
    from rapidfuzz.distance import Levenshtein

    before = views(proxy, edited.before)
    bootstrap = Bootstrap(len(before), seed)
    raw_bytes = np.array([len(piece) for piece in edited.before])
    symbols = np.array([len(view.ids) for view in before])
    by_edit = {
        key: np.array(
            [
                Levenshtein.normalized_distance(old.ids, new.ids)
                for old, new in zip(before, views(proxy, texts), strict=True)
            ]
        )
        for key, texts in edited.after.items()
    }
    main = by_edit["deletion", f"{max(rates):g}"]
    frequencies = Counter(symbol for view in before for symbol in view.ids)
    vocabulary = proxy.vocabulary.comp_symbols or 256
    used = sum(symbol >= COMP_OFFSET for symbol in frequencies) if proxy.has_comp else len(frequencies)
    figures: StabilityOf = {
        "variant": name,
        "symbols": int(symbols.sum()),
        "bytes_per_symbol": bootstrap.ratio(raw_bytes, symbols),
        "symbol_entropy": rounded(entropy(list(frequencies.values()))),
        "vocabulary": vocabulary,
        "vocabulary_used": rounded(used / vocabulary),
        "distances": {
            kind: {f"{rate:g}": bootstrap.mean(by_edit[kind, f"{rate:g}"]) for rate in rates} for kind in KINDS
        },
        "floors": {f"{rate:g}": rounded(floor(before, raw_bytes, rate)) for rate in rates},
        "above_bpe": None,
        "resynchronisation": _resynchronisation(proxy, before, edited),
        "by_group": _parts([piece.group for piece in edited.pieces], raw_bytes, symbols, main, seed),
        "by_source": _parts([piece.source for piece in edited.pieces], raw_bytes, symbols, main, seed),
    }
    return figures, main


def views(proxy: Proxy, texts: Sequence[bytes]) -> list[View]:
    """The view of each text; without a comp view, its bytes."""
    return [view for batch in batches(texts, _BATCH_BYTES) for view in _views(proxy, batch)]


def _views(proxy: Proxy, texts: list[bytes]) -> list[View]:
    encoded = proxy.encode_batch(texts)
    if encoded is None:
        return [View(list(text), np.ones(len(text), np.int64)) for text in texts]
    return [
        View(view.ids.tolist(), None if view.spans is None else view.spans.astype(np.int64)) for view in encoded.views()
    ]


def entropy(counts: Sequence[int]) -> float:
    """Entropy in bits of the distribution that counts (each at least 1) are proportional to; 0 of none."""
    shares = np.array(counts, np.float64) / max(1, sum(counts))
    return float(-(shares * np.log2(shares)).sum())


def floor(before: Sequence[View], raw_bytes: I64, rate: float) -> float:
    """Share of symbols that lose a byte when each is deleted with probability `rate`: mean of 1 - (1 - rate)^span.

    A byte stands for a character here, and a symbol that covers no bytes is unchanged. Where symbols cover no
    definite bytes, each is taken to cover the average.
    """
    total = sum(len(view.ids) for view in before)
    if any(view.spans is None for view in before):
        return 1 - (1 - rate) ** (float(raw_bytes.sum()) / max(1, total))
    spans = np.concatenate([view.spans for view in before if view.spans is not None])
    return float((1 - (1 - rate) ** spans).mean()) if total else 0.0


def reach(before: View, after: View) -> tuple[int, int | None]:
    """Symbols from the first that differs until the views agree to the end, and the raw bytes these cover.

    The larger figure of both views; what they share at the start and at the end does not overlap.
    """
    old, new = before.ids, after.ids
    shorter = min(len(old), len(new))
    start = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    end = next((at for at in range(shorter - start) if old[-1 - at] != new[-1 - at]), shorter - start)
    symbols = max(len(old), len(new)) - start - end
    if before.spans is None or after.spans is None:
        return symbols, None
    return symbols, max(int(spans[start : len(spans) - end].sum()) for spans in (before.spans, after.spans))


def _resynchronisation(proxy: Proxy, before: Sequence[View], edited: Edited) -> Resynchronisation:
    reached = [
        reach(old, new) for texts in edited.once.values() for old, new in zip(before, views(proxy, texts), strict=True)
    ]
    covered = [raw for _, raw in reached if raw is not None]
    return {
        "symbols": _spread([symbols for symbols, _ in reached]),
        "raw_bytes": _spread(covered) if covered else None,
    }


def _spread(values: Sequence[int]) -> Spread:
    return {
        "median": rounded(float(np.median(values))),
        "mean": rounded(float(np.mean(values))),
        "p95": rounded(float(np.quantile(values, 0.95))),
    }


def _parts(keys: Sequence[str], raw_bytes: I64, symbols: I64, distances: F64, seed: int) -> dict[str, Part]:
    """Main figures by key; nothing where all pieces have the same one."""
    counts = Counter(keys)
    parts: dict[str, Part] = {}
    for key in sorted(counts) if len(counts) > 1 else []:
        if counts[key] < ENOUGH_PIECES:
            continue
        of = np.array([other == key for other in keys])
        bootstrap = Bootstrap(counts[key], seed)
        parts[key] = {
            "pieces": counts[key],
            "bytes_per_symbol": bootstrap.ratio(raw_bytes[of], symbols[of]),
            "distance": bootstrap.mean(distances[of]),
        }
    return parts
