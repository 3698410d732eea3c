"""`python -m pipelines measure stability`: how much of a proxy's view changes when the text is edited a little.

The paper finds that transfer to raw bytes follows the stability of the compressor: a symbol that means the same
text wherever it stands can be learnt. Pieces of held-out documents are edited at several rates; the figure is the
mean normalised Levenshtein distance (distance / longer length) between the symbols before and after. Beside it: bytes
per symbol, entropy of a symbol, share of the vocabulary used, and how far one edit reaches.
"""

import sys
from dataclasses import dataclass

from rich.table import Table

from pipelines.measure import page, results, sample, variants
from pipelines.measure.bootstrap import F64, Bootstrap
from pipelines.measure.edits import KINDS
from pipelines.measure.options import MeasureOptions, say, show
from pipelines.measure.response import Edited, measure
from pipelines.measure.results import Interval, Spread, Stability, StabilityOf
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from schemas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StabilityOptions(MeasureOptions):
    """Measure how much proxies' symbols change when text is edited.

    Attributes:
        rates: shares of characters to delete, insert or substitute; the largest is the main one.
        pieces: number of pieces, at most one from a document.
        piece_characters: length of a piece.
        seed: of pieces, edits and resampling.
    """

    rates: tuple[float, ...] = (0.01, 0.05, 0.1)
    pieces: int = 200
    piece_characters: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pieces < 1:
            raise UserError(f"--pieces {self.pieces}: give 1 or more")
        if self.piece_characters < sample.MIN_BYTES:
            raise UserError(f"--piece-characters {self.piece_characters}: give {sample.MIN_BYTES} or more")
        if not self.rates or any(not 0 < rate < 1 for rate in self.rates):
            raise UserError(f"--rates {' '.join(map(str, self.rates))}: give shares between 0 and 1")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: give 0 or more")


def run(options: StabilityOptions) -> Stability:
    """Measure, print, and write the results where asked.

    Raises:
        UserError: no corpus, no proxy, no text to take pieces from, or a folder that cannot be written.
    """
    out = options.prepare_out()
    result = measured(options)
    if options.json:
        sys.stdout.write(results.to_json(result))
    else:
        for table in _tables(result):
            show(table)
    if out is not None:
        say(page.write(out, result))
    return result


def measured(options: StabilityOptions) -> Stability:
    """Measure, without showing or writing anything but progress.

    Raises:
        UserError: no corpus, no proxy, or no text to take pieces from.
    """
    sampler = Sampler(list_corpus(options.corpus, format=options.format), options.read)
    pieces = sample.pieces(
        sampler,
        count=options.pieces,
        length=options.piece_characters,
        seed=options.seed,
        all_documents=options.all_documents,
    )
    rates = sorted(set(options.rates))
    edited = Edited.of(pieces, rates, options.seed)
    say(f"{len(pieces)} pieces, {sum(map(len, edited.before)) / 1e6:.2f} MB")
    found: dict[str, StabilityOf] = {}
    distances: dict[str, F64] = {}
    left_out: dict[str, str] = {}
    names = variants.requested(options.variants, options.proxy)
    for built in variants.build(names, options.proxy, sampler, say):
        if built.proxy is None:
            left_out[built.name] = built.reason
        else:
            found[built.name], distances[built.name] = measure(built.name, built.proxy, edited, rates, options.seed)
    if not found:
        raise UserError("; ".join(f"--variants {name}: {reason}" for name, reason in left_out.items()))
    reference = "bpe" if "bpe" in found else "tokenizer"
    for name, one in found.items():
        if reference in found and name != reference:
            one["above_bpe"] = Bootstrap(len(pieces), options.seed).mean(distances[name] - distances[reference])
    return {
        "version": results.VERSION,
        "measure": "stability",
        "corpus": options.corpus,
        "held_out": not options.all_documents,
        "seed": options.seed,
        "pieces": len(pieces),
        "raw_bytes": sum(map(len, edited.before)),
        "rates": [f"{rate:g}" for rate in rates],
        "main_rate": f"{rates[-1]:g}",
        "variants": list(found.values()),
        "left_out": left_out,
    }


def _tables(result: Stability) -> list[Table]:
    main = result["main_rate"]
    where = f"{result['corpus']}, {result['pieces']} pieces"
    edits = Table(title=f"distance after edits of {float(main):.0%} on {where} (± 95 %); lower is better")
    symbols = Table(title="symbols; reach of one edit: median (mean, 95th percentile)")
    for table, columns in (
        (edits, ("bytes/symbol", "deleted", "floor", "inserted", "substituted")),
        (symbols, ("reach, symbols", "reach, raw bytes", "entropy, bits", "of vocabulary")),
    ):
        table.add_column("proxy", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right")
    for one in result["variants"]:
        deleted, inserted, substituted = (_plus_minus(one["distances"][kind][main]) for kind in KINDS)
        size = f"{one['bytes_per_symbol']['mean']:.2f}"
        edits.add_row(one["variant"], size, deleted, f"{one['floors'][main]:.3f}", inserted, substituted)
        reached, used = one["resynchronisation"], f"{one['vocabulary_used']:.1%}"
        reaches = (_reached(reached["symbols"]), _reached(reached["raw_bytes"]))
        symbols.add_row(one["variant"], *reaches, f"{one['symbol_entropy']:.2f}", used)
    return [edits, symbols, *_part_tables(result)]


def _plus_minus(value: Interval) -> str:
    return f"{value['mean']:.3f} ± {(value['high'] - value['low']) / 2:.3f}"


def _reached(spread: Spread | None) -> str:
    return f"{spread['median']:g} ({spread['mean']:.1f}, {spread['p95']:.0f})" if spread else "-"


def _part_tables(result: Stability) -> list[Table]:
    tables = []
    for title, parts in (
        ("group", {one["variant"]: one["by_group"] for one in result["variants"]}),
        ("source", {one["variant"]: one["by_source"] for one in result["variants"]}),
    ):
        keys = list(dict.fromkeys(key for found in parts.values() for key in found))
        if not keys:
            continue
        table = Table(title=f"by {title}: bytes/symbol, distance")
        table.add_column("proxy", no_wrap=True)
        for key in keys:
            table.add_column(f"{key} ({next(iter(parts.values()))[key]['pieces']})", justify="right")
        for name, found in parts.items():
            cells = (
                f"{found[key]['bytes_per_symbol']['mean']:.2f}, {found[key]['distance']['mean']:.3f}" for key in keys
            )
            table.add_row(name, *cells)
        tables.append(table)
    return tables
