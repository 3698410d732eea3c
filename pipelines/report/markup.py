"""The HTML that pages are made of: style sheet, escaping, tables, figures; the page of `measure` is made of it too.

A page has no script and asks for nothing from a network: its Content-Security-Policy allows inline styles alone, so
whatever a document's text holds, nothing runs. Colours follow the reader's light or dark mode. `plain` escapes and
makes visible what cannot be printed, control characters and marks of direction among it; names that come from files
go through `name`, so that a name in a right-to-left script does not turn the text around it.
"""

import html
import unicodedata
from collections.abc import Iterable, Sequence

STYLE = """
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
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: str, body: str, *, style: str = STYLE) -> str:
    """A whole page; the title is text, the body HTML."""
    return _PAGE.format(title=plain(title), style=style, body=body)


def visible(text: str) -> str:
    r"""The text with whatever cannot be seen written as Python writes it: `\x00`, `\u202e`, a lone surrogate."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def plain(text: str) -> str:
    """Text as HTML, for content and attribute values."""
    return html.escape(visible(text))


def lines(text: str) -> str:
    """As `plain`, with line ends kept: for `code` of class `wrap`."""
    return "\n".join(map(plain, text.split("\n")))


def name(text: str) -> str:
    """A name out of a file as HTML, apart from the text around it in direction and sound to a reader."""
    shown = plain(text)
    if text.isascii():
        return shown
    right_to_left = any(unicodedata.bidirectional(one) in ("R", "AL") for one in text)
    return f"<bdi>{shown}</bdi>" if right_to_left else shown


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways within itself; columns are text, cells HTML."""
    head = "".join(f'<th scope="col">{plain(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    above = f'<p class="caption">{plain(caption)}</p>' if caption else ""
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    label = plain(caption or "table")
    return f'{above}<div class="scroll" tabindex="0" role="region" aria-label="{label}">{whole}</div>'


def figure(svg: str, caption: str) -> str:
    """A drawing with the text below it."""
    return f"<figure>{svg}<figcaption>{plain(caption)}</figcaption></figure>"


def details(summary: str, body: str, *, is_open: bool = False) -> str:
    """A part that opens on demand."""
    return f"<details{' open' if is_open else ''}><summary>{plain(summary)}</summary>{body}</details>"


def sized(value: float) -> str:
    """Bytes for people, 1e3 a step: 31.5 MB."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= step:
            return f"{value / step:.1f} {unit}"
    return f"{value:.0f} B"
