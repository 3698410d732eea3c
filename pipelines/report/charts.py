"""Figures as inline SVG, drawn by hand: the same values give the same bytes, and a page needs no library for them.

A drawing is 400 units wide, about the pixels that a phone has, so that its text can be read there; on a wide screen two
stand side by side. Colours are classes (`c0`...`c6`, grey `c7`) whose values the style sheet gives for light and dark
pages.
Pointing at a place shows its values by `<title>`, without a script. For those who cannot point, what matters of a
figure is in a table beside it, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.report.markup import plain
from pipelines.report.scales import Scale, scale_over, short

WIDTH = 400
COLOURS = 7
"""Of series; more begin anew."""

GREY = -1
"""Colour of what series are compared with."""

HOVER_COLUMNS = 60
"""Places of a line chart that show their values; more cannot be told apart by pointing."""

STYLE = """
:root { --c0: #2b6cb0; --c1: #c05621; --c2: #2f855a; --c3: #b83280; --c4: #6b46c1; --c5: #0e7490; --c6: #975a16;
  --c7: #4a5568; }
@media (prefers-color-scheme: dark) { :root { --c0: #6cb2f5; --c1: #f6a05e; --c2: #68d391; --c3: #f191c5; --c4: #b79cf7;
  --c5: #4fd1e0; --c6: #e0b35c; --c7: #b4bfcc; } }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
svg.chart { font: 12px system-ui, sans-serif; fill: var(--soft); overflow: visible; }
svg.chart text { unicode-bidi: isolate; }
svg.chart .strong { fill: var(--ink); } svg.chart .letter { fill: var(--c); font-weight: 600; }
svg.chart .grid { stroke: var(--line); stroke-width: 1; fill: none; }
svg.chart .line { stroke: var(--c); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
svg.chart .second { stroke-dasharray: 5 3; }
svg.chart .area { fill: var(--c); fill-opacity: .16; stroke: none; }
svg.chart .dot { fill: var(--c); stroke: var(--paper); stroke-width: 1; }
svg.chart .whisker { stroke: var(--c); stroke-width: 1.6; fill: none; }
svg.chart .bar { fill: var(--c); } svg.chart .band { fill: var(--ink); fill-opacity: .06; }
svg.chart .mark { stroke: var(--bad); stroke-width: 1.2; }
svg.chart .yard { stroke: var(--soft); stroke-width: 1.4; stroke-dasharray: 2 2; }
svg.chart .yard.own { stroke: var(--c); }
svg.chart .at { fill: transparent; } svg.chart .at:hover { fill: var(--ink); fill-opacity: .1; }
"""

_LONGEST, _HEAD = 23, 9
"""Characters of a row's name that fit, and of its beginning where it does not: names differ at their ends most."""

_LEFT_OF_TEXT = 6.6
"""Units a character of a tick's label takes, widest case."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a chart.

    Attributes:
        label: of whatever it is of, for the text that pointing shows.
        points: (x, y), by rising x.
        colour: number of its class.
        form: a line, a dashed line, or dots joined by a dashed line.
        spread: (x, low, high) of what the line is the mean of, drawn as an area; may be empty.
        letter: written at its end; empty for none.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    form: Literal["line", "dashed", "dots"] = "line"
    spread: Sequence[tuple[float, float, float]] = ()
    letter: str = ""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What a chart of curves is drawn on.

    Attributes:
        title: for readers that do not see it.
        x, y: names of the axes, with units.
        x_log, y_log: logarithmic.
        y_values: what the y axis must hold; default the curves' points.
        from_zero: let y begin at 0.
        height: in units.
        bands: (from x, to x, words): stretches of x that are set apart.
        marks: (x, words): places on x that are set apart.
    """

    title: str
    x: str
    y: str
    x_log: bool = False
    y_log: bool = False
    y_values: Sequence[float] = ()
    from_zero: bool = False
    height: int = 230
    bands: Sequence[tuple[float, float, str]] = ()
    marks: Sequence[tuple[float, str]] = ()


def curves(axes: Axes, lines: Sequence[Curve]) -> str:
    """A chart of curves."""
    top, bottom = 22, 34
    height = axes.height - top - bottom
    values = axes.y_values or [y for line in lines for _, y in line.points]
    y = scale_over(values, height, log=axes.y_log, from_zero=axes.from_zero)
    y_ticks = y.ticks(5)
    left = 12 + _LEFT_OF_TEXT * max((len(short(tick)) for tick in y_ticks), default=1)
    width = WIDTH - left - 8 - 8 * max((len(line.letter) for line in lines), default=0)
    room = 0.02 if any(line.form == "dots" for line in lines) else 0.0  # for whole dots
    x = scale_over([at for line in lines for at, _ in line.points], width, log=axes.x_log, room=room)
    parts = [_bands(axes, x, height), _grid(x, y, x.ticks(5), y_ticks)]
    parts += [_curve(line, x, y) for line in lines]
    parts += [
        f'<path class="mark" d="M{_n(x.place(at))} {height}v-9"><title>{plain(words)}</title></path>'
        for at, words in axes.marks
    ]
    parts.append(_hover(lines, x, height, axes.x))
    inside = f'<svg x="{_n(left)}" y="{top}" width="{_n(width)}" height="{height}">{"".join(parts)}</svg>'
    outside = [
        *(f'<text x="{_n(left - 5)}" y="{_n(top + height - y.place(t) + 4)}" text-anchor="end">{short(t)}</text>'
          for t in y_ticks),
        *(f'<text x="{_n(left + x.place(t))}" y="{top + height + 14}" text-anchor="middle">{short(t)}</text>'
          for t in x.ticks(5)),
        f'<text x="{_n(left + width / 2)}" y="{axes.height - 4}" text-anchor="middle">{plain(axes.x)}</text>',
        f'<text class="strong" x="2" y="11">{plain(axes.y)}</text>',
        *_letters(lines, x, y, left, top, height),
    ]  # fmt: skip
    return _svg(axes.title, axes.height, inside + "".join(outside))


def _class(colour: int) -> str:
    return f"c{COLOURS if colour == GREY else colour % COLOURS}"


def _grid(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    across = "".join(f"M0 {_n(y.length - y.place(tick))}h{_n(x.length)}" for tick in y_ticks)
    along = "".join(f"M{_n(x.place(tick))} {_n(y.length)}v-4" for tick in x_ticks)
    return f'<path class="grid" d="{across}{along}M0 {_n(y.length)}h{_n(x.length)}"/>'


def _bands(axes: Axes, x: Scale, height: float) -> str:
    parts = []
    for start, end, words in axes.bands:
        at, to = x.place(start), x.place(end)
        parts.append(
            f'<rect class="band" x="{_n(at)}" y="0" width="{_n(max(to - at, 0.5))}" height="{_n(height)}"/>'
            f'<text x="{_n(at + 4)}" y="{_n(height - 7)}">{plain(words)}</text>'
        )
    return "".join(parts)


def _curve(line: Curve, x: Scale, y: Scale) -> str:
    def at(px: float, py: float) -> str:
        return f"{_n(x.place(px))} {_n(y.length - y.place_beyond(py))}"

    parts = []
    if line.spread:
        upper = [at(px, high) for px, _, high in line.spread]
        lower = [at(px, low) for px, low, _ in reversed(line.spread)]
        parts.append(f'<path class="area" d="M{"L".join([*upper, *lower])}Z"/>')
    places = [at(px, py) for px, py in line.points]
    dashed = '"' if line.form == "line" else ' second"'
    if len(places) > 1:
        parts.append(f'<path class="line{dashed} d="M{"L".join(places)}"/>')
    if line.form == "dots" or len(places) == 1:
        parts += [f'<circle class="dot" cx="{p.split()[0]}" cy="{p.split()[1]}" r="3.4"/>' for p in places]
    return f'<g class="{_class(line.colour)}">{"".join(parts)}</g>'


def _letters(lines: Sequence[Curve], x: Scale, y: Scale, left: float, top: float, height: float) -> list[str]:
    """Each lettered line's letter at its end, moved apart where they would cover each other."""
    ends = sorted(
        (height - y.place(line.points[-1][1]), n) for n, line in enumerate(lines) if line.letter and line.points
    )
    if 11 * len(ends) > height:  # more than there is room for: pointing tells
        return []
    places, last = [], -100.0
    for wanted, _ in ends:
        last = max(wanted, last + 11)
        places.append(last)
    most: float = height  # none below the axis: from the lowest up again
    for at in reversed(range(len(places))):
        places[at] = min(places[at], most)
        most = places[at] - 11
    parts = []
    for (_, number), down in zip(ends, places, strict=True):
        end = x.place(lines[number].points[-1][0])
        parts.append(
            f'<text class="letter {_class(lines[number].colour)}" x="{_n(left + end + 4)}" '
            f'y="{_n(top + down + 4)}">{plain(lines[number].letter)}</text>'
        )
    return parts


def _hover(lines: Sequence[Curve], x: Scale, height: float, unit: str) -> str:
    """Upright strips, each with the values of the lines there."""
    columns = HOVER_COLUMNS
    step = x.length / columns
    found: list[list[str]] = [[] for _ in range(columns)]
    for line in lines:
        said = set()
        for px, py in line.points:
            column = min(columns - 1, int(x.place(px) / step))
            if column not in said:
                said.add(column)
                found[column].append(f"{line.label}: {py:.4g} ({unit} {px:,.6g})")
    return "".join(
        f'<rect class="at" x="{_n(n * step)}" y="0" width="{_n(step)}" height="{_n(height)}">'
        f"<title>{plain(words[0]) if len(words) == 1 else '&#10;'.join(map(plain, words))}</title></rect>"
        for n, words in enumerate(found)
        if words
    )


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A value in a row of `intervals`.

    Attributes:
        value: where it lies; low and high: its interval, None without one.
        label: for the text that pointing shows.
        colour: number of its class.
        yardstick: drawn as an upright line, for what others are compared with.
    """

    value: float
    label: str
    low: float | None = None
    high: float | None = None
    colour: int = 0
    yardstick: bool = False


def intervals(title: str, unit: str, rows: Sequence[tuple[str, Sequence[Mark]]], *, from_zero: bool = False) -> str:
    """Rows of values on one axis, each a dot with its interval; several in a row lie below each other.

    Args:
        title: for readers that do not see it.
        unit: name of the axis.
        rows: name of each row and what lies in it.
        from_zero: let the axis begin at 0.
    """
    left = min(166.0, 10 + _LEFT_OF_TEXT * max((len(row) for row, _ in rows), default=1))
    values = [v for _, marks in rows for m in marks for v in (m.value, m.low, m.high) if v is not None]
    x = scale_over(values, WIDTH - left - 14, from_zero=from_zero)
    parts, at = [], 14.0
    for row, marks in rows:
        dots = [mark for mark in marks if not mark.yardstick]
        tall = 14.0 * max(1, len(dots)) + 8
        shown = row if len(row) <= _LONGEST else f"{row[:_HEAD]}…{row[len(row) - _LONGEST + _HEAD + 1 :]}"
        whole = f"<title>{plain(row)}</title>" if shown != row else ""
        parts.append(f'<text class="strong" x="2" y="{_n(at + tall / 2 + 4)}">{plain(shown)}{whole}</text>')
        for mark in marks:
            if mark.yardstick:
                place = left + x.place(mark.value)
                kind = "yard" if mark.colour == GREY else f"yard own {_class(mark.colour)}"
                parts.append(f'<path class="{kind}" d="M{_n(place)} {_n(at + 1)}v{_n(tall - 2)}">{_said(mark)}</path>')
        for number, mark in enumerate(dots):
            parts.append(_dot(mark, left, x, at + 4 + 14 * number + 7))
        at += tall
    ticks = x.ticks(5)
    grid = "".join(f"M{_n(left + x.place(tick))} 12V{_n(at)}" for tick in ticks)
    labels = "".join(
        f'<text x="{_n(left + x.place(t))}" y="{_n(at + 13)}" text-anchor="middle">{short(t)}</text>' for t in ticks
    )
    axis = f'<text x="{_n(left + x.length / 2)}" y="{_n(at + 28)}" text-anchor="middle">{plain(unit)}</text>'
    return _svg(title, round(at + 32), f'<path class="grid" d="{grid}"/>{"".join(parts)}{labels}{axis}')


def _dot(mark: Mark, left: float, x: Scale, at: float) -> str:
    place = left + x.place(mark.value)
    whisker = ""
    if mark.low is not None and mark.high is not None:
        low, high = left + x.place(mark.low), left + x.place(mark.high)
        whisker = f'<path class="whisker" d="M{_n(low)} {_n(at - 3)}v6m0 -3H{_n(high)}m0 -3v6"/>'
    dot = f'<circle class="dot" cx="{_n(place)}" cy="{_n(at)}" r="4"/>'
    return f'<g class="{_class(mark.colour)}">{whisker}{dot}{_said(mark)}</g>'


def _said(mark: Mark) -> str:
    about = "" if mark.low is None or mark.high is None else f" [{mark.low:.4g}, {mark.high:.4g}]"
    return f"<title>{plain(f'{mark.label}: {mark.value:.4g}{about}')}</title>"


def bars(title: str, x_name: str, y_name: str, columns: Sequence[tuple[str, float, str]], *, colour: int = 0) -> str:
    """Upright bars over names that follow each other, as a histogram has.

    Args:
        title: for readers that do not see it.
        x_name: of the axis below.
        y_name: of the axis at the left.
        columns: label (empty: none is written), value, and what pointing shows.
        colour: number of its class.
    """
    top, height = 22, 150
    y = scale_over([value for _, value, _ in columns], height, from_zero=True)
    ticks = y.ticks(4)
    left = 12 + _LEFT_OF_TEXT * max((len(short(tick)) for tick in ticks), default=1)
    step = (WIDTH - left - 8) / max(1, len(columns))
    gap = min(2.0, step * 0.15)
    grid = "".join(f"M{_n(left)} {_n(top + height - y.place(tick))}H{WIDTH - 8}" for tick in ticks)
    parts = [f'<path class="grid" d="{grid}"/>']
    for number, (label, value, words) in enumerate(columns):
        at, tall = left + number * step, y.place(value)
        parts.append(
            f'<rect class="bar" x="{_n(at + gap / 2)}" y="{_n(top + height - tall)}" width="{_n(step - gap)}" '
            f'height="{_n(tall)}"/><rect class="at" x="{_n(at)}" y="{top}" width="{_n(step)}" height="{height}">'
            f"<title>{plain(words)}</title></rect>"
        )
        if label:
            parts.append(
                f'<text x="{_n(at + step / 2)}" y="{top + height + 14}" text-anchor="middle">{plain(label)}</text>'
            )
    for tick in ticks:
        at = top + height - y.place(tick) + 4
        parts.append(f'<text x="{_n(left - 5)}" y="{_n(at)}" text-anchor="end">{short(tick)}</text>')
    middle = f'x="{_n((left + WIDTH) / 2)}" y="{top + height + 30}" text-anchor="middle"'
    parts.append(f"<text {middle}>{plain(x_name)}</text>")
    parts.append(f'<text class="strong" x="2" y="11">{plain(y_name)}</text>')
    return _svg(title, top + height + 34, f'<g class="{_class(colour)}">{"".join(parts)}</g>')


def legend(entries: Sequence[tuple[str, str, int, Literal["line", "dashed", "dots", "yard"]]]) -> str:
    """What colours and forms mean: letter (or nothing), words, colour and form of each."""
    items = []
    for letter, words, colour, form in entries:
        kind = "yard" if form == "yard" else ("line" if form == "line" else "line second")
        dot = '<circle class="dot" cx="13" cy="6" r="3.4"/>' if form == "dots" else ""
        swatch = (
            f'<svg class="chart swatch {_class(colour)}" viewBox="0 0 26 12" aria-hidden="true">'
            f'<path class="{kind}" d="M0 6H26"/>{dot}</svg>'
        )
        shown = f"<b>{plain(letter)}</b> " if letter else ""
        items.append(f"<li>{swatch}{shown}<bdi>{plain(words)}</bdi></li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _svg(title: str, height: int, inside: str) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{plain(title)}" viewBox="0 0 {WIDTH} {height}" '
        f'xmlns="http://www.w3.org/2000/svg">{inside}</svg>'
    )


def _n(value: float) -> str:
    """A coordinate: a hundredth of a unit is less than a pixel shows."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
