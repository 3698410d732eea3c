"""How bits per byte are drawn: all runs beside yardsticks on the same documents, then by group."""

from collections.abc import Mapping
from typing import Any

from pipelines.report import charts, generic
from pipelines.report.charts import Mark
from pipelines.report.forms import Found, bits_cell, marked, object_in, rows_in
from pipelines.report.markup import figure, name, table
from pipelines.report.runs import number

_CAPTION = (
    "All documents: models (coloured, with intervals; comp: of comp views, which is no code length of the text where "
    "the proxy is lossy) and yardsticks (grey; “one stream” may look at all documents before, which no model does)."
)


def bits(found: Found) -> str | None:
    """Bits per byte of all runs against yardsticks on the same documents, then by group."""
    overall: list[tuple[str, list[Mark]]] = []
    yards: dict[str, list[Mark]] = {}
    by_group: dict[str, list[Mark]] = {}
    rows: list[list[str]] = []
    compared_on: dict[tuple[str, tuple[tuple[str, float], ...]], list[str]] = {}
    for label, at, one in found:
        whole, groups = object_in(one.figures, "all"), one.figures.get("groups")
        if not whole:
            return None
        for view, form in (("raw", ""), ("comp", "comp: ")):
            if (triple := generic.interval(whole.get(view))) is not None:
                overall.append((f"{form}{label}", [marked(f"{form}{label}", at, triple)]))
        for row in [*rows_in(groups), whole]:
            group = str(row.get("group", ""))
            if row is not whole and (triple := generic.interval(row.get("raw"))) is not None:
                by_group.setdefault(group, []).append(marked(label, at, triple))
            rows.append([
                name(label), name(group), *(bits_cell(row.get(key)) for key in ("pieces", "documents", "raw_bytes")),
                *(bits_cell(row.get(key)) if key in row else "–" for key in ("raw", "comp")),
            ])  # fmt: skip
            compared = _yardsticks(row)
            compared_on.setdefault((group, tuple(compared.items())), []).append(name(label))
            if row is whole:
                for yard, value in compared.items():
                    mark = Mark(value=value, label=f"{yard}, on the documents of {label}", colour=charts.GREY)
                    if all(known.value != value for known in yards.setdefault(yard, [])):
                        yards[yard].append(mark)
    names = list(dict.fromkeys(yard for _, _, one in found for yard in _yardsticks(object_in(one.figures, "all"))))
    ranked = sorted([*overall, *yards.items()], key=lambda row: row[1][0].value)
    drawn = charts.intervals("Bits per byte of all documents", "bits per raw byte", ranked)
    parts = [figure(drawn, _CAPTION)]
    if len(by_group) > 1:
        svg = charts.intervals("Bits per byte of raw views by group", "bits per byte", list(by_group.items()))
        parts.append(figure(svg, "Raw views by group."))
    columns = ["run", "group", "pieces", "documents", "bytes", "raw, bits/byte", "comp, bits/raw byte"]
    yard_rows = [
        [name(group), *(bits_cell(known[yard]) if yard in known else "–" for yard in names), ", ".join(labels)]
        for (group, compared), labels in compared_on.items()
        if (known := dict(compared))
    ]
    models = table("Bits per raw byte of models; intervals of 95 % by drawing documents anew.", columns, rows)
    others = table("The same of yardsticks on the same documents.", ["group", *names, "beside"], yard_rows)
    return f'<div class="figures">{"".join(parts)}</div>{models}{others if names else ""}'


def _yardsticks(row: Mapping[str, Any]) -> dict[str, float]:
    """Bits per byte of what models are compared with, by name."""
    named = [(f"Markov {order}", value) for order, value in object_in(row, "markov").items()]
    named += list(object_in(row, "compressors").items())
    return {key: found for key, value in named if (found := number(value)) is not None}
