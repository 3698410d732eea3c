"""The few numbers at a page's top: what a reader wants to know before reading on."""

from collections.abc import Sequence

from pipelines.dataset import Dataset
from pipelines.report import generic
from pipelines.report.at_hand import own_label
from pipelines.report.markup import name, plain, sized
from pipelines.report.runs import Run, number
from pipelines.report.training import letter

MOST_RUNS = 6


def glance(data: Dataset | None, runs: Sequence[Run]) -> str:
    """The numbers as HTML; nothing where there are none."""
    tiles: list[tuple[str, str]] = []
    if data is not None:
        totals = data.manifest.totals
        tiles.append((sized(totals.raw_bytes), f"{totals.rows:,} documents"))
        if totals.comp_symbols:
            label = own_label(data.manifest.dataset["proxy"])
            tiles.append((f"{totals.raw_bytes / totals.comp_symbols:.3f}", f"bytes a symbol, {name(label)}"))
    for at, run in enumerate(runs[:MOST_RUNS]):
        mark = letter(at, len(runs))
        label = name(f"{mark} {run.label}" if mark else run.label)
        tiles += [(value, f"{words}, {label}") for value, words in _of_run(run)]
    items = "".join(f"<li><b>{plain(value)}</b> {words}</li>" for value, words in tiles)
    return f'<ul class="tiles">{items}</ul>' if tiles else ""


def _of_run(run: Run) -> list[tuple[str, str]]:
    """Value and HTML words: bits per byte on held-out documents, pass@1."""
    found = []
    told = [one for one in run.evaluations if one.name == "bpb"]
    bits = max(told, key=lambda one: number(one.figures.get("documents")) or 0, default=None)
    value = number(bits.figures.get("bits_per_byte")) if bits is not None else None
    if value is not None and bits is not None:
        view = "" if bits.figures.get("view") == "raw" else " (comp view)"
        found.append((f"{value:.3f}", f"bits per byte{view}"))
    elif (value := run.last("validation_bits_per_byte")) is not None:
        found.append((f"{value:.3f}", "bits per held-out byte at the end of training"))
    gate = _first(run, "translation", "all", "gate")
    if gate is not None:
        found.append((f"{gate:+.3f}", "bits a byte, own less another&#x27;s comp view"))
    passed = _first(run, "humaneval", "base", "pass@1")
    if passed is not None:
        found.append((f"{passed:.1%}", "pass@1"))
    return found


def _first(run: Run, evaluation: str, part: str, key: str) -> float | None:
    """The figure of the first evaluation of this name that has it."""
    for one in run.evaluations:
        figures = one.figures.get(part) if one.name == evaluation else None
        if isinstance(figures, dict) and (triple := generic.interval(figures.get(key))) is not None:
            return triple[0]
    return None
