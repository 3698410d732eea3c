"""Figures of robustness (ReCode, Wang et al. 2022, section 4; greedy, so that a prompt passes or not).

    nominal   share of problems that pass unperturbed
    robust    share that pass in every perturbed form: the worst case
    drop      (nominal - robust) / nominal
    relative  share of which some form has another outcome than its nominal prompt, either way
    attack    share of those that pass unperturbed of which some form fails

Intervals are of the middle 95 % when problems are drawn anew, all figures from the same draws; draws in which no
problem passes unperturbed say nothing of drop and attack and are left out of theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 2000

Bits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """One problem: of each form whether its own nominal prompt passes, and whether it does.

    A method may have a nominal prompt of its own (syntax: a solution half written), so over several there are several.
    """

    forms: tuple[tuple[bool, bool], ...]

    @property
    def nominal(self) -> bool:
        """Whether all nominal prompts pass."""
        return all(nominal for nominal, _ in self.forms)

    @property
    def robust(self) -> bool:
        """Whether all forms pass."""
        return all(passed for _, passed in self.forms)

    @property
    def changed(self) -> bool:
        """Whether some form has another outcome than its own nominal prompt."""
        return any(nominal != passed for nominal, passed in self.forms)


def figures(tallies: Sequence[Tally], seed: int = 0) -> dict[str, dict[str, float] | None]:
    """Figures of a method, a family, or all.

    Args:
        tallies: one a problem, one or more; each with one form or more.
        seed: of the draws.

    Returns:
        By figure: value, low, high; None where nothing passes unperturbed.
    """
    nominal = np.array([one.nominal for one in tallies], np.float64)
    robust = np.array([one.robust for one in tallies], np.float64)
    changed = np.array([one.changed for one in tallies], np.float64)
    both = nominal * robust
    columns = np.stack([nominal, robust, changed, both])
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = np.stack([
        columns[:, generator.integers(len(tallies), size=len(tallies))].mean(axis=1) for _ in range(DRAWS)
    ])  # fmt: skip
    found: dict[str, dict[str, float] | None] = {}
    whole, drawn = _figures(columns.mean(axis=1)[None]), _figures(draws)
    for name, value in whole.items():
        kept = drawn[name][np.isfinite(drawn[name])]
        if not np.isfinite(value[0]):
            found[name] = None
            continue
        low, high = np.quantile(kept, (0.025, 0.975))
        found[name] = {"value": round(float(value[0]), 6), "low": round(float(low), 6), "high": round(float(high), 6)}
    return found


def _figures(means: Bits) -> dict[str, Bits]:
    """Of rows of nominal, robust, changed, both; shape [rows]."""
    nominal, robust, changed, both = means.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "nominal": nominal, "robust": robust, "drop": (nominal - robust) / nominal, "relative": changed,
            "attack": (nominal - both) / nominal,
        }  # fmt: skip


def summary(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures by method, family and over all.

    Args:
        items: task, family, method, nominal, passed and changed of each form.

    Returns:
        "overall", "families" by family, "methods" by family and method; each with the figures, forms, and unchanged:
        forms in which there was nothing to perturb. Overall nominal means passing in all nominal prompts.
    """
    families = dict.fromkeys(item["family"] for item in items)
    methods = dict.fromkeys((item["family"], item["method"]) for item in items)
    return {
        "overall": _group(items),
        "families": {one: _group([item for item in items if item["family"] == one]) for one in families},
        "methods": {
            f"{family} {method}": _group([one for one in items if (one["family"], one["method"]) == (family, method)])
            for family, method in methods
        },
    }


def _group(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_task: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        by_task.setdefault(item["task"], []).append(item)
    tallies = [Tally(tuple((one["nominal"], one["passed"]) for one in found)) for found in by_task.values()]
    return {**figures(tallies), "forms": len(items), "unchanged": sum(not item["changed"] for item in items)}
