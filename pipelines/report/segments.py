"""Real text cut at its symbols under each proxy: the dataset's own as it is stored, others encoded here.

Each symbol is a radio button's label, so that without a script one can point at it, tap it, or come to a text by Tab
and walk through its symbols by the arrow keys; what is known of the symbol then stands below the text. The colour
changes from symbol to symbol and is stronger the more bytes a symbol covers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines import inspect
from pipelines.proxies import EncodedBatch, Proxy
from pipelines.proxies.base import U16, U32
from pipelines.report.at_hand import AtHand
from pipelines.report.documents import Row
from pipelines.report.markup import lines, name, plain
from schemas.vocabulary import COMP_OFFSET

ENCODED_BYTES = 1 << 16
"""Of a document that is shown, at most: the rest would be encoded for nothing but a ratio."""

LINE_BYTES = 88
"""Of the line that is shown under all proxies, at most."""

LINE_WITHIN = 2048
"""Bytes at a document's start that it is looked for in."""

SHOWN_IDS = 160
"""Of a view whose symbols cover no definite bytes."""

STYLE = """
:root { --a1: #e6f0fa; --a2: #cfe3f6; --a3: #b0d1f0; --a4: #8fbfea; --b1: #fdf3dc; --b2: #fae6b8; --b3: #f6d78f;
  --b4: #efc25b; --escape: #f6c4cf; }
@media (prefers-color-scheme: dark) { :root { --a1: #1d3042; --a2: #23405c; --a3: #2a5278; --a4: #336697; --b1: #3a2f17;
  --b2: #51401b; --b3: #6b531d; --b4: #836420; --escape: #7c2f42; } }
.views { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  margin: .6rem 0 1.6rem; align-items: start; }
.cut { border: 1px solid var(--line); border-radius: 8px; margin: 0; padding: .3rem .7rem .6rem; min-width: 0; }
.cut legend { font-size: .875rem; padding: 0 .3rem; color: var(--soft); } .cut legend b { color: var(--ink); }
.cut .text { position: relative; font: .8125rem/1.75 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; direction: ltr; padding-bottom: 4.9rem; }
.cut label { cursor: pointer; unicode-bidi: isolate; } .cut label span { border-radius: 3px; padding: .1em 0; }
.cut input { appearance: none; position: absolute; margin: 0; width: 1px; height: 1px; opacity: 0; }
.s1 { background: var(--a1); } .s2 { background: var(--a2); } .s3 { background: var(--a3); }
.s4 { background: var(--a4); }
label:nth-child(even) .s1, .stack span:nth-child(even).s1 { background: var(--b1); }
label:nth-child(even) .s2, .stack span:nth-child(even).s2 { background: var(--b2); }
label:nth-child(even) .s3, .stack span:nth-child(even).s3 { background: var(--b3); }
label:nth-child(even) .s4, .stack span:nth-child(even).s4 { background: var(--b4); }
label .s0 { background: none; color: var(--soft); } label .esc, .stack .esc { background: var(--escape) !important; }
u { text-decoration: underline wavy var(--bad) 1px; text-underline-offset: 3px; }
.cut label:hover span, .cut input:checked + span { outline: 2px solid var(--ink); outline-offset: 0; }
.cut input:focus-visible + span { outline: 3px solid var(--open); }
.cut em, .cut .hint { position: absolute; inset: auto 0 0 0; height: 4.5rem; overflow: auto; margin: 0;
  font: .8125rem/1.45 system-ui, sans-serif; color: var(--soft); border-top: 1px solid var(--line); padding-top: .35rem;
  background: var(--paper); white-space: normal; max-width: none; }
.cut em { display: none; color: var(--ink); font-style: normal; z-index: 1; }
.cut em code { white-space: pre-wrap; overflow-wrap: anywhere; }
.cut label:hover em, .cut label:focus-within em, .cut input:checked ~ em { display: block; }
.cut .text:has(label:hover) label:not(:hover) em { display: none; }
.stack { font: .8125rem/2 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.stack td { padding: .1rem .7rem .1rem 0; border: 0; text-align: left; white-space: pre; unicode-bidi: isolate; }
.stack td:first-child { font: .875rem/2 system-ui, sans-serif; } .stack td:last-child { color: var(--soft); }
.stack span { padding: .25em 0; unicode-bidi: isolate; box-shadow: inset 1px 0 var(--paper); }
.cut .ids { padding-bottom: 0; color: var(--soft); }
.key span { padding: .1em .45em; border-radius: 3px; color: var(--ink); font-size: .8125rem; }
@media print { .cut { break-inside: avoid; } .cut .text { padding-bottom: 0; } .cut .hint { display: none; } }
"""


