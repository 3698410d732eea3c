"""How runs went: loss by view, held-out figures, r and pairs, learning rate, gradient norm, throughput.

A curve's point is the mean of some steps, bits per byte weighted by the bytes of each step; the area around it goes
from the least to the greatest step of them.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from pipelines.report import charts
from pipelines.report.charts import Axes, Curve
from pipelines.report.markup import details, figure, name, plain, sized, table
from pipelines.report.runs import Run, number
from pipelines.report.scales import quantile

POINTS = 80
"""Of a curve, at most: on a phone's width more cannot be seen."""

MARKS = 400
"""Spikes that are drawn."""

LISTED = 20
"""Steps of a run in the table of values."""

LAST_SHARE = 0.1
"""Of the steps, at the end, that a run's final bits per byte are taken over."""

_AFTER = 0.03
"""Share of the steps at the start by which the axis of a loss is not stretched."""

_VIEW_BYTES = {"raw_bits_per_byte": "raw_view_bytes", "comp_bits_per_byte": "comp_view_bytes"}

_T = TypeVar("_T")
_Point = tuple[float, float]
_Range = tuple[float, float, float]
_Pooling = Callable[[Sequence[float], Sequence[float]], float]


def letter(at: int, count: int) -> str:
    """What a run is called in figures of several: A, B, ...; nothing where it is alone."""
    if count < 2:
        return ""
    return chr(ord("A") + at) if at < 26 else str(at + 1)


def section(runs: Sequence[Run]) -> str:
    """The section's HTML."""
    logged = [(at, run) for at, run in enumerate(runs) if run.steps]
    parts = [_summary(runs)]
    parts += [
        f'<p class="warn">{name(run.label)}: {run.unread:,} lines of its log are damaged and left out.</p>'
        for run in runs
        if run.unread
    ]
    form = charts.legend([
        *([(letter(at, len(runs)), run.label, at, "line") for at, run in logged] if len(runs) > 1 else []),
        ("", "training steps, and their range", charts.GREY, "line"),
        ("", "held-out raw documents", charts.GREY, "dots"),
    ])  # fmt: skip
    drawn = [
        _loss(runs, "raw_bits_per_byte", "Raw view", "bits per byte of raw views; dots: on held-out raw documents."),
        _loss(runs, "comp_bits_per_byte", "Comp view", "bits of compressed views per raw byte that they cover."),
        _mixing(runs),
        _plain(runs, "learning_rate", "Learning rate", "learning rate", "Learning rate.", height=190),
        _norm(runs),
        _plain(
            runs, "symbols_per_second", "Throughput", "ids a second", "Throughput: median of the steps of each point.",
            pooled=_median, from_zero=True, height=190,
        ),
    ]  # fmt: skip
    parts.append(f'{form}<div class="figures">{"".join(drawn)}</div>')
    parts.append(details("Values by step", "".join(_values(run) for _, run in logged)))
    return "\n".join(parts)


def _summary(runs: Sequence[Run]) -> str:
    cells = []
    for at, run in enumerate(runs):
        shown = f"<b>{letter(at, len(runs))}</b> " if len(runs) > 1 else ""
        wait = _weighted_wait(run)
        rates = [value for _, value in run.series("symbols_per_second")]
        counted = [sum(line.get(key) is True for line in run.steps) for key in ("spike", "skipped")]
        cells.append([
            shown + name(run.label), plain(str(run.config.get("mode", "–"))), plain(str(run.config.get("scale", "–"))),
            f"{len(run.steps):,}", f"{run.total('symbols'):,.0f}", sized(run.total("raw_view_bytes")),
            sized(run.total("comp_view_bytes")), f"{run.total('pairs'):,.0f}",
            _figure(final_bits(run, "raw_bits_per_byte")), _figure(final_bits(run, "comp_bits_per_byte")),
            _figure(run.last("validation_bits_per_byte")), f"{statistics.median(rates):,.0f}" if rates else "–",
            "–" if wait is None else f"{wait:.1%}", f"{counted[0]:,}", f"{counted[1]:,}",
        ])  # fmt: skip
    columns = [
        "run", "mode", "scale", "steps", "ids", "raw shown", "comp shown", "pairs", "raw, bits/byte", "comp, bits/byte",
        "held out", "ids/s", "waiting for data", "spikes", "updates left out",
    ]  # fmt: skip
    caption = (
        f"Bits per byte of training views over the last {LAST_SHARE:.0%} of the steps; held out: at the last figure."
    )
    return table(caption, columns, cells)


