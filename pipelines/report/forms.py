"""What the forms of evaluations share: taking parts out of figures that nobody has checked, marks, cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report import generic
from pipelines.report.charts import Mark
from pipelines.report.runs import Evaluation, number

Found = Sequence[tuple[str, int, Evaluation]]
"""Of one kind of evaluation: the run's label, its number in the report, and what was found."""

Triple = tuple[float, float, float]
"""A figure, and the low and the high end of its interval."""


def object_in(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in an object; an empty one, where there is none."""
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def rows_in(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list; none of anything else."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def marked(label: str, at: int, triple: Triple) -> Mark:
    """A run's figure with its interval, where something is known of it, in the run's colour."""
    middle, low, high = triple
    known = low < high
    return Mark(value=middle, low=low if known else None, high=high if known else None, label=label, colour=at)


def marked_in_percent(label: str, at: int, triple: Triple) -> Mark:
    """The same of a share."""
    middle, low, high = triple
    return marked(label, at, (100 * middle, 100 * low, 100 * high))


def bits_cell(value: Any) -> str:
    """A cell in which bits have three digits after the point, so that they stand below each other."""
    if (triple := generic.interval(value)) is not None:
        return generic.with_interval(triple, "{:.3f}".format)
    return f"{value:.3f}" if isinstance(value, float) and number(value) is not None else generic.cell(value)


def percent(triple: Triple) -> str:
    """A share with its interval, as HTML."""
    return generic.with_interval(triple, "{:.1%}".format)
