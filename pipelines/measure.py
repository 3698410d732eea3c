"""`python -m pipelines measure stability`: how much of a proxy's view changes when the text is edited a little.

The paper finds that transfer to raw bytes follows the stability of the compressor: a symbol that means the same
text wherever it stands can be learnt. Pieces of held-out documents lose each character with a given probability;
the figure is the mean normalised Levenshtein distance (distance / longer length) between the symbols before and
after. Its floor is the share of symbols that lost a byte: 1 - (1 - rate)^(bytes per symbol).
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from pipelines.corpus import InputFormat, list_corpus
from pipelines.proxies import Proxy
from pipelines.proxies.prepare import ProxyOptions, Sampler, choose
from pipelines.records import ReadOptions
from schemas.draws import may_fit
from schemas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StabilityOptions:
    """Measure the stability of proxies on a corpus.

    Attributes:
        corpus: as of preprocess; a dataset of ours is a corpus too.
        proxy: the proxy, with its options.
        compare: further proxies on the same pieces, with the same options.
        format: of the inputs.
        read: how documents are read.
        rates: shares of characters to delete.
        pieces: number of pieces, at most one from a document.
        piece_characters: length of a piece.
        all_documents: take pieces of all documents, not of the held-out ones only.
        seed: of pieces and deletions.
        json: print JSON instead of a table.
    """

    corpus: str = "stdlib"
    proxy: Annotated[ProxyOptions, tyro.conf.arg(name="")] = field(default_factory=ProxyOptions)
    compare: tuple[str, ...] = ()
    format: InputFormat = "auto"
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    rates: tuple[float, ...] = (0.1, 0.01)
    pieces: int = 200
    piece_characters: int = 4096
    all_documents: bool = False
    seed: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        if self.pieces < 1 or self.piece_characters < 64:
            raise UserError("--pieces must be 1 or more, --piece-characters 64 or more")
        if not self.rates or any(not 0 < rate < 1 for rate in self.rates):
            raise UserError(f"--rates {self.rates}: give shares between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What was measured of one proxy.

    Attributes:
        bytes_per_symbol: over the pieces.
        distances: by rate (as text), the mean distance.
        standard_errors: of these means over pieces.
        floors: by rate, the least distance possible at these bytes per symbol.
    """

    proxy: str
    pieces: int
    bytes_per_symbol: float
    distances: dict[str, float]
    standard_errors: dict[str, float]
    floors: dict[str, float]


def stability(options: StabilityOptions) -> list[Stability]:
    """Measure and print.

    Raises:
        UserError: no corpus, no proxy, or no text to take pieces from.
    """
    corpus = list_corpus(options.corpus, format=options.format)
    sampler = Sampler(corpus, options.read)
    pieces = sample_pieces(sampler, options)
    results = []
    for name in dict.fromkeys((options.proxy.proxy, *options.compare)):
        chosen = replace(options.proxy, proxy=name)
        proxy = choose(chosen, sampler, None, None, _say).proxy
        results.append(measure(_label(chosen), proxy, pieces, options))
    if options.json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    else:
        Console().print(_table(results, options))
    return results


def sample_pieces(sampler: Sampler, options: StabilityOptions) -> list[str]:
    """Pieces of text, one a document, at a drawn place; the same for every proxy.

    Raises:
        UserError: no document is long enough.
    """
    pieces: list[str] = []
    for document in sampler.documents():
        if (options.all_documents or not may_fit(document.doc_id)) and len(document.raw) >= 64:
            text = document.raw.decode("utf-8", "replace")
            rng = np.random.default_rng([options.seed, 0, len(pieces)])
            start = int(rng.integers(0, max(1, len(text) - options.piece_characters + 1)))
            pieces.append(text[start : start + options.piece_characters])
            if len(pieces) == options.pieces:
                break
    if not pieces:
        raise UserError(
            f"CORPUS={options.corpus}: no held-out document of 64 bytes or more; use --all-documents (figures are then "
            "flattered where a proxy was fitted to them)"
        )
    return pieces


def measure(label: str, proxy: Proxy, pieces: list[str], options: StabilityOptions) -> Stability:
    """Mean distances of one proxy."""
    from rapidfuzz.distance import Levenshtein

    before = list(_symbols(proxy, pieces))
    raw_bytes = sum(len(piece.encode()) for piece in pieces)
    ratio = raw_bytes / max(1, sum(len(symbols) for symbols in before))
    distances, errors, floors = {}, {}, {}
    for rate in options.rates:
        edited = [_delete(piece, rate, options.seed, index) for index, piece in enumerate(pieces)]
        values = [
            Levenshtein.normalized_distance(old, new) for old, new in zip(before, _symbols(proxy, edited), strict=True)
        ]
        distances[f"{rate:g}"] = round(float(np.mean(values)), 4)
        errors[f"{rate:g}"] = round(float(np.std(values) / len(values) ** 0.5), 4)
        floors[f"{rate:g}"] = round(1 - (1 - rate) ** ratio, 4)
    return Stability(
        proxy=label,
        pieces=len(pieces),
        bytes_per_symbol=round(ratio, 4),
        distances=distances,
        standard_errors=errors,
        floors=floors,
    )


def _symbols(proxy: Proxy, texts: list[str]) -> Iterator[list[int]]:
    """The view of each text; without a comp view, its bytes."""
    for text in texts:
        encoded = proxy.encode(text.encode())
        yield list(text.encode()) if encoded is None else encoded.ids.tolist()


def _delete(text: str, rate: float, seed: int, index: int) -> str:
    kept = np.random.default_rng([seed, round(rate * 1e6), index]).random(len(text)) >= rate
    return "".join(character for character, keep in zip(text, kept.tolist(), strict=True) if keep)


def _label(options: ProxyOptions) -> str:
    if options.proxy == "bpe":
        return f"bpe {options.tokenizer or options.vocab_size}"
    return f"neural {options.coder} {options.bits}" if options.proxy == "neural" else options.proxy


def _table(results: list[Stability], options: StabilityOptions) -> Table:
    table = Table(title=f"stability on {options.corpus}, {results[0].pieces} pieces: distance (floor), lower is better")
    table.add_column("proxy")
    table.add_column("bytes/symbol", justify="right")
    for deleted in options.rates:
        table.add_column(f"{deleted:.0%} deleted", justify="right")
    for result in results:
        cells: list[Any] = [result.proxy, f"{result.bytes_per_symbol:.2f}"]
        for rate, distance in result.distances.items():
            cells.append(f"{distance:.3f} ± {result.standard_errors[rate]:.3f} ({result.floors[rate]:.3f})")
        table.add_row(*cells)
    return table


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