def final_bits(run: Run, key: str) -> float | None:
    """Bits per byte of a view over the last steps, weighted by bytes; None where it was not shown."""
    rest = run.steps[-max(1, math.ceil(len(run.steps) * LAST_SHARE)) :]
    pairs = [(number(line.get(key)), number(line.get(_VIEW_BYTES[key]))) for line in rest]
    kept = [(bits, size) for bits, size in pairs if bits is not None and size]
    size = sum(size for _, size in kept)
    return sum(bits * size for bits, size in kept) / size if size > 0 else None


def _weighted_wait(run: Run) -> float | None:
    """Share of the time that was spent waiting for data."""
    waited = total = 0.0
    for line in run.steps:
        ids, rate, wait = (number(line.get(key)) for key in ("symbols", "symbols_per_second", "data_wait"))
        if ids and rate and rate > 0 and wait is not None:
            waited, total = waited + wait * ids / rate, total + ids / rate
    return waited / total if total else None


def _pooled(run: Run, key: str, pooled: _Pooling, weight: str | None) -> tuple[list[_Point], list[_Range]]:
    """The points of a curve, and the range of the steps of each."""
    found = []
    for line in run.steps:
        at, value = number(line.get("step")), number(line.get(key))
        heavy = 1.0 if weight is None else number(line.get(weight))
        if at is not None and value is not None and heavy:
            found.append((at, value, heavy))
    every = max(1, math.ceil(len(found) / POINTS))
    points, spread = [], []
    for start in range(0, len(found), every):
        some = found[start : start + every]
        values = [value for _, value, _ in some]
        at = sum(place for place, _, _ in some) / len(some)
        points.append((at, pooled(values, [heavy for _, _, heavy in some])))
        spread.append((at, min(values), max(values)))
    return points, spread if every > 1 else []


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else values[0]


def _median(values: Sequence[float], weights: Sequence[float]) -> float:
    return statistics.median(values)


def _loss(runs: Sequence[Run], key: str, title: str, caption: str) -> str:
    lines, steady, always = [], [], []
    for at, run in enumerate(runs):
        points, spread = _pooled(run, key, _mean, _VIEW_BYTES[key])
        if not points:
            continue
        mark = letter(at, len(runs))
        lines.append(
            Curve(label=_label(run, mark), points=points, spread=spread, colour=at, letter=mark, form=_form(at))
        )
        start = _AFTER * points[-1][0]
        steady += [value for place, value in points if place >= start]
        held_out = _held_out(run) if key == "raw_bits_per_byte" else []
        if held_out:
            places = _thinned(held_out, POINTS)
            lines.append(Curve(label=f"{_label(run, mark)}, held out", points=places, colour=at, form="dots"))
            always += [value for place, value in places if place >= start]
    if not lines:
        return ""
    values = sorted(steady or [value for line in lines for _, value in line.points])
    kept = [value for value in values if value <= quantile(values, 0.97) * 1.02] + always
    most = max(value for line in lines for _, value in line.points)
    cut = f" The axis is cut: the greatest value is {most:.3g}." if kept and most > max(kept) else ""
    axes = Axes(
        title=f"{title}: bits per byte by step",
        x="step",
        y=f"{title}, bits per byte",
        y_values=kept,
        bands=_phases(runs),
    )
    return figure(charts.curves(axes, lines), f"{title}: {caption}{cut}")


def _phases(runs: Sequence[Run]) -> list[tuple[float, float, str]]:
    """The steps in which documents are shown as pairs, where they come to an end."""
    found = []
    for run in runs:
        steps = [place for place, count in run.series("pairs") if count > 0]
        if steps and (steps[0], steps[-1] + 1, "pairs") not in found:
            found.append((steps[0], steps[-1] + 1, "pairs"))
    return [(*phase[:2], phase[2] if at == 0 else "") for at, phase in enumerate(found)]


