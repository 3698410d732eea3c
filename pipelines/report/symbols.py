"""What a dataset holds and how long its symbols are: totals, by group and source, distributions, rejects.

Totals come from the manifest; groups, sources and documents' ratios from two narrow columns of all shards, by DuckDB;
lengths and frequencies of symbols from the sample that `documents.sample` reads.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np

from pipelines import inspect, sql
from pipelines.dataset import Dataset
from pipelines.report import charts
from pipelines.report.charts import Axes, Curve, Mark
from pipelines.report.documents import Row
from pipelines.report.markup import details, figure, name, plain, sized, table
from schemas.errors import UserError

MOST_ROWS = 12
"""Groups or sources that are shown; the others are one row."""

MOST_REJECTS = 20

_RATIO_STEP, _MOST_BARS, _MOST_LABELS = 0.1, 60, 8
_LONGEST = 16
"""Bytes of a symbol that have a bar of their own."""

_BY = """
with by_document as (
  select {key} as name, raw_bytes, comp_symbols, raw_bytes / comp_symbols as ratio
  from documents where comp_symbols > 0)
select name, count(*) as documents, sum(raw_bytes)::bigint as raw_bytes, sum(comp_symbols)::bigint as symbols,
  quantile_disc(ratio, 0.1) as low, quantile_disc(ratio, 0.9) as high
