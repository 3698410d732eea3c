"""How robustness is drawn: pass@1 of prompts as they are and perturbed, by family; drops; perturbed prompts."""

from collections.abc import Mapping
from typing import Any

from pipelines.report import charts, generic
from pipelines.report.charts import Mark
from pipelines.report.forms import Found, marked_in_percent, object_in, percent
from pipelines.report.markup import details, figure, name, table

_FIGURES = {
    "nominal": "unperturbed", "robust": "in every form", "drop": "drop", "relative": "changed either way",
    "attack": "lost of those that passed",
}  # fmt: skip


def robustness(found: Found) -> str | None:
    """Nominal and robust pass@1 by family, all runs beside each other; methods and examples on demand."""
    passed: dict[str, list[Mark]] = {}
    dropped: dict[str, list[Mark]] = {}
    rows, more = [], []
    for label, at, one in found:
        groups = {"all": object_in(one.figures, "overall")}
        groups |= {str(key): value for key, value in _objects(one.figures, "families").items()}
        if generic.interval(groups["all"].get("robust")) is None:
            return None
        for family, group in groups.items():
            nominal, robust, drop = (generic.interval(group.get(key)) for key in ("nominal", "robust", "drop"))
            if nominal is not None:
                before = Mark(value=100 * nominal[0], label=f"{label}, unperturbed", colour=at, yardstick=True)
                passed.setdefault(family, []).append(before)
            if robust is not None:
                passed.setdefault(family, []).append(marked_in_percent(label, at, robust))
            if drop is not None:
                dropped.setdefault(family, []).append(marked_in_percent(label, at, drop))
            rows.append([name(label), *_cells(family, group)])
        methods = _objects(one.figures, "methods")
        if methods:
            columns = ["family and method", *_FIGURES.values(), "forms", "unchanged"]
            cells = [_cells(str(key), value) for key, value in methods.items()]
            more.append(details(f"{label}: by method ({len(methods)})", table("", columns, cells)))
        examples = generic.rows_of(one.figures.get("examples"))
        if examples is not None:
            more.append(details(f"{label}: perturbed prompts", table("", *examples)))
    drawn = []
    if passed:
        svg = charts.intervals(
            "pass@1 by family", "problems solved in every form, %", list(passed.items()), from_zero=True
        )
        drawn.append(figure(svg, "Solved in every perturbed form (dot); broken line: as they are."))
    if dropped:
        svg = charts.intervals("Drop by family", "drop, %", list(dropped.items()), from_zero=True)
        drawn.append(figure(svg, "Drop: of the problems solved as they are, net share lost in the worst form."))
    columns = ["run", "family", *_FIGURES.values(), "forms", "unchanged"]
    caption = "Shares of problems; intervals of 95 % by drawing problems anew."
    return f'<div class="figures">{"".join(drawn)}</div>{table(caption, columns, rows)}{"".join(more)}'


def _objects(value: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    return {inner: group for inner, group in object_in(value, key).items() if isinstance(group, Mapping)}


def _cells(label: str, group: Mapping[str, Any]) -> list[str]:
    shares = [generic.interval(group.get(key)) for key in _FIGURES]
    counts = [generic.cell(group.get(key)) for key in ("forms", "unchanged")]
    return [name(label), *("–" if share is None else percent(share) for share in shares), *counts]