def _mixing(runs: Sequence[Run]) -> str:
    if not any(run.series("rate_of_comp") for run in runs):
        return ""
    axes = Axes(
        title="Share of compressed views by step", x="step", y="r, wanted share of comp views", y_values=(0.0, 1.0),
        from_zero=True, height=190, bands=_phases(runs),
    )  # fmt: skip
    svg = charts.curves(axes, _curves(runs, "rate_of_comp", _mean))
    return figure(svg, "r: the share of compressed among all views; shaded while documents are also shown as pairs.")


def _norm(runs: Sequence[Run]) -> str:
    lines = _curves(runs, "gradient_norm", _median, spread=True)
    if not lines:
        return ""
    spikes = [
        (place, f"{_label(run, letter(at, len(runs)))}: spike at step {place:,.0f}")
        for at, run in enumerate(runs)
        for line in run.steps
        if line.get("spike") is True and (place := number(line.get("step"))) is not None
    ]
    axes = Axes(
        title="Gradient norm by step", x="step", y="gradient norm before clipping", y_log=True, height=190,
        marks=spikes[:MARKS],
    )  # fmt: skip
    first = f", the first {MARKS}" if len(spikes) > MARKS else ""
    many = f"{len(spikes):,} spikes{first} are marked below." if spikes else "No step was a spike."
    return figure(
        charts.curves(axes, lines), f"Gradient norm: median of the steps of each point, and their range. {many}"
    )


def _plain(
    runs: Sequence[Run], key: str, title: str, y: str, caption: str, *, pooled: _Pooling = _mean,
    from_zero: bool = False, height: int = 230,
) -> str:  # fmt: skip
    lines = _curves(runs, key, pooled)
    if not lines:
        return ""
    axes = Axes(title=f"{title} by step", x="step", y=y, from_zero=from_zero, height=height)
    return figure(charts.curves(axes, lines), caption)


def _curves(runs: Sequence[Run], key: str, pooled: _Pooling, *, spread: bool = False) -> list[Curve]:
    lines = []
    for at, run in enumerate(runs):
        points, around = _pooled(run, key, pooled, None)
        mark = letter(at, len(runs))
        if points:
            lines.append(
                Curve(
                    label=_label(run, mark), points=points, spread=around if spread else (), colour=at, letter=mark,
                    form=_form(at),
                )
            )  # fmt: skip
    return lines


def _form(at: int) -> Literal["line", "dashed"]:
    """Runs beyond the colours that there are have dashed lines."""
    return "dashed" if at // charts.COLOURS % 2 else "line"


def _label(run: Run, mark: str) -> str:
    return f"{mark} {run.label}" if mark else run.label


def _values(run: Run) -> str:
    chosen = _thinned(run.steps, LISTED)
    keys = (
        ("raw_bits_per_byte", ".3f"), ("comp_bits_per_byte", ".3f"), ("rate_of_comp", ".2f"), ("pairs", ",.0f"),
        ("padding", ".1%"), ("learning_rate", ".2e"), ("gradient_norm", ".3g"), ("symbols_per_second", ",.0f"),
        ("bytes_per_second", ",.0f"), ("memory_bytes", "size"),
    )  # fmt: skip
    cells = []
    for line in chosen:
        values = [(number(line.get(key)), form) for key, form in keys]
        cells.append([
            plain(str(line.get("step", "–"))),
            *("–" if one is None else sized(one) if form == "size" else format(one, form) for one, form in values),
        ])  # fmt: skip
    columns = [
        "step", "raw, bits/byte", "comp, bits/byte", "r", "pairs", "padding", "learning rate", "gradient norm", "ids/s",
        "bytes/s", "memory",
    ]  # fmt: skip
    shown = table(f"{run.label}: some steps.", columns, cells)
    held_out = _thinned(_held_out(run), LISTED)
    if held_out:
        rows = [[f"{place:,.0f}", f"{value:.4f}"] for place, value in held_out]
        shown += table(f"{run.label}: held-out raw documents.", ["after steps", "bits per byte"], rows)
    return shown


def _held_out(run: Run) -> list[_Point]:
    """Held-out figures by the number of steps done: they are logged with the step that came before."""
    return [(place + 1, value) for place, value in run.series("validation_bits_per_byte")]


def _thinned(items: Sequence[_T], count: int) -> list[_T]:
    """About so many of the items, evenly, the last one among them."""
    every = max(1, math.ceil(len(items) / count))
    return [*items[(len(items) - 1) % every :: every]]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
