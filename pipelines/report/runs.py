"""What lies in a run's folder, as `trainer` writes it: config.json, metrics.jsonl, evaluations/*.json.

    config.json         one object: model, vocabulary, scale, mode, steps, data, ...
    metrics.jsonl       an object a step: step, loss, raw_bits_per_byte, comp_bits_per_byte, rate_of_comp, pairs, ...
    evaluations/*.json  an object each: evaluation, configuration, figures, versions

Nothing in them is trusted: a file is an object or the run is refused by name; a value that is not the number it should
be counts as not there; damaged lines of a log are counted.
"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import orjson

from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.secrets import redacted

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations"

MOST_DEPTH = 100
"""Of what is shown."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        name: as on the command line: bpb, translation, humaneval, robustness, cost, or another.
        configuration: all that decided it.
        figures: what it found.
        versions: of the programs that made it.
        file: its name in the folder.
    """

    name: str
    configuration: Object
    figures: Object
    versions: Object
    file: str


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        label: short, different from the other runs' of a report.
        place: as the user gave it, without credentials.
        config: its configuration; empty if there is none.
        steps: its log.
        unread: lines of the log that are damaged.
        evaluations: by name and file.
    """

    label: str
    place: str
    config: Object
    steps: Sequence[Object]
    unread: int
    evaluations: Sequence[Evaluation]

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) wherever a figure was logged as a finite number."""
        found = []
        for line in self.steps:
            at, value = number(line.get("step")), number(line.get(key))
            if at is not None and value is not None:
                found.append((at, value))
        return found

    def total(self, key: str) -> float:
        """Sum of a figure over all steps."""
        return math.fsum(value for _, value in self.series(key))

    def last(self, key: str) -> float | None:
        """The figure's last value."""
        found = self.series(key)
        return found[-1][1] if found else None


_LARGEST = 1e100
"""What is more is a fault of the log, and can neither be drawn nor added up."""


def number(value: object) -> float | None:
    """A number that can be drawn and added up, None for anything else (true and false are none)."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return None
    return float(value) if abs(value) < _LARGEST else None  # not a number is not less, either


def read_runs(places: Sequence[str]) -> list[Run]:
    """Runs in the order given, with labels that tell them apart.

    Raises:
        UserError: a folder that is no run's, or a damaged file in it.
    """
    return [read_run(place, label) for place, label in zip(places, labels(places), strict=True)]


def labels(places: Sequence[str]) -> list[str]:
    """The last part of each path, with as many parts before it as tell them apart."""
    parts = [PurePosixPath(redacted(place).rstrip("/") or "/").parts for place in places]
    for size in range(1, max(map(len, parts), default=1) + 1):
        found = ["/".join(part[-size:]) for part in parts]
        if len(set(found)) == len(found):
            return found
    return [f"{'/'.join(part)} ({at})" for at, part in enumerate(parts, 1)]


def read_run(place: str, label: str) -> Run:
    """One run.

    Raises:
        UserError: there is none, or one of its files is not what it should be.
    """
    folder = Folder(place)
    config: Object = {}
    try:
        config = as_object(folder.read(CONFIG), folder.locate(CONFIG))
        has_config = True
    except (FileNotFoundError, NotADirectoryError):
        has_config = False
    try:
        steps, unread = _lines(folder.read(METRICS))
    except (FileNotFoundError, NotADirectoryError):
        steps, unread = [], 0
    found = read_evaluations(folder, EVALUATIONS)
    if not (has_config or steps or found):
        raise UserError(f"RUN={redacted(place)}: no {CONFIG}, {METRICS} or {EVALUATIONS} there; train first")
    return Run(label, redacted(place), config, steps, unread, found)


def read_evaluations(folder: Folder, under: str) -> list[Evaluation]:
    """All results of evaluations in a folder of a run or study, by name and file.

    Raises:
        UserError: a file there that is no JSON object.
    """
    try:
        names = sorted(name for name in folder.sizes(under) if name.endswith(".json") and "-" in name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for name in names:
        result = as_object(folder.read(name), folder.locate(name))
        if isinstance(result.get("evaluation"), str) and isinstance(result.get("figures"), dict):
            configuration, versions = (result.get(key) for key in ("configuration", "versions"))
            found.append(
                Evaluation(
                    result["evaluation"],
                    configuration if isinstance(configuration, dict) else {},
                    result["figures"],
                    versions if isinstance(versions, dict) else {},
                    PurePosixPath(name).name,
                )
            )
    return sorted(found, key=lambda one: (one.name, one.file))


def as_object(data: bytes, place: str) -> Object:
    """A JSON file's object.

    Raises:
        UserError: it is none.
    """
    try:
        found = json.loads(data)  # which takes NaN, as Python's writer does
    except (ValueError, RecursionError) as error:
        raise UserError(f"{redacted(place)}: not JSON ({error}); delete it or make it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{redacted(place)}: not a JSON object; delete it or make it anew")
    if _is_deeper(found, MOST_DEPTH):
        raise UserError(f"{redacted(place)}: nested more than {MOST_DEPTH} deep, so no result of ours; delete it")
    return found


def _is_deeper(value: object, depth: int) -> bool:
    """Whether objects and lists are within each other more than so many times."""
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return bool(inside) and (depth == 0 or any(_is_deeper(one, depth - 1) for one in inside))


def _lines(data: bytes) -> tuple[list[Object], int]:
    """The steps of a log, and how many lines could not be read; one that a kill cut short is not counted."""
    steps: list[Object] = []
    unread = 0
    lines = data.split(b"\n")
    for line in lines[:-1]:
        try:
            found = orjson.loads(line)
        except ValueError:
            unread += 1
            continue
        if isinstance(found, dict):
            steps.append(found)
    with suppress(ValueError):
        last = orjson.loads(lines[-1])
        steps += [last] if isinstance(last, dict) else []
    return steps, unread
