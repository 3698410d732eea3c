"""The few numbers at a page's top: what a reader wants to know before reading on."""

from collections.abc import Sequence

from pipelines.dataset import Dataset
from pipelines.report import generic
from pipelines.report.at_hand import own_label
from pipelines.report.markup import name, plain, sized
from pipelines.report.runs import Evaluation, Run, number
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
    """Value and HTML words: bits per byte on held-out documents, the gate, pass@1."""
    found = []
    bits = _largest(run, "bpb", "pieces")
    value = number(bits.figures.get("bits_per_byte")) if bits is not None else None
    if value is not None and bits is not None:
        view = "" if bits.figures.get("view") == "raw" else " (comp view)"
        found.append((f"{value:.3f}", f"bits per byte{view}"))
    elif (value := run.last("validation_bits_per_byte")) is not None:
        found.append((f"{value:.3f}", "bits per held-out byte at the end of training"))
    gate = _figure(_largest(run, "translation", "pieces"), "all", "gate")
    if gate is not None:
        found.append((f"{gate:+.3f}", "bits a byte, own less another&#x27;s comp view"))
    programs = _largest(run, "humaneval", "problems")
    passed, problems = _figure(programs, "base", "pass@1"), programs and number(programs.figures.get("problems"))
    if passed is not None:
        found.append((f"{passed:.1%}", "pass@1" if problems is None else f"pass@1 of {problems:,.0f} problems"))
    return found


def _largest(run: Run, evaluation: str, size: str) -> Evaluation | None:
    """The result on the most documents or problems; none where results are of several models.

    After more training the earlier checkpoint's results are still there, and nothing says which is the newer one.
    """
    found = [one for one in run.evaluations if one.name == evaluation]
    if len({str(one.configuration.get("model")) for one in found}) > 1:
        return None
    return max(found, key=lambda one: number(one.figures.get(size)) or 0, default=None)


def _figure(one: Evaluation | None, part: str, key: str) -> float | None:
    figures = one.figures.get(part) if one is not None else None
    triple = generic.interval(figures.get(key)) if isinstance(figures, dict) else None
    return None if triple is None else triple[0]
