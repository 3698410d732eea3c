"""How the cost of inference is drawn: speed and time to the first byte by model and prompt, bytes a pass by group."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report import charts, generic
from pipelines.report.charts import Axes, Curve, Mark
from pipelines.report.forms import Found, Triple, marked, object_in, rows_in
from pipelines.report.markup import figure, name, sized, table
from pipelines.report.runs import number

MOST_PROMPTS = 4
"""Lengths of prompts that have figures; all are in the table."""


def cost(found: Found) -> str | None:
    """Bytes a second and time to the first byte of each model, by length of the prompt, and bytes a pass by group."""
    speed: dict[float, dict[str, list[Mark]]] = {}
    first: dict[float, dict[str, list[Mark]]] = {}
    cells, accepted, parts = [], [], []
    for label, at, one in found:
        for row in rows_in(one.figures.get("rows")):
            model, prompt, seconds = (
                str(row.get("model", "")),
                number(row.get("prompt_bytes")),
                object_in(row, "seconds"),
            )
            begun, per_byte = (generic.interval(seconds.get(key)) for key in ("first", "per_byte"))
            if prompt is None or begun is None or per_byte is None or min(per_byte) <= 0:
                return None
            rates = (1 / per_byte[0], 1 / per_byte[2], 1 / per_byte[1])
            waits = (1e3 * begun[0], 1e3 * begun[1], 1e3 * begun[2])
            speed.setdefault(prompt, {}).setdefault(model, []).append(marked(label, at, rates))
            first.setdefault(prompt, {}).setdefault(model, []).append(marked(label, at, waits))
            held = (row.get("weight_bytes"), row.get("cache_bytes"), seconds.get("peak_bytes"))
            sizes = map(number, held)
            cells.append([
                name(label), name(model), f"{prompt:,.0f}", _range(rates, ",.0f"),
                generic.cell(row.get("bytes_per_pass")), _range(waits, ",.1f"),
                *("–" if size is None else sized(size) for size in sizes),
            ])  # fmt: skip
        groups = rows_in(one.figures.get("acceptance"))
        parts.append(_accepted(label, groups))
        accepted += [
            [name(label), name(str(row.get("group", ""))), generic.cell(object_in(row, "bytes_per_pass"))]
            for row in groups
        ]
    if not cells:
        return None
    drawn = []
    for prompt in sorted(speed)[:MOST_PROMPTS]:
        said = f"after a prompt of {prompt:,.0f} bytes"
        svg = charts.intervals(f"Bytes a second {said}", "bytes a second", list(speed[prompt].items()), from_zero=True)
        drawn.append(figure(svg, f"Speed of writing {said}: median of the rounds, least and greatest."))
        svg = charts.intervals(f"First byte {said}", "milliseconds", list(first[prompt].items()), from_zero=True)
        drawn.append(figure(svg, f"Time to the first byte {said}."))
    columns = [
        "run", "model", "prompt", "bytes a second", "bytes a pass", "first byte, ms", "weights", "cache",
        "peak beyond weights",
    ]  # fmt: skip
    figures = f'<div class="figures">{"".join([*drawn, *parts])}</div>'
    by_group = table("Bytes a pass by number of heads, by group.", ["run", "group", "heads: bytes a pass"], accepted)
    return figures + table("", columns, cells) + (by_group if accepted else "")


def _accepted(label: str, groups: Sequence[Mapping[str, Any]]) -> str:
    """How many bytes a pass makes with more heads, a line for each group."""
    lines_of = []
    for at, row in enumerate(groups):
        rates = {number(_as_number(heads)): number(rate) for heads, rate in object_in(row, "bytes_per_pass").items()}
        points = sorted((heads, rate) for heads, rate in rates.items() if heads is not None and rate is not None)
        if points:
            group = str(row.get("group", ""))
            lines_of.append(Curve(label=group, points=points, colour=at, form="dots", letter=group[:8]))
    if not any(len(line.points) > 1 for line in lines_of):
        return ""
    axes = Axes(title=f"{label}: bytes a pass by heads", x="heads", y="bytes a pass", from_zero=True, height=206)
    return figure(charts.curves(axes, lines_of), f"{label}: bytes that a pass makes, by heads and group of text.")


def _as_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _range(triple: Triple, form: str) -> str:
    middle, low, high = (format(value, form) for value in triple)
    return f"{middle} <i>{low} to {high}</i>"
