"""How a study is drawn: does the model read the comp view, then bits per byte by arm and over training, then tables.

Dots are means over seeds and whiskers the range over them: with one seed there is none. The tables are the ones of the
study's own results.md.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.report import charts
from pipelines.report.charts import COLOURS, Axes, Curve, Mark
from pipelines.report.forms import object_in, rows_in
from pipelines.report.markup import details, figure, name, plain, table
from pipelines.report.runs import Object, number

_ByArm = dict[str, list[Mapping[str, Any]]]


def drawn(results: Object) -> str | None:
    """Figures and tables; None of what has not the form of a study's results."""
    plan, runs = object_in(results, "plan"), rows_in(results.get("runs"))
    found = object_in(results, "tables")
    if not plan or not runs or not found:
        return None
    scales = list(dict.fromkeys(str(run.get("scale", "")) for run in runs))
    by_scale = {scale: _by_arm([run for run in runs if str(run.get("scale", "")) == scale]) for scale in scales}
    parts = [_head(plan, results, len(runs))]
    if len(scales) > 1:
        parts.append(charts.legend([("", scale, at, "dots") for at, scale in enumerate(scales)]))
    parts.append(f'<div class="figures">{_gates(plan, by_scale)}{_bits(plan, by_scale)}</div>')
    for scale in scales:
        parts.append(f"<h3>{name(scale)}</h3>" if len(scales) > 1 else "")
        parts.append(_training(plan, by_scale[scale]))
        parts += [_table(one) for one in rows_in(found.get(scale))]
    return "".join(parts)


def _head(plan: Mapping[str, Any], results: Object, done: int) -> str:
    of = number(results.get("of"))
    count = f"{done:,} of {of:,.0f} runs are done. " if of is not None else ""
    return f"<p>{plain(count + str(plan.get('test', '')))}</p>"


def _by_arm(runs: Sequence[Mapping[str, Any]]) -> _ByArm:
    found: _ByArm = defaultdict(list)
    for run in runs:
        found[str(run.get("arm", ""))].append(run)
    return found


def _gates(plan: Mapping[str, Any], by_scale: Mapping[str, _ByArm]) -> str:
    rows = _rows(by_scale, "gate")
    gate = number(plan.get("gate"))
    if not rows:
        return ""
    if gate is not None:
        for _, marks in rows:
            marks.append(Mark(value=gate, label="gate", colour=charts.GREY, yardstick=True))
    svg = charts.intervals("Own minus another's comp view", "bits per byte", rows)
    return figure(
        svg,
        "Does the model read the comp view: bits per byte of raw bytes after their own comp view less those after "
        "another document's. An arm is aligned if it is left of the dashed line at every seed, its interval below 0; "
        "what others differ by is not transfer.",
    )


def _bits(plan: Mapping[str, Any], by_scale: Mapping[str, _ByArm]) -> str:
    # a starved arm is past its best at its end: beside the others it would look like something that it is not
    others = {
        str(arm.get("name"))
        for arm in rows_in(plan.get("arms"))
        if arm.get("of") is not None or arm.get("raw_text_bytes") is not None
    }
    rows = [row for row in _rows(by_scale, "raw_bits_per_byte") if row[0] not in others]
    if not rows:
        return ""
    svg = charts.intervals("Raw bits per byte by arm", "bits per byte", rows)
    return figure(
        svg,
        "Raw bits per byte of held-out documents, arms of all ids and all raw text: mean and range over the seeds that "
        "are done. A model of symbols alone has no such figure; it and other arms are in the tables.",
    )


def _rows(by_scale: Mapping[str, _ByArm], key: str) -> list[tuple[str, list[Mark]]]:
    """A row for each arm, a mark for each scale."""
    rows = []
    for arm in dict.fromkeys(arm for by_arm in by_scale.values() for arm in by_arm):
        marks = []
        for at, (scale, by_arm) in enumerate(by_scale.items()):
            values = [value for run in by_arm.get(arm, []) if (value := number(run.get(key))) is not None]
            if values:
                several = len(values) > 1
                marks.append(
                    Mark(
                        value=statistics.fmean(values),
                        low=min(values) if several else None,
                        high=max(values) if several else None,
                        label=f"{arm}, {scale}",
                        colour=at,
                    )
                )
        if marks:
            rows.append((arm, marks))
    return rows


def _training(plan: Mapping[str, Any], by_arm: _ByArm) -> str:
    """Curves of the arms that see all ids, and of those that are starved of raw text."""
    arms = [arm for arm in rows_in(plan.get("arms")) if arm.get("of") is None]
    parts = []
    for title, is_starved in (("all raw text", False), ("little raw text", True)):
        names = [str(arm.get("name", "")) for arm in arms if (arm.get("raw_text_bytes") is not None) is is_starved]
        found = [curve for arm in names for curve in _curve(arm, by_arm.get(arm, []))]
        if not found:
            continue
        lines = [
            replace(line, colour=at, letter=chr(ord("A") + at), form="line" if at < COLOURS else "dashed")
            for at, line in enumerate(found[: 2 * COLOURS])
        ]
        axes = Axes(title=f"Raw bits per byte, {title}", x="ids, millions", y="raw bits per byte, held out")
        said = charts.legend([(line.letter, line.label, line.colour, line.form) for line in lines])
        more = f" The first {len(lines)} of {len(found)} arms." if len(found) > len(lines) else ""
        caption = f"While training, arms of {title}: mean over seeds, the range shaded.{more}"
        values = details("Values of the curves", _values(found))
        parts.append(f"<div>{said}{figure(charts.curves(axes, lines), caption)}{values}</div>")
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def _curve(arm: str, runs: Sequence[Mapping[str, Any]]) -> Iterator[Curve]:
    """Mean over seeds, where all have a point; nothing, if there is none."""
    by_step: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        for point in rows_in(run.get("curve")):
            step, pair = number(point.get("step")), _point(point)
            if step is not None and pair is not None:
                by_step[step].append(pair)
    points, spread = [], []
    for _, pairs in sorted(by_step.items()):
        if len(pairs) == len(runs):  # ids of a step differ a little by seed: padding is none
            at, values = statistics.fmean(ids for ids, _ in pairs) / 1e6, [bits for _, bits in pairs]
            points.append((at, statistics.fmean(values)))
            spread.append((at, min(values), max(values)))
    if points:
        yield Curve(label=arm, points=points, spread=spread if len(runs) > 1 else ())


def _values(curves: Sequence[Curve]) -> str:
    """The points as a table; arms of one size have theirs at nearly the same ids."""
    longest = max((curve.points for curve in curves), key=len)
    rows = [
        [name(curve.label), *(f"{bits:.3f}" for _, bits in curve.points), *[""] * (len(longest) - len(curve.points))]
        for curve in curves
    ]
    return table("", ["millions of ids, about", *(f"{ids:.2f}" for ids, _ in longest)], rows)


def _point(point: Mapping[str, Any]) -> tuple[float, float] | None:
    ids, bits = number(point.get("symbols")), number(point.get("raw_bits_per_byte"))
    return None if ids is None or bits is None else (ids, bits)


def _table(one: Mapping[str, Any]) -> str:
    heads, lines = one.get("columns"), one.get("rows")
    if not isinstance(heads, list) or not isinstance(lines, list) or not heads:
        return ""
    columns = [str(head) for head in heads]
    rows = [[name(str(cell)) for cell in row] for row in lines if isinstance(row, list)]
    title, note = str(one.get("title", "")), str(one.get("note", ""))
    inside = (f"<p>{plain(note)}</p>" if note else "") + table("", columns, rows)
    return details(title, inside, is_open=True)
