"""What a study found: results.json and results.csv of all runs, results.md of the tables in the order of reading.

First the gate, since comparisons of arms that do not pass it say nothing of transfer; then bits per byte by arm with
the range over seeds; then each arm beside bytes alone and beside what it varies, see `comparisons.py`.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.files import write_whole
from trainer.study.comparisons import ablations, baselines, is_aligned, same_text, starved, worth
from trainer.study.figures import ByArm, Table, mean, spread
from trainer.study.plan import Plan
from trainer.study.runs import Run

_NOT_TOLD = ("seconds", "settings")
"""Of records, and not of results: these are the same however often the study was stopped, and hold the plan once."""


def write_tables(plan: Plan, out: Path, runs: Sequence[Run]) -> str:
    """Write the files from the runs that are done.

    Args:
        plan: of the study.
        out: its folder.
        runs: all of it, in order.

    Returns:
        The tables, in Markdown.
    """
    records = {run.name: record for run in runs if (record := run.record) is not None}
    found = tables(plan, runs, records)
    text = to_markdown(plan, found, len(records), len(runs))
    kept = [{name: value for name, value in one.items() if name not in _NOT_TOLD} for one in records.values()]
    rows = io.StringIO()
    if kept:
        flat = [_flat(one) for one in kept]
        # a record of an earlier version may lack some
        writer = csv.DictWriter(rows, list(dict.fromkeys(name for one in flat for name in one)))
        writer.writeheader()
        writer.writerows(flat)
    results = {
        "plan": json.loads(plan.to_json()),
        "of": len(runs),
        "runs": kept,
        "tables": {scale: [table.to_json() for table in some] for scale, some in found.items()},
    }
    for name, data in (
        ("results.json", json.dumps(results, indent=1) + "\n"), ("results.csv", rows.getvalue()), ("results.md", text),
    ):  # fmt: skip
        write_whole(out / name, data.encode())  # jobs of a cluster may write at once
    return text


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record has one value, the same names for every record."""
    low, high = record["gate_interval"] or (None, None)
    plain = {name: value for name, value in record.items() if name not in ("gate_interval", "yardsticks", "curve")}
    return {**plain, "gate_low": low, "gate_high": high}


def tables(plan: Plan, runs: Sequence[Run], records: dict[str, dict[str, Any]]) -> dict[str, list[Table]]:
    """The tables of each scale that have rows, in the order of reading."""
    found = {}
    for scale in plan.scales:
        by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for run in runs:
            if run.scale == scale and run.name in records:
                by_arm[run.arm.name].append(records[run.name])
        if by_arm:
            made = (table(plan, by_arm) for table in _TABLES)
            found[scale.scale] = [table for table in made if table.rows]
    return found


def to_markdown(plan: Plan, found: dict[str, list[Table]], done: int, count: int) -> str:
    """All tables as one text."""
    parts = [f"# Study {plan.name}\n\n{done} of {count} runs are done. {plan.test}\n"]
    for scale in plan.scales:
        if scale.scale in found:
            parts.append(f"## {scale.scale}: {scale.symbols:,} ids, {scale.batch} x {scale.sequence} a step\n")
            parts += [table.to_markdown() for table in found[scale.scale]]
    return "\n".join(parts)


def _gates(plan: Plan, by_arm: ByArm) -> Table:
    rows = []
    for arm in plan.arms:
        records = by_arm.get(arm.name, [])
        if arm.mode.mixes and (gate := spread(records, "gate")) is not None:
            names = ("after_own", "after_other", "after_none", "written_exactly", "character_error")
            own, other, none, exact, errors = (spread(records, name) or "-" for name in names)
            aligned = "aligned" if is_aligned(plan, records) else "not aligned"
            translated = f"{mean(records, 'translated'):,.0f}"
            rows.append((arm.name, translated, own, other, none, gate, aligned, exact, errors))
    heads = (
        "arm", "pieces", "after its own comp view", "after another's", "alone", "own minus other",
        f"gate {plan.gate:g}", "written exactly", "character errors",
    )  # fmt: skip
    return Table("Does the model read the comp view? Raw bits per byte", heads, rows)


def _arms(plan: Plan, by_arm: ByArm) -> Table:
    rows = []
    for arm in plan.arms:
        if records := by_arm.get(arm.name, []):
            figures = [spread(records, f"{view}_bits_per_byte") or "-" for view in ("raw", "comp")]
            counts = [mean(records, name) for name in ("raw_view_bytes", "comp_view_bytes")]
            rows.append(
                (arm.name, *figures, *(f"{count / 1e6:.2f}" for count in counts), f"{mean(records, 'pairs'):,.0f}",
                 f"{mean(records, 'steps'):,.0f}", f"{mean(records, 'symbols'):,.0f}", len(records))
            )  # fmt: skip
    heads = (
        "arm", "raw, bits per byte", "comp, bits per raw byte", "raw seen, MB", "comp seen, MB of text", "pairs",
        "steps", "ids", "seeds",
    )  # fmt: skip
    return Table("What each saw, and what came of it", heads, rows)


def _programs(plan: Plan, by_arm: ByArm) -> Table:
    rows = []
    for arm in plan.arms:
        records = by_arm.get(arm.name, [])
        if (passed := spread(records, "pass_at_1")) is not None:
            rows.append((arm.name, passed, spread(records, "robust_pass_at_1") or "-"))
    return Table("Programs: share of problems", ("arm", "pass@1", "robust pass@1"), rows)


def _yardsticks(plan: Plan, by_arm: ByArm) -> Table:
    # the longest: Markov models are counted once
    found: list[dict[str, float]] = [record["yardsticks"] for arm in plan.arms for record in by_arm.get(arm.name, [])]
    most = max(found, key=len, default={})
    rows = [(name, f"{value:.3f}") for name, value in most.items()]
    note = "Markov models are counted on training text, 256 MiB at most, whatever an arm read of it."
    return Table("Yardsticks: bits per byte of the same documents", ("", "bits per byte"), rows, note)


_TABLES = (_gates, _arms, baselines, ablations, same_text, worth, starved, _programs, _yardsticks)
