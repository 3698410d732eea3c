"""One self-contained page of what both measurements found: it shows whichever results lie in a folder.

No script, nothing from a network; figures are inline SVG, and colours follow the reader's light or dark mode.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from pipelines.measure import figures, results
from pipelines.measure.edits import KINDS
from pipelines.measure.results import Count, Fuzziness, FuzzinessOf, Interval, Part, Spread, Stability
from pipelines.measure.verdict import ALIKE_SHARE, LEAST_BYTES, LOST_SHARE, RARE_SHARE, verdict
from pipelines.report import markup
from pipelines.report.markup import details, plain, table
from schemas.errors import UserError

PAGE = "index.html"

_INTRODUCTION = """<p>A model trained on a proxy's symbols is later given raw bytes alone. In the paper
(arXiv 2602.04289) what decides whether that works is how <em>stable</em> the proxy is: when a text is edited,
tokenizers change least, a neural compressor more, gzip nearly everywhere; the first two transfer and gzip does not. A
neural compressor may give different texts the same symbols, as long as they differ in predictable tails. Both are
measured here, before a model is trained. They predict transfer and do not replace trying it.</p>"""


def write(folder: Path, result: Stability | Fuzziness) -> str:
    """Write a result, its figures, and the page of all results in the folder; returns a line that says where.

    Raises:
        UserError: the folder cannot be written, or the other result there is no result.
    """
    stability: Stability | None = results.read(folder, "stability") if result["measure"] != "stability" else None
    fuzziness: Fuzziness | None = results.read(folder, "fuzziness") if result["measure"] != "fuzziness" else None
    if result["measure"] == "stability":
        stability = result
    else:
        fuzziness = result
    drawn = draw(stability, fuzziness)
    files = {
        f"{result['measure']}.json": results.to_json(result),
        **{f"{name}.svg": svg for name, svg in drawn.items()},
    }
    files[PAGE] = render(stability, fuzziness, drawn)
    try:
        for name, text in files.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror})") from None
    return f"{folder / PAGE}: open it in a browser"


def draw(stability: Stability | None, fuzziness: Fuzziness | None) -> dict[str, str]:
    """The figures of the results that there are, SVG by name."""
    drawn = figures.stability_figures(stability) if stability else {}
    return drawn | (figures.fuzziness_figures(fuzziness["variants"]) if fuzziness else {})


def render(stability: Stability | None, fuzziness: Fuzziness | None, drawn: dict[str, str]) -> str:
    """The page.

    Args:
        stability: its results, if there are any.
        fuzziness: likewise.
        drawn: see `draw`.
    """
    corpora = list(dict.fromkeys(found["corpus"] for found in (stability, fuzziness) if found))
    title = f"Proxies on {' and '.join(corpora)}"
    body = "\n".join([f"<h1>{plain(title)}</h1>", *sections(stability, fuzziness, drawn)])
    return markup.page(title, body)


def sections(
    stability: Stability | None, fuzziness: Fuzziness | None, drawn: dict[str, str], *, level: int = 2
) -> list[str]:
    """What the page says below its title, each part with its own heading of this level; else as of `render`."""
    parts = [_INTRODUCTION, _verdicts(stability, fuzziness)]
    if stability:
        parts.append(_stability(stability, drawn))
    if fuzziness:
        parts.append(_fuzziness(fuzziness, drawn))
    return [re.sub(r"(?<=<h|/h)[23](?=>)", lambda found: str(int(found[0]) + level - 2), part) for part in parts]


def _verdicts(stability: Stability | None, fuzziness: Fuzziness | None) -> str:
    stable = {one["variant"]: one for one in stability["variants"]} if stability else {}
    fuzzy = {one["variant"]: one for one in fuzziness["variants"]} if fuzziness else {}
    items = []
    for name in dict.fromkeys([*stable, *fuzzy]):
        level, text = verdict(stability, stable.get(name), fuzzy.get(name))
        items.append(f'<div class="{level}"><dt>{plain(name)}<span>{level}</span></dt><dd>{plain(text)}</dd></div>')
    rules = (
        f"Unsuitable: the median single edit changes {LOST_SHARE:.0%} of a piece's symbols or more. Doubtful: under "
        f"{LEAST_BYTES:g} bytes a symbol, or over {RARE_SHARE:.0%} of the chunks collide and fewer than "
        f"{ALIKE_SHARE:.0%} of these texts share 0.8 of their length with the usual one. Open: neither, and less "
        "stable than BPE on the same pieces, beyond the 95 % interval; the paper's neural compressor was less stable "
        "than a tokenizer and transferred. Promising: none of these. More bytes a symbol train faster."
    )
    return f'<h2>Verdicts</h2>\n<dl>{"".join(items)}</dl>\n<p class="soft">{plain(rules)}</p>'


def _stability(result: Stability, drawn: dict[str, str]) -> str:
    main = result["main_rate"]
    about = (
        f"{result['pieces']:,} pieces ({result['raw_bytes'] / 1e6:.2f} MB) of {result['corpus']}, "
        f"{_whose(result['held_out'])}, seed {result['seed']}. The distance is Levenshtein's between the symbols "
        "before and after, over the longer length: 0 unchanged, 1 all new. In brackets the 95 % interval over "
        "documents. The floor is the share of symbols that lose a byte when characters are deleted."
    )
    distances, symbols = [], []
    for one in result["variants"]:
        name = plain(one["variant"])
        floor = f"{one['floors'][main]:.3f}"
        deleted, inserted, substituted = (_interval(one["distances"][kind][main], 3) for kind in KINDS)
        distances.append([name, _interval(one["bytes_per_symbol"], 2), deleted, floor, inserted, substituted])
        reached = one["resynchronisation"]
        used = f"{one['vocabulary_used']:.1%} <i>of {one['vocabulary']:,}</i>"
        spreads = (_spread(reached["symbols"]), _spread(reached["raw_bytes"]))
        symbols.append([name, *spreads, f"{one['symbol_entropy']:.2f}", used])
    all_edits = [
        [plain(one["variant"]), kind, *(_interval(one["distances"][kind][rate], 3) for rate in result["rates"])]
        for one in result["variants"]
        for kind in KINDS
    ]
    parts = [
        "<h2>Stability</h2>",
        f"<p>{plain(about)}</p>",
        _figure(drawn["stability-frontier"], "Lower is more stable, further right trains faster."),
        table(
            f"Distances after edits of {float(main):.0%} of the characters.",
            ["proxy", "bytes a symbol", "deleted", "floor", "inserted", "substituted"],
            distances,
        ),
        _figure(
            drawn["stability-edits"],
            "All kinds of edits, small to large by rate; the bar is the floor of deletion at the largest.",
        ),
        _figure(
            drawn["stability-reach"],
            "Until the symbols are the same again: median (dot) to 95th percentile, and mean (diamond).",
        ),
        table(
            "What one edit changes (median; mean, 95th percentile), and how symbols are used.",
            ["proxy", "symbols", "raw bytes", "entropy, bits", "vocabulary used"],
            symbols,
        ),
        details(
            "All distances", table("", ["proxy", "edit", *(f"{float(r):.0%}" for r in result["rates"])], all_edits)
        ),
        _parts("group", {one["variant"]: one["by_group"] for one in result["variants"]}),
        _parts("source", {one["variant"]: one["by_source"] for one in result["variants"]}),
        _left_out(result["left_out"]),
    ]
    return "\n".join(part for part in parts if part)


def _parts(what: str, by_variant: dict[str, dict[str, Part]]) -> str:
    keys = list(dict.fromkeys(key for parts in by_variant.values() for key in parts))
    if not keys:
        return ""
    pieces = next(iter(by_variant.values()))
    rows = [[plain(name), *(_part(parts[key]) for key in keys)] for name, parts in by_variant.items()]
    caption = f"Main distance and bytes a symbol by {what} (pieces); only those with enough pieces."
    return f"<h3>By {what}</h3>" + table(
        caption, ["proxy", *(f"{key} ({pieces[key]['pieces']})" for key in keys)], rows
    )


def _part(part: Part) -> str:
    return f"{part['distance']['mean']:.3f} <i>{part['bytes_per_symbol']['mean']:.2f} B</i>"


def _fuzziness(result: Fuzziness, drawn: dict[str, str]) -> str:
    about = (
        f"{result['documents']:,} documents ({result['raw_bytes'] / 1e6:.2f} MB) of {result['corpus']}, "
        f"{_whose(result['held_out'])}. A chunk is the text that a code covers at some place. Where a code covers "
        "different chunks, those that are not its most frequent one are colliding. Two chunks are compared by the "
        "length of their common prefix over the longer length."
    )
    columns = [
        "proxy",
        "chunks",
        "different",
        "codes",
        "shared",
        "colliding",
        "share 0.8",
        "least pair",
        "bytes dropped",
    ]
    rows = []
    for one in result["variants"]:
        colliding, alike = one["colliding"], one["alike"]
        often = colliding["occurrences"]
        alike_often = f" <i>{_share(alike['occurrences'], often)}</i>" if often else ""
        rows.append([
            plain(one["variant"]),
            f"{one['chunks']:,}",
            f"{one['distinct_chunks']:,}",
            f"{one['codes']:,}",
            f"{one['shared_codes']:,}",
            f"{colliding['unique']:,} <i>{often / one['chunks']:.2%}</i>",
            _share(alike["unique"], colliding["unique"]) + alike_often,
            "–" if one["least_shared"] is None else f"{one['least_shared']:.3f}",
            f"{one['dropped_bytes']:,} <i>{one['dropped_bytes'] / one['raw_bytes']:.2%}</i>",
        ])  # fmt: skip
    parts = [
        "<h2>Fuzziness</h2>",
        f"<p>{plain(about)}</p>",
        table("Collisions; in small print, shares of occurrences.", columns, rows),
    ]
    colliding_variants = [one for one in result["variants"] if one["colliding"]["unique"]]
    if colliding_variants:
        parts.append(_figure(drawn["fuzziness-lcp"], "How much colliding chunks share with the usual one."))
        parts.append(_differences(colliding_variants))
        parts += [details(f"Examples of {one['variant']}", _examples(one)) for one in colliding_variants]
    parts.append(_left_out(result["left_out"]))
    return "\n".join(part for part in parts if part)


def _differences(variants: Sequence[FuzzinessOf]) -> str:
    def cell(count: Count, total: Count) -> str:
        by_occurrence = _share(count["occurrences"], total["occurrences"])
        return f"{_share(count['unique'], total['unique'])} <i>{by_occurrence}</i>"

    kinds = list(variants[0]["differences"])
    rows = [
        [plain(one["variant"]), *(cell(one["differences"][kind], one["colliding"]) for kind in kinds)]
        for one in variants
    ]
    return table(
        "What differs after the common prefix: of different chunks, and by occurrence.", ["proxy", *kinds], rows
    )


def _examples(one: FuzzinessOf) -> str:
    rows = [
        [f"<code>{plain(example['usual'])}</code>", f"<code>{plain(example['other'])}</code>",
         f"{example['occurrences']:,}", f"{example['shared']:.2f}"]
        for example in one["examples"]
    ]  # fmt: skip
    return table("The commonest.", ["usual text", "other text of the same code", "times", "shared"], rows)


def _left_out(left_out: dict[str, str]) -> str:
    if not left_out:
        return ""
    items = "".join(f"<li>{plain(name)}: {plain(reason)}</li>" for name, reason in left_out.items())
    return f'<p class="soft">Left out:</p><ul class="soft">{items}</ul>'


def _figure(svg: str, caption: str) -> str:
    inline = svg[svg.index("<svg") :].replace(figures.INK, "currentColor")
    # Matplotlib's fixed size would win over the style sheet's.
    return markup.figure(re.sub(r' (?:width|height)="[\d.]+pt"', "", inline, count=2), caption)


def _interval(value: Interval, digits: int) -> str:
    return f"{value['mean']:.{digits}f} <i>[{value['low']:.{digits}f}, {value['high']:.{digits}f}]</i>"


def _spread(spread: Spread | None) -> str:
    return f"{spread['median']:g} <i>{spread['mean']:.1f}, {spread['p95']:.0f}</i>" if spread else "–"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _whose(held_out: bool) -> str:
    return "held out from what proxies are fitted to" if held_out else "also of those that proxies were fitted to"