def section(rows: Sequence[Row], shown: Sequence[Row], at_hand: Sequence[AtHand], limit: int) -> str:
    """The section's HTML.

    Args:
        rows: the sample, in which symbols are counted.
        shown: documents to show.
        at_hand: see `at_hand`; the first is the dataset's own.
        limit: bytes of a document to show.
    """
    counts: Counter[int] = Counter()
    for row in rows:
        if row.ids is not None:
            counts.update(row.ids.tolist())
    read = sum(len(row.raw) for row in rows)
    parts = [
        "<p>The same text under each proxy. A stronger colour is a symbol of more bytes; point at a symbol, tap it, or "
        "walk with Tab and the arrow keys to see what it is. Shown are documents whose bytes per symbol are nearest to "
        "the dataset's, held-out ones if there are such.</p>",
        '<p class="key">bytes of a symbol: '
        + " ".join(f'<span style="background:var(--a{n})">{words}</span>' for n, words in _KEY)
        + ' <span style="background:var(--escape)">escaped</span> <u>underlined</u>: covered and not '
        "coded, since texts with other endings share the symbol</p>",
    ]
    for number, row in enumerate(shown):
        views = [
            view_of(one, row, own=place == 0)
            for place, one in enumerate(at_hand)
            if one.proxy is not None or (place == 0 and row.ids is not None)
        ]
        if number == 0:
            parts.append(_stack(views))
        group = f", group {name(row.group)}" if row.group else ""
        side = "held out" if row.held_out else "of the training side"
        drawn = [_view(f"d{number}v{place}", view, counts, read, limit) for place, view in enumerate(views)]
        parts.append(
            f"<h3>{name(row.source)}{f', piece {row.piece}' if row.piece else ''}</h3>"
            f'<p class="soft">{len(row.raw):,} bytes{group}, {side}, document {plain(row.doc_id[:12])}</p>'
            f'<div class="views">{"".join(drawn)}</div>'
        )
    missing = [one for one in at_hand if one.proxy is None and one.label != at_hand[0].label]
    if missing:
        items = "".join(f"<li>{plain(one.label)}: {plain(one.reason)}</li>" for one in missing)
        parts.append(f'<p class="soft">Not shown:</p><ul class="soft">{items}</ul>')
    return "\n".join(parts)


_KEY = ((1, "1"), (2, "2"), (3, "3 to 4"), (4, "5 and more"))


@dataclass(frozen=True)
class View:
    """A document under one proxy: `ids` and `spans` as of `Row`; `own` if it is as the dataset has it.

    `raw` are the bytes that the symbols are of, `whole` is the document's length: of long ones a part is encoded here.
    """

    proxy: AtHand
    raw: bytes
    whole: int
    ids: U32 | None
    spans: U16 | None
    own: bool


def view_of(one: AtHand, row: Row, *, own: bool) -> View:
    """A document as it is stored, or encoded now."""
    if own and row.ids is not None:
        return View(one, row.raw, len(row.raw), row.ids, row.spans, True)
    assert one.proxy is not None
    raw = row.raw[:ENCODED_BYTES]
    encoded = one.proxy.encode(raw)
    ids, spans = (None, None) if encoded is None else (encoded.ids, encoded.spans)
    return View(one, raw, len(row.raw), ids, spans, own)


def _stack(views: Sequence[View]) -> str:
    """One line of text under each proxy, below each other: in type of one width boundaries can be compared."""
    with_spans = [view for view in views if view.ids is not None and view.spans is not None]
    if len(with_spans) < 2:
        return ""
    start, end = _line(with_spans[0].raw)
    rows = []
    for view in with_spans:
        document = {"raw": view.raw, "comp": view.ids, "spans": view.spans}
        inside = [one for one in inspect.symbols(document, end) if one.at + len(one.data) > start]
        cells = []
        for symbol in inside:
            seen = symbol.data[max(0, start - symbol.at) : end - symbol.at]
            kind = "esc" if symbol.is_escape else f"s{_strength(len(symbol.data))}"
            cells.append(f'<span class="{kind}">{plain(inspect.visible(seen))}</span>')
        rows.append([name(view.proxy.label), "".join(cells), f"{len(inside)} symbols"])
    body = "".join(f"<tr><td>{label}</td><td>{cells}</td><td>{size}</td></tr>" for label, cells, size in rows)
    return (
        '<p class="caption">One line of it under each proxy.</p><div class="scroll" tabindex="0" role="region" '
        f'aria-label="One line under each proxy"><table class="stack"><tbody>{body}</tbody></table></div>'
    )


def _line(raw: bytes) -> tuple[int, int]:
    """Bounds of the longest line of ASCII near the document's start, cut to what a screen holds; else of the start."""
    best, at = (0, min(len(raw), LINE_BYTES)), 0
    longest = 0
    for line in raw[:LINE_WITHIN].split(b"\n"):
        text = line.lstrip()
        if len(text) > longest and text.isascii():
            longest, start = len(text), at + len(line) - len(text)
            best = start, start + min(len(text), LINE_BYTES)
        at += len(line) + 1
    return best


