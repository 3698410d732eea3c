"""`python -m pipelines measure fuzziness`: which different texts a proxy gives the same symbols.

The paper calls its compressor fuzzy: over 90 % of colliding chunks share at least 0.8 of their length from the start
and differ in predictable tails. Terms and counts are those of `collisions.py`.
"""

import sys
from dataclasses import dataclass

from rich.table import Table

from pipelines.measure import page, results, sample, variants
from pipelines.measure.collisions import fuzziness_of
from pipelines.measure.options import MeasureOptions, say, show
from pipelines.measure.results import Fuzziness, FuzzinessOf
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from schemas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FuzzinessOptions(MeasureOptions):
    """Measure which texts proxies confuse.

    Attributes:
        bytes: of text to encode, from the corpus in its drawn order.
    """

    bytes: int = 8 << 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bytes < 1:
            raise UserError(f"--bytes {self.bytes}: give 1 or more")


def run(options: FuzzinessOptions) -> Fuzziness:
    """Measure, print, and write the results where asked.

    Raises:
        UserError: no corpus, no text, no proxy of which it can be measured, or a folder that cannot be written.
    """
    out = options.prepare_out()
    result = measured(options)
    if options.json:
        sys.stdout.write(results.to_json(result))
    else:
        show(_table(result))
    if out is not None:
        say(page.write(out, result))
    return result


def measured(options: FuzzinessOptions) -> Fuzziness:
    """Measure, without showing or writing anything but progress.

    Raises:
        UserError: no corpus, no text, or no proxy of which it can be measured.
    """
    sampler = Sampler(list_corpus(options.corpus, format=options.format), options.read)
    documents = sample.documents(sampler, limit=options.bytes, all_documents=options.all_documents)
    counted: list[FuzzinessOf] = []
    left_out: dict[str, str] = {}
    names = variants.requested(options.variants, options.proxy)
    for built in variants.build(names, options.proxy, sampler, say):
        found = None if built.proxy is None else fuzziness_of(built.name, built.proxy, documents)
        if found is None:
            left_out[built.name] = built.reason or "its symbols cover no definite bytes, so they cannot be compared"
        else:
            counted.append(found)
    if not counted:
        raise UserError("; ".join(f"--variants {name}: {reason}" for name, reason in left_out.items()))
    return {
        "version": results.VERSION,
        "measure": "fuzziness",
        "corpus": options.corpus,
        "held_out": not options.all_documents,
        "documents": len(documents),
        "raw_bytes": sum(map(len, documents)),
        "variants": counted,
        "left_out": left_out,
    }


def _table(result: Fuzziness) -> Table:
    table = Table(title=f"collisions on {result['raw_bytes'] / 1e6:.2f} MB of {result['corpus']} (of all occurrences)")
    table.add_column("proxy", no_wrap=True)
    for column in ("chunks", "different", "shared codes", "colliding", "LCP ≥ .8", "least", "dropped"):
        table.add_column(column, justify="right")
    for one in result["variants"]:
        unique, occurrences = one["colliding"]["unique"], one["colliding"]["occurrences"]
        table.add_row(
            one["variant"],
            f"{one['chunks']:,}",
            f"{one['distinct_chunks']:,}",
            f"{one['shared_codes']:,}",
            f"{unique:,} ({occurrences / one['chunks']:.2%})" if unique else "0",
            f"{one['alike']['unique'] / unique:.1%}" if unique else "-",
            "-" if one["least_shared"] is None else f"{one['least_shared']:.2f}",
            f"{one['dropped_bytes'] / one['raw_bytes']:.2%}" if one["dropped_bytes"] else "-",
        )
    return table
