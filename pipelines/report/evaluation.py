"""What evaluations found, of all runs: each known one in a form of its own, any other as tables of all its figures."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from pipelines.report import charts, form_bits, form_cost, form_programs, form_robustness, form_translation, generic
from pipelines.report.forms import Found
from pipelines.report.markup import details, name, plain
from pipelines.report.privacy import cleaned
from pipelines.report.runs import Evaluation, Run
from pipelines.report.training import letter

_TITLES = {
    "bpb": "Bits per byte",
    "translation": "Translation",
    "humaneval": "Programs",
    "robustness": "Robustness",
    "cost": "Cost of inference",
}
"""In the order in which they are read."""

_FORMS: dict[str, Callable[[Found], str | None]] = {
    "bpb": form_bits.bits,
    "translation": form_translation.translation,
    "humaneval": form_programs.programs,
    "robustness": form_robustness.robustness,
    "cost": form_cost.cost,
}
"""What draws each; None of what is not of the form that it knows."""


def section(runs: Sequence[Run], given: Collection[str]) -> str:
    """The section's HTML; see `privacy` for the paths that are given."""
    kinds: dict[str, list[tuple[str, int, Evaluation]]] = {}
    for at, run in enumerate(runs):
        mark = letter(at, len(runs))
        label = f"{mark} {run.label}" if mark else run.label
        times = Counter(one.name for one in run.evaluations)
        for one in run.evaluations:
            # of one run with other options, or at another checkpoint: told apart by the digest in the file's name
            which = f" ({one.file.rpartition('-')[2].removesuffix('.json')})" if times[one.name] > 1 else ""
            kinds.setdefault(one.name, []).append((label + which, at, one))
    parts = [_legend(runs)] if len(runs) > 1 else []
    for kind in sorted(kinds, key=lambda kind: (list(_TITLES).index(kind) if kind in _TITLES else 99, kind)):
        parts.append(f"<h3>{name(_TITLES.get(kind, generic.words(kind)))}</h3>")
        drawn = _FORMS[kind](kinds[kind]) if kind in _FORMS else None
        parts.append(drawn or "")
        parts += [_whole(label, one, given, is_open=drawn is None) for label, _, one in kinds[kind]]
    return "\n".join(part for part in parts if part)


def _legend(runs: Sequence[Run]) -> str:
    """Which colour each evaluated run has in all figures."""
    evaluated = [(at, run) for at, run in enumerate(runs) if run.evaluations]
    return charts.legend([(letter(at, len(runs)), run.label, at, "dots") for at, run in evaluated])


def _whole(label: str, one: Evaluation, given: Collection[str], *, is_open: bool) -> str:
    """All figures of one, and what decided them."""
    figures = generic.rendered(cleaned(one.figures, given))
    how = details(
        "Configuration and versions",
        generic.rendered(cleaned(one.configuration, given)) + generic.rendered(cleaned(one.versions, given)),
    )
    about = f'<p class="soft">{plain(one.file)}</p>'
    return details(f"{label}: all figures", about + figures + how, is_open=is_open)