def _view(key: str, view: View, counts: Counter[int], read: int, limit: int) -> str:
    """A document under one proxy; `counts` are of the dataset's own symbols."""
    raw, ids = view.raw, view.ids
    count = len(raw) if ids is None else len(ids)
    whose = "; this dataset" if view.own else ""
    part = f" of its first {len(raw):,} bytes" if len(raw) < view.whole else ""
    ratio = f"{count:,} symbols{part}, {len(raw) / max(1, count):.2f} bytes each"
    legend = f"<legend><b>{name(view.proxy.label)}</b>{whose}: {ratio}</legend>"
    if ids is None:
        body = f'<div class="text ids">{plain_text(raw[:limit])}</div>'
    elif view.spans is None:
        body = _ids_only(ids)
    else:
        body = _symbols(key, view, ids, view.spans, counts if view.own else None, read, limit)
    return f'<fieldset class="cut">{legend}{body}</fieldset>'


def plain_text(raw: bytes) -> str:
    """Bytes as HTML in which nothing is hidden; line ends are kept."""
    return lines(inspect.visible(raw))


def _ids_only(ids: U32) -> str:
    shown = "".join(
        f"<label><span class=s1>{int(symbol) - COMP_OFFSET:02x}</span></label>" for symbol in ids[:SHOWN_IDS]
    )
    more = f" and {len(ids) - SHOWN_IDS:,} more" if len(ids) > SHOWN_IDS else ""
    return (
        f'<div class="text ids">{shown}{more}</div>'
        '<p class="soft">These symbols cover no definite bytes: each hangs on all the text before it.</p>'
    )


def _symbols(key: str, view: View, ids: U32, spans: U16, counts: Counter[int] | None, read: int, limit: int) -> str:
    document = {"raw": view.raw, "comp": ids, "spans": spans}
    listed = list(inspect.symbols(document, limit))
    kept = _kept(view.proxy.proxy, ids[: len(listed)])
    labels = []
    for place, symbol in enumerate(listed):
        whole = symbol.data if kept is None else kept[place]
        tail = symbol.data[len(whole) :] if symbol.data.startswith(whole) else b""
        shown = plain_text(symbol.data[: len(symbol.data) - len(tail)]) if symbol.data else inspect.NOTHING
        if tail:
            shown += f"<u>{plain_text(tail)}</u>"
        kind = "esc" if symbol.is_escape else f"s{_strength(len(symbol.data))}"
        about = _about(symbol, place, len(ids), tail, counts, read)
        labels.append(
            f'<label><input type="radio" name="{key}"><span class="{kind}">{shown}</span><em>{about}</em></label>'
        )
    end = listed[-1].at + len(listed[-1].data) if listed else 0
    more = f'<span class="soft">… {view.whole - end:,} bytes more</span>' if end < view.whole else ""
    hint = '<p class="hint">Point at, tap, or walk through the symbols.</p>'
    return f'<div class="text">{"".join(labels)}{more}{hint}</div>'


def _kept(proxy: Proxy | None, ids: U32) -> list[bytes] | None:
    """What each symbol itself stands for, under a proxy that drops tails; None under others."""
    if proxy is None or proxy.lossless or not proxy.provable:
        return None
    return proxy.decode_batch(EncodedBatch(ids, None, np.ones(len(ids), np.int64)))


def _strength(size: int) -> int:
    return 0 if not size else 1 if size == 1 else 2 if size == 2 else 3 if size <= 4 else 4


def _about(symbol: inspect.Symbol, place: int, count: int, tail: bytes, counts: Counter[int] | None, read: int) -> str:
    size = len(symbol.data)
    code = f"byte {symbol.id - 64} escaped" if symbol.is_escape else f"{COMP_OFFSET} + {symbol.id - COMP_OFFSET}"
    parts = [f"<b>Symbol {place + 1:,} of {count:,}</b>, id {symbol.id} ({code})"]
    if size:
        where = f"byte {symbol.at:,}" if size == 1 else f"bytes {symbol.at:,} to {symbol.at + size - 1:,}"
        more = " …" if size > 24 else ""
        parts.append(f"{where}, length {size}: <code>{symbol.data[:24].hex(' ')}{more}</code>")
    else:
        parts.append("covers no bytes of its own: it carries on the symbol before")
    if tail:
        parts.append(
            f"shared tail <code>{plain(inspect.visible(tail))}</code>: the symbol does not code it, and texts that end "
            "otherwise have the same symbol"
        )
    if counts is not None:
        parts.append(f"{counts[symbol.id]:,} times in the {read / 1e6:.1f} MB read")
    return "; ".join(parts)
