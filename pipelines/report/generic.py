"""Any JSON as tables, for figures whose form is not known here: nothing that an evaluation found is lost.

An object of plain values is a table of two columns, objects of one form below each other are rows, a list of objects
too; what is nested deeper opens on demand. An object with a figure and its interval is one cell; rows of them are
drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.report.charts import Mark, intervals
from pipelines.report.markup import details, figure, lines, name, plain, table
from pipelines.report.runs import number

MOST_ROWS = 200
"""Of a table; how many more there are is said."""

MOST_COLUMNS = 14

MOST_MARKS = 40
"""Rows of a figure."""

_DEEPEST = 8
"""Objects within objects; what lies deeper is shown as text."""

_LONGEST = 2000
"""Characters of a text in a cell."""

_LOW, _HIGH = ("low", "lower", "ci_low"), ("high", "upper", "ci_high")


def words(key: object) -> str:
    """A key as words: bits_per_byte -> bits per byte."""
    return str(key).replace("_", " ")


def cell(value: Any) -> str:
    """A value as the HTML of a table's cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        text = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}… ({len(value):,} characters)"
        return f'<code class="wrap">{lines(text)}</code>' if "\n" in text or len(text) > 60 else name(text)
    found = interval(value)
    if found is not None:
        return with_interval(found, _number)
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(words(key))} {cell(item)}" for key, item in value.items()) or "–"
    return ", ".join(cell(item) for item in list(value)[:MOST_ROWS]) or "–"


def interval(value: Any) -> tuple[float, float, float] | None:
    """Figure, low and high of an object that holds just these; else None."""
    if not isinstance(value, Mapping) or len(value) != 3:
        return None
    low = next((number(value[key]) for key in _LOW if key in value), None)
    high = next((number(value[key]) for key in _HIGH if key in value), None)
    middle = next((number(item) for key, item in value.items() if key not in (*_LOW, *_HIGH)), None)
    return None if low is None or high is None or middle is None else (middle, low, high)


def with_interval(triple: tuple[float, float, float], form: Callable[[float], str]) -> str:
    """A figure and its interval as HTML; none where its ends are equal: draws that are all the same say nothing."""
    middle, low, high = triple
    return f"{form(middle)} <i>[{form(low)}, {form(high)}]</i>" if low < high else form(middle)


def rendered(value: Mapping[str, Any], caption: str = "", *, depth: int = 0) -> str:
    """An object as HTML: its plain values as one table, then each part of it."""
    if depth > _DEEPEST:
        return f"<p>{plain(str(value)[:_LONGEST])}</p>"
    flat = {key: item for key, item in value.items() if _is_plain(item)}
    parts = []
    if flat:
        parts.append(table(caption, ["", ""], [[plain(words(key)), cell(item)] for key, item in flat.items()]))
    for key, item in value.items():
        if key in flat or item in ({}, []):
            continue
        parts.append(_part(words(key), item, depth))
    return "".join(parts)


def _part(label: str, item: Any, depth: int) -> str:
    rows = rows_of(item)
    if rows is not None:
        shown = chart_of(label, item) + table(label, *rows)
        size = len(item)
        more = f'<p class="soft">and {size - MOST_ROWS:,} more</p>' if size > MOST_ROWS else ""
        long = size > 20 or any(isinstance(one, str) and "\n" in one for row in _objects(item) for one in row.values())
        return details(f"{label} ({size:,})", shown + more) if long else shown + more
    if isinstance(item, Mapping):
        return details(label, rendered(item, depth=depth + 1), is_open=depth == 0)
    inside = "".join(
        rendered(one, depth=depth + 1) if isinstance(one, Mapping) else f"<p>{cell(one)}</p>"
        for one in item[:MOST_ROWS]
    )
    return details(f"{label} ({len(item):,})", inside)


def rows_of(item: Any) -> tuple[list[str], list[list[str]]] | None:
    """Columns and rows of objects of plain values that belong together; None if they are no table."""
    objects = _objects(item)
    if not objects or not all(_is_plain(value) for row in objects for value in row.values()):
        return None
    columns = list(dict.fromkeys(key for row in objects for key in row))
    if not columns or len(columns) > MOST_COLUMNS:
        return None
    names = list(item) if isinstance(item, Mapping) else None
    rows = []
    for at, row in enumerate(objects[:MOST_ROWS]):
        first = [] if names is None else [name(str(names[at]))]
        rows.append([*first, *(cell(row.get(key)) if key in row else "" for key in columns)])
    return ([] if names is None else [""]) + [words(key) for key in columns], rows


def chart_of(label: str, item: Any) -> str:
    """Rows with an interval as a figure: the first such column of them; nothing of others, or of one row alone."""
    objects = _objects(item)
    names = list(map(str, item)) if isinstance(item, Mapping) else list(map(_named, objects))
    found = [_intervals(row) for row in objects]
    key = next((key for key in dict.fromkeys(key for row in found for key in row)), None)
    if key is None:
        return ""
    rows = [
        (row, [Mark(value=middle, low=low, high=high, label=row)])
        for row, (middle, low, high) in ((row, one[key]) for row, one in zip(names, found, strict=True) if key in one)
    ]
    if not 2 <= len(rows) <= MOST_MARKS:
        return ""
    return figure(intervals(f"{label}: {words(key)}", words(key), rows), f"{label}: {words(key)}, with its interval.")


def _named(row: Mapping[str, Any]) -> str:
    """What a row is of: its texts, or else its first value."""
    texts = [value for value in row.values() if isinstance(value, str) and len(value) <= 40]
    return ", ".join(texts[:3]) or str(next(iter(row.values()), ""))


def _intervals(row: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Figures of a row that have an interval: objects of their own, or a number between a `low` and a `high`."""
    found = {key: one for key, value in row.items() if (one := interval(value)) is not None}
    low = next((number(row[key]) for key in _LOW if key in row), None)
    high = next((number(row[key]) for key in _HIGH if key in row), None)
    if low is not None and high is not None:
        for key, value in row.items():
            middle = number(value)
            if key not in (*_LOW, *_HIGH) and middle is not None and low <= middle <= high:
                return {key: (middle, low, high), **found}
    return found


def _objects(item: Any) -> list[Mapping[str, Any]]:
    values = list(item.values()) if isinstance(item, Mapping) else list(item) if isinstance(item, list) else []
    return values if values and all(isinstance(one, Mapping) and interval(one) is None for one in values) else []


def _is_plain(value: Any) -> bool:
    """Whether a value is one cell: no object, or one with an interval; a short list of such."""
    if isinstance(value, Mapping):
        return interval(value) is not None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value) <= 12 and all(_is_plain(one) and not isinstance(one, list) for one in value)
    return True


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if value != value or value in (float("inf"), float("-inf")):
        return "not finite"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