from by_document group by name order by raw_bytes desc, name
"""
_GROUP = '"group"'
_SOURCE = "case when contains(source, '/') then split_part(source, '/', 1) || '/' else '(files beside folders)' end"

_RATIOS = f"""
select floor(raw_bytes / comp_symbols / {_RATIO_STEP} + 1e-9)::bigint as bin, count(*) as documents
from documents where comp_symbols > 0 group by bin order by bin
"""
_REJECTS = """
select reason, stage, count(*) as n, min((detail, source, record, excerpt)) as example
from rejects group by reason, stage order by n desc, reason, stage
"""


def section(data: Dataset, rows: Sequence[Row]) -> str:
    """The section's HTML.

    Raises:
        UserError: a shard that cannot be read.
    """
    parts = [tiles(data)]
    described = data.manifest.dataset["proxy"]
    try:
        with sql.heard_interrupts():
            connection = sql.connect(data.folder.url)
            if data.manifest.totals.comp_symbols:
                groups = connection.execute(_BY.format(key=_GROUP)).fetchall()
                sources = connection.execute(_BY.format(key=_SOURCE)).fetchall()
                parts += _by("group", groups) + (_by("source", sources) if len(sources) > 1 else [])
                counts = _counts(rows)
                ratios = connection.execute(_RATIOS).fetchall()
                parts.append(f'<div class="figures">{_ratios(ratios)}{_lengths(rows)}{_frequencies(counts)}</div>')
                parts.append(_commonest(rows, counts))
            elif described["name"] == "identity":
                parts.append("<p>A dataset of raw bytes has no symbols.</p>")
            if data.manifest.totals.rejects:
                parts.append(_rejects(connection.execute(_REJECTS).fetchall()))
    except duckdb.Error as error:
        url = data.folder.url
        raise UserError(f"DATA={url}: {sql.one_line(error)}; make verify DATA={url} says what is damaged") from None
    return "\n".join(part for part in parts if part)


def tiles(data: Dataset) -> str:
    """The totals, large."""
    totals = data.manifest.totals
    shown = [
        (f"{totals.rows:,}", "documents"),
        (sized(totals.raw_bytes), "of raw text"),
        (f"{totals.comp_symbols:,}", "symbols"),
        (f"{totals.raw_bytes / totals.comp_symbols:.3f}" if totals.comp_symbols else "–", "bytes a symbol"),
        (sized(totals.stored_bytes), "stored"),
        (f"{totals.rejects:,}", "rejects"),
    ]
    for value, words in ((totals.duplicates, "duplicates left out"), (totals.filtered, "filtered")):
        shown += [(f"{value:,}", words)] if value else []
    for value, words in ((totals.escaped_bytes, "of bytes escaped"), (totals.dropped_bytes, "of bytes dropped")):
        shown += [(f"{value / max(1, totals.raw_bytes):.2%}", words)] if value else []
    items = "".join(f"<li><b>{plain(value)}</b> {plain(words)}</li>" for value, words in shown)
    return f'<ul class="tiles">{items}</ul>'


def _by(what: str, found: Sequence[tuple[Any, ...]]) -> list[str]:
    """Chart and table by group or source."""
    rows = list(found[:MOST_ROWS])
    rest = found[MOST_ROWS:]
    marks = [
        (str(label), [Mark(value=raw / symbols, low=low, high=high, label=f"{label}, 10th to 90th percentile")])
        for label, _, raw, symbols, low, high in rows
    ]
    cells = [
        [name(str(label)) or "<i>none</i>", f"{documents:,}", sized(raw), f"{symbols:,}", f"{raw / symbols:.3f}",
         f"{low:.2f} to {high:.2f}"]
        for label, documents, raw, symbols, low, high in rows
    ]  # fmt: skip
    if rest:
        documents, raw, symbols = (sum(row[at] for row in rest) for at in (1, 2, 3))
        cells.append(
            [f"<i>{len(rest):,} others</i>", f"{documents:,}", sized(raw), f"{symbols:,}", f"{raw / symbols:.3f}", ""]
        )
    columns = [what, "documents", "raw", "symbols", "bytes a symbol", "documents' 10 to 90 %"]
    shown = table(f"Bytes a symbol by {what}.", columns, cells)
    if len(rows) < 2:
        return [shown]
    drawn = charts.intervals(f"Bytes a symbol by {what}", "bytes a symbol", marks)
    caption = f"By {what}: all text of it (dot), and from the 10th to the 90th percentile of its documents."
    return [f'<div class="beside">{figure(drawn, caption)}<div>{shown}</div></div>']


def _ratios(found: Sequence[tuple[int, int]]) -> str:
    total = sum(count for _, count in found)
    counts = dict(found)
    # A few documents far out would make the others one bar: the last bar is all beyond the 99.5th percentile.
    passed, first, last = 0, min(counts), min(counts)
    for at, count in found:
        passed, last = passed + count, at
        if passed >= 0.995 * total:
            break
    beyond = total - passed
    columns = []
    together = -(-(last + 1 - first) // _MOST_BARS)  # steps of a bar
    every = -(-(last + 1 - first) // (together * _MOST_LABELS))  # bars of a label
    for number, at in enumerate(range(first, last + 1, together)):
        after = min(at + together, last + 1)
        low, high = at * _RATIO_STEP, after * _RATIO_STEP
        count = sum(counts.get(step, 0) for step in range(at, after))
        label = "" if number % every else f"{low:.1f}"
        columns.append((label, count / total, f"{low:.1f} to {high:.1f}: {count:,} documents"))
    if beyond:
        columns.append(("more", beyond / total, f"above {(last + 1) * _RATIO_STEP:.1f}: {beyond:,} documents"))
    svg = charts.bars("Documents by bytes a symbol", "bytes a symbol", "share of documents", columns)
    return _with_values(figure(svg, f"How documents' ratios spread ({total:,} documents)."), columns)


def _lengths(rows: Sequence[Row]) -> str:
    spans = [row.spans for row in rows if row.spans is not None and len(row.spans)]
    if not spans:
        return ""
    counts = np.bincount(np.concatenate(spans))
    total = int(counts.sum())
    columns = []
    for size in range(min(len(counts), _LONGEST)):
        count = int(counts[size])
        if size or count:
            columns.append(
                (str(size) if size % 2 or size < 9 else "", count / total, f"{size} bytes: {count:,} symbols")
            )
    if longer := int(counts[_LONGEST:].sum()):
        columns.append((f"{_LONGEST}+", longer / total, f"{_LONGEST} bytes and more: {longer:,} symbols"))
    svg = charts.bars("Symbols by the bytes they cover", "bytes a symbol covers", "share of symbols", columns, colour=2)
    return _with_values(figure(svg, f"How long symbols are ({total:,} symbols of the sample)."), columns)


def _with_values(drawn: str, columns: Sequence[tuple[str, float, str]]) -> str:
    """A figure of bars, and what pointing shows as a table that opens on demand."""
    rows = [[*map(plain, words.split(": ", 1)), f"{share:.2%}"] for _, share, words in columns if share]
    return f"<div>{drawn}{details('Values', table('', ['', '', 'share'], rows))}</div>"


def _frequencies(counts: Counter[int]) -> str:
    if not counts:
        return ""
    ranked = sorted(counts.values(), reverse=True)
    total = sum(ranked)
    entropy = -sum(count / total * math.log2(count / total) for count in ranked)
    at = sorted({max(1, round(10 ** (step / 12))) for step in range(12 * 7)} & set(range(1, len(ranked) + 1)))
    points = [(float(rank), ranked[rank - 1] / total) for rank in [*at, len(ranked)]]
    axes = Axes(
        title="Share of symbols by rank", x="rank of a symbol", y="share of all symbols", x_log=True, y_log=True,
        height=206,
    )  # fmt: skip
    svg = charts.curves(axes, [Curve(label="share", points=points, colour=4)])
    return figure(
        svg,
        f"How often each of {len(ranked):,} different symbols of the sample occurs: {entropy:.2f} bits a symbol by "
        "frequency alone.",
    )


def _counts(rows: Sequence[Row]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for row in rows:
        if row.ids is not None:
            counts.update(row.ids.tolist())
    return counts


def _commonest(rows: Sequence[Row], counts: Counter[int]) -> str:
    """The commonest symbols with a text they cover."""
    if not any(row.spans is not None for row in rows):
        return ""
    common = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:16]
    texts: dict[int, Counter[bytes]] = {symbol: Counter() for symbol in common}
    for row in rows:
        if row.ids is None or row.spans is None:
            continue
        ends = np.cumsum(row.spans, dtype=np.int64)
        for place in np.flatnonzero(np.isin(row.ids, common)).tolist():
            end = int(ends[place])
            texts[int(row.ids[place])][row.raw[end - int(row.spans[place]) : end]] += 1
    total = counts.total()
    cells = []
    for symbol in common:
        usual, times = min(texts[symbol].items(), key=lambda item: (-item[1], item[0]))
        others = len(texts[symbol]) - 1
        text = plain(inspect.visible(usual).replace("\n", "")).replace(" ", "␣") or inspect.NOTHING
        cells.append([
            f"<code>{text}</code>", str(symbol), f"{counts[symbol]:,}", f"{counts[symbol] / total:.2%}",
            f"{others:,} <i>{1 - times / counts[symbol]:.1%} of its uses</i>" if others else "–",
        ])  # fmt: skip
    columns = ["text", "id", "times", "of all symbols", "other texts of it"]
    return f"<details><summary>The commonest symbols</summary>{table('', columns, cells)}</details>"


def _rejects(found: Sequence[tuple[Any, ...]]) -> str:
    cells = []
    for reason, stage, count, example in found[:MOST_REJECTS]:
        detail, source, _, excerpt = example.values() if isinstance(example, dict) else example
        shown = plain(inspect.visible(bytes(excerpt)[:60]).replace("\n", ""))
        cells.append([
            plain(reason), plain(stage), f"{count:,}", name(source), plain(detail[:120]), f"<code>{shown}</code>",
        ])  # fmt: skip
    columns = ["reason", "stage", "documents", "for example in", "said", "excerpt"]
    rest = found[MOST_REJECTS:]
    more = f" {sum(row[2] for row in rest):,} more have {len(rest)} other reasons." if rest else ""
    return "<h3>Rejects</h3>" + table(f"Documents that are not in the dataset, by reason.{more}", columns, cells)
