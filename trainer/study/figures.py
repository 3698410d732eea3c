"""Figures of runs over seeds, and how they are written in tables."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ByArm = Mapping[str, Sequence[dict[str, Any]]]
"""Records of one scale by arm, a seed each."""


@dataclass(frozen=True)
class Spread:
    """Values over seeds.

    Attributes:
        values: one or more.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    def __str__(self) -> str:
        some = f" ({min(self.values):.3f} to {max(self.values):.3f})" if len(self.values) > 1 else ""
        return f"{self.mean:.3f}{some}"


def spread(records: Sequence[dict[str, Any]], name: str) -> Spread | None:
    """A figure over seeds; None where no record has it."""
    values = tuple(record[name] for record in records if record[name] is not None)
    return Spread(values) if values else None


def mean(records: Sequence[dict[str, Any]], name: str) -> float:
    """Of a figure that every record has."""
    return statistics.fmean(record[name] for record in records)


@dataclass(frozen=True)
class Table:
    """One table of the results.

    Attributes:
        title: of it.
        columns: their names.
        rows: cells, as they are shown; none: there is nothing to tell.
        note: how to read it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

    def to_markdown(self) -> str:
        """Under its title."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
        note = f"{self.note}\n\n" if self.note else ""
        return f"### {self.title}\n\n{note}{table}"

    def to_json(self) -> dict[str, Any]:
        """For `results.json`."""
        rows = [[str(cell) for cell in row] for row in self.rows]
        return {"title": self.title, "note": self.note, "columns": list(self.columns), "rows": rows}
