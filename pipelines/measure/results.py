"""What the measurements find, as it is in their JSON: the contract between measuring, figures and page."""

import json
from pathlib import Path
from typing import Any, Literal, TypedDict

from schemas.errors import UserError

VERSION = 1
"""Of the JSON."""

Measure = Literal["stability", "fuzziness"]

_FORM = {"corpus": str, "variants": list, "left_out": dict}
"""What both have."""


class Interval(TypedDict):
    """A figure over documents and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


class Spread(TypedDict):
    """Of a skewed figure: median, mean and 95th percentile."""

    median: float
    mean: float
    p95: float


class Part(TypedDict):
    """Main figures of the pieces of one group or source: their number, bytes a symbol, the main distance."""

    pieces: int
    bytes_per_symbol: Interval
    distance: Interval


class Resynchronisation(TypedDict):
    """How far one edit reaches, in symbols and in raw bytes (None where symbols cover no definite bytes)."""

    symbols: Spread
    raw_bytes: Spread | None


class StabilityOf(TypedDict):
    """Stability of one proxy.

    Keys:
        symbols: number of them, over the pieces before edits.
        symbol_entropy: of one symbol by the symbols' frequencies in the pieces, in bits.
        vocabulary: symbols that there are; vocabulary_used: share of them in the pieces.
        distances: by kind of edit and rate (as text), the normalised Levenshtein distance.
        floors: by rate, the share of symbols that lose a character when characters are deleted.
        above_bpe: main distance less that of BPE on the same pieces; None for BPE itself and without it.
        by_group, by_source: of those with enough pieces.
    """

    variant: str
    symbols: int
    bytes_per_symbol: Interval
    symbol_entropy: float
    vocabulary: int
    vocabulary_used: float
    distances: dict[str, dict[str, Interval]]
    floors: dict[str, float]
    above_bpe: Interval | None
    resynchronisation: Resynchronisation
    by_group: dict[str, Part]
    by_source: dict[str, Part]


class Stability(TypedDict):
    """The stability of proxies on a corpus. `main_rate` (as text): the rate of deletion of the main distance."""

    version: int
    measure: Literal["stability"]
    corpus: str
    held_out: bool
    seed: int
    pieces: int
    raw_bytes: int
    rates: list[str]
    main_rate: str
    variants: list[StabilityOf]
    left_out: dict[str, str]


class Count(TypedDict):
    """Colliding chunks: different ones, and their occurrences."""

    unique: int
    occurrences: int


class Example(TypedDict):
    """A collision: the text a code usually means, another that it means too (both as Python writes bytes)."""

    usual: str
    other: str
    occurrences: int
    shared: float


class Collisions(TypedDict):
    """Collisions among codes and chunks; see `pipelines.measure.collisions` for the terms.

    Keys:
        chunks: number of chunks; distinct_chunks: different ones.
        codes: different codes; shared_codes: those with more than one chunk.
        colliding: chunks that are not the usual one of their code.
        alike: those of them whose LCP is at least 0.8 of the longer.
        least_shared: LCP / longer over all pairs of chunks of a code, the least; None without collisions.
        histogram: of LCP / longer against the usual chunk, in ten bins from 0 to 1.
        differences: by what differs after the common prefix.
        examples: the commonest.
    """

    chunks: int
    distinct_chunks: int
    codes: int
    shared_codes: int
    colliding: Count
    alike: Count
    least_shared: float | None
    histogram: list[Count]
    differences: dict[str, Count]
    examples: list[Example]


class FuzzinessOf(Collisions):
    """Fuzziness of one proxy. `dropped_bytes` are covered by symbols and not coded."""

    variant: str
    lossless: bool
    raw_bytes: int
    symbols: int
    dropped_bytes: int


class Fuzziness(TypedDict):
    """The fuzziness of proxies on a corpus."""

    version: int
    measure: Literal["fuzziness"]
    corpus: str
    held_out: bool
    documents: int
    raw_bytes: int
    variants: list[FuzzinessOf]
    left_out: dict[str, str]


def to_json(result: Stability | Fuzziness) -> str:
    """The one spelling: the same result is the same bytes."""
    return json.dumps(result, indent=1) + "\n"


def read(folder: Path, measure: Measure) -> Any:
    """A result that lies in a folder; None if it does not.

    Raises:
        UserError: a file of that name that is something else.
    """
    path = folder / f"{measure}.json"
    try:
        result = json.loads(path.read_text())
        known = (
            result["measure"] == measure
            and result["version"] == VERSION
            and all(isinstance(result[key], kind) for key, kind in _FORM.items())
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise UserError(f"{path}: not a result of this version of measure {measure}; delete it or use another --out")
    return result
