"""How pass rates of programs are drawn: pass@k of all runs, and what became of the samples."""

from pipelines.report import charts, generic
from pipelines.report.charts import Mark
from pipelines.report.forms import Found, marked_in_percent, object_in, percent
from pipelines.report.markup import figure, name, plain, table


def programs(found: Found) -> str | None:
    """pass@k of generated programs, with and without plus tests, and what became of the samples."""
    marks: dict[str, list[Mark]] = {}
    cells = []
    for label, at, one in found:
        figures = one.figures
        for tests, counted in (("base", "outcomes"), ("plus", "plus_outcomes")):
            passes, outcomes = object_in(figures, tests), object_in(figures, counted)
            estimates = {k: triple for k, value in passes.items() if (triple := generic.interval(value)) is not None}
            for k, triple in estimates.items():
                marks.setdefault(f"{k}, {tests}", []).append(marked_in_percent(f"{label}, {tests}", at, triple))
            if estimates:
                cells.append([
                    name(label), plain(tests), *(generic.cell(figures.get(key)) for key in ("problems", "samples")),
                    ", ".join(f"{plain(k)} {percent(triple)}" for k, triple in estimates.items()),
                    ", ".join(f"{plain(key)} {generic.cell(count)}" for key, count in outcomes.items() if count),
                    generic.cell(figures.get("cut_off")),
                ])  # fmt: skip
    if not cells:
        return None
    drawn = charts.intervals("pass@k", "problems solved, %", list(marks.items()), from_zero=True)
    columns = ["run", "tests", "problems", "samples", "passed", "outcomes of samples", "cut off"]
    unsafe = [label for label, _, one in found if one.figures.get("confined") is False]
    warning = f'<p class="warn">Without a sandbox: {name(", ".join(unsafe))}.</p>' if unsafe else ""
    caption = "Probability that one of k samples passes all tests; intervals of 95 % by drawing problems anew."
    return warning + figure(drawn, caption) + table("", columns, cells)
