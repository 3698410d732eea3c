"""One self-contained page of what both measurements found: it shows whichever results lie in a folder.

No script, nothing from a network; figures are inline SVG, and colours follow the reader's light or dark mode.
"""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.measure import figures, results
from pipelines.measure.edits import KINDS
from pipelines.measure.results import Count, Fuzziness, FuzzinessOf, Interval, Part, Spread, Stability
from pipelines.measure.verdict import ALIKE_SHARE, LEAST_BYTES, LOST_SHARE, RARE_SHARE, verdict
from schemas.errors import UserError

PAGE = "index.html"

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --paper: #fcfcfa; --soft: #5b6673; --line: #d9dde2; --card: #f1f3f4;
  --good: #2e7d4f; --open: #2f6aa8; --doubt: #9a6a00; --bad: #b3362f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --paper: #14181d; --soft: #9aa5b1; --line: #333b44;
  --card: #1d232a; --good: #6fc492; --open: #82b4e8; --doubt: #e0b04c; --bad: #ef857d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .6rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; } p { margin: .5rem 0; max-width: 46rem; }
.soft, figcaption, .caption { color: var(--soft); font-size: .875rem; }
dl { margin: 1rem 0; display: grid; gap: .5rem; }
dl > div { background: var(--card); border-left: 4px solid var(--soft); border-radius: 4px; padding: .5rem .8rem; }
dt { font-weight: 600; } dd { margin: 0; } dt span { font-weight: 400; font-size: .875rem; margin-left: .5rem; }
.promising { border-color: var(--good) !important; } .promising dt span { color: var(--good); }
.open { border-color: var(--open) !important; } .open dt span { color: var(--open); }
.doubtful { border-color: var(--doubt) !important; } .doubtful dt span { color: var(--doubt); }
.unsuitable { border-color: var(--bad) !important; } .unsuitable dt span { color: var(--bad); }
.reference dt span { color: var(--soft); }
.scroll { overflow-x: auto; margin: .2rem 0 1rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
.caption { margin: 1rem 0 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
td i { font-style: normal; color: var(--soft); font-size: .8rem; }
figure { margin: 1rem 0; } figure svg { width: 100%; max-width: 34rem; height: auto; display: block; }
code { font: .8125rem/1.4 ui-monospace, monospace; white-space: pre; } td:has(code) { text-align: left; }
summary { cursor: pointer; margin: .6rem 0; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

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
    drawn = figures.stability_figures(stability) if stability else {}
    drawn |= figures.fuzziness_figures(fuzziness["variants"]) if fuzziness else {}
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


def render(stability: Stability | None, fuzziness: Fuzziness | None, drawn: dict[str, str]) -> str:
    """The page.

    Args:
        stability: its results, if there are any.
        fuzziness: likewise.
        drawn: the figures, SVG by name.
    """
    corpora = list(dict.fromkeys(found["corpus"] for found in (stability, fuzziness) if found))
    parts = [_INTRODUCTION, _verdicts(stability, fuzziness)]
    if stability:
        parts.append(_stability(stability, drawn))
    if fuzziness:
        parts.append(_fuzziness(fuzziness, drawn))
    title = html.escape(f"Proxies on {' and '.join(corpora)}")
    return _PAGE.format(title=title, style=_STYLE, body="\n".join(parts))


def _verdicts(stability: Stability | None, fuzziness: Fuzziness | None) -> str:
    stable = {one["variant"]: one for one in stability["variants"]} if stability else {}
    fuzzy = {one["variant"]: one for one in fuzziness["variants"]} if fuzziness else {}
    items = []
    for name in dict.fromkeys([*stable, *fuzzy]):
        level, text = verdict(stability, stable.get(name), fuzzy.get(name))
        items.append(
            f'<div class="{level}"><dt>{html.escape(name)}<span>{level}</span></dt><dd>{html.escape(text)}</dd></div>'
        )
    rules = (
        f"Unsuitable: the median single edit changes {LOST_SHARE:.0%} of a piece's symbols or more. Doubtful: under "
        f"{LEAST_BYTES:g} bytes a symbol, or over {RARE_SHARE:.0%} of the chunks collide and fewer than "
        f"{ALIKE_SHARE:.0%} of these texts share 0.8 of their length with the usual one. Open: neither, and less "
        "stable than BPE on the same pieces, beyond the 95 % interval; the paper's neural compressor was less stable "
        "than a tokenizer and transferred. Promising: none of these. More bytes a symbol train faster."
    )
    return f'<h2>Verdicts</h2>\n<dl>{"".join(items)}</dl>\n<p class="soft">{html.escape(rules)}</p>'


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
        name = _text(one["variant"])
        floor = f"{one['floors'][main]:.3f}"
        deleted, inserted, substituted = (_interval(one["distances"][kind][main], 3) for kind in KINDS)
        distances.append([name, _interval(one["bytes_per_symbol"], 2), deleted, floor, inserted, substituted])
        reached = one["resynchronisation"]
        used = f"{one['vocabulary_used']:.1%} <i>of {one['vocabulary']:,}</i>"
        spreads = (_spread(reached["symbols"]), _spread(reached["raw_bytes"]))
        symbols.append([name, *spreads, f"{one['symbol_entropy']:.2f}", used])
    all_edits = [
        [_text(one["variant"]), kind, *(_interval(one["distances"][kind][rate], 3) for rate in result["rates"])]
        for one in result["variants"]
        for kind in KINDS
    ]
    parts = [
        "<h2>Stability</h2>",
        f"<p>{_text(about)}</p>",
        _figure(drawn["stability-frontier"], "Lower is more stable, further right trains faster."),
        _table(
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
        _table(
            "What one edit changes (median; mean, 95th percentile), and how symbols are used.",
            ["proxy", "symbols", "raw bytes", "entropy, bits", "vocabulary used"],
            symbols,
        ),
        _details(
            "All distances", _table("", ["proxy", "edit", *(f"{float(r):.0%}" for r in result["rates"])], all_edits)
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
    rows = [[_text(name), *(_part(parts[key]) for key in keys)] for name, parts in by_variant.items()]
    caption = f"Main distance and bytes a symbol by {what} (pieces); only those with enough pieces."
    return f"<h3>By {what}</h3>" + _table(
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
            _text(one["variant"]),
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
        f"<p>{_text(about)}</p>",
        _table("Collisions; in small print, shares of occurrences.", columns, rows),
    ]
    colliding_variants = [one for one in result["variants"] if one["colliding"]["unique"]]
    if colliding_variants:
        parts.append(_figure(drawn["fuzziness-lcp"], "How much colliding chunks share with the usual one."))
        parts.append(_differences(colliding_variants))
        parts += [_details(f"Examples of {one['variant']}", _examples(one)) for one in colliding_variants]
    parts.append(_left_out(result["left_out"]))
    return "\n".join(part for part in parts if part)


def _differences(variants: Sequence[FuzzinessOf]) -> str:
    def cell(count: Count, total: Count) -> str:
        by_occurrence = _share(count["occurrences"], total["occurrences"])
        return f"{_share(count['unique'], total['unique'])} <i>{by_occurrence}</i>"

    kinds = list(variants[0]["differences"])
    rows = [
        [_text(one["variant"]), *(cell(one["differences"][kind], one["colliding"]) for kind in kinds)]
        for one in variants
    ]
    return _table(
        "What differs after the common prefix: of different chunks, and by occurrence.", ["proxy", *kinds], rows
    )


def _examples(one: FuzzinessOf) -> str:
    rows = [
        [f"<code>{_text(example['usual'])}</code>", f"<code>{_text(example['other'])}</code>",
         f"{example['occurrences']:,}", f"{example['shared']:.2f}"]
        for example in one["examples"]
    ]  # fmt: skip
    return _table("The commonest.", ["usual text", "other text of the same code", "times", "shared"], rows)


def _left_out(left_out: dict[str, str]) -> str:
    if not left_out:
        return ""
    items = "".join(f"<li>{_text(name)}: {_text(reason)}</li>" for name, reason in left_out.items())
    return f'<p class="soft">Left out:</p><ul class="soft">{items}</ul>'


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns are text, cells HTML."""
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    above = f'<p class="caption">{_text(caption)}</p>' if caption else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{above}<div class="scroll">{table}</div>'


def _figure(svg: str, caption: str) -> str:
    inline = svg[svg.index("<svg") :].replace(figures.INK, "currentColor")
    # Matplotlib's fixed size would win over the style sheet's.
    inline = re.sub(r' (?:width|height)="[\d.]+pt"', "", inline, count=2)
    return f"<figure>{inline}<figcaption>{_text(caption)}</figcaption></figure>"


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{body}</details>"


def _interval(value: Interval, digits: int) -> str:
    return f"{value['mean']:.{digits}f} <i>[{value['low']:.{digits}f}, {value['high']:.{digits}f}]</i>"


def _spread(spread: Spread | None) -> str:
    return f"{spread['median']:g} <i>{spread['mean']:.1f}, {spread['p95']:.0f}</i>" if spread else "–"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _whose(held_out: bool) -> str:
    return "held out from what proxies are fitted to" if held_out else "also of those that proxies were fitted to"


def _text(text: str) -> str:
    return html.escape(text)
