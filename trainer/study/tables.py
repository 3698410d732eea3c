"""What a study found: results.json and results.csv of all runs, results.md of the tables in the order of reading.

First the gate, since comparisons of arms that do not pass it say nothing of transfer; then bits per byte by arm with
the range over seeds; then each arm beside its baselines on bytes alone. A difference within the ranges of both sides
is marked as none.
"""

import csv
import io
import json
import statistics
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.study.plan import Plan, Sizing
from trainer.study.runs import Run, is_bytes

_WORDS = {
    Sizing.ONE_PASS: "same raw bytes, one pass",
    Sizing.SAME_STEPS: "same raw bytes, same steps",
    Sizing.REPEATED: "same raw bytes, repeated",
    Sizing.SYMBOLS: "same ids",
}


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

    @property
    def width(self) -> float:
        """Largest less smallest: 0 of one seed, of which nothing is known."""
        return max(self.values) - min(self.values)

    def __str__(self) -> str:
        some = f" ({min(self.values):.3f} to {max(self.values):.3f})" if len(self.values) > 1 else ""
        return f"{self.mean:.3f}{some}"


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
    text = tables(plan, runs, records)
    results = {"plan": json.loads(plan.to_json()), "runs": list(records.values())}
    rows = io.StringIO()
    if records:
        writer = csv.DictWriter(rows, list(next(iter(records.values()))))
        writer.writeheader()
        writer.writerows(records.values())
    for name, data in (
        ("results.json", json.dumps(results, indent=1) + "\n"), ("results.csv", rows.getvalue()), ("results.md", text),
    ):  # fmt: skip
        temp = out / f"{name}.{uuid.uuid4().hex[:8]}.tmp"  # jobs of a cluster may write at once
        temp.write_text(data)
        temp.replace(out / name)
    return text


def tables(plan: Plan, runs: Sequence[Run], records: dict[str, dict[str, Any]]) -> str:
    """The tables, in Markdown."""
    parts = [f"# Study {plan.name}\n\n{len(records)} of {len(runs)} runs are done. {plan.test}\n"]
    for scale in plan.scales:
        by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for run in runs:
            if run.scale == scale and run.name in records:
                by_arm[run.arm.name].append(records[run.name])
        if by_arm:
            title = f"## {scale.scale}: {scale.symbols:,} ids, {scale.batch} x {scale.sequence} a step\n"
            parts += [title, _gates(plan, by_arm), _arms(plan, by_arm), _baselines(plan, by_arm)]
    return "\n".join(part for part in parts if part)


def _gates(plan: Plan, by_arm: dict[str, list[dict[str, Any]]]) -> str:
    rows = []
    for arm in plan.arms:
        if arm.mode.mixes and (gate := _spread(by_arm.get(arm.name, []), "gate")) is not None:
            own, other, none = (
                _spread(by_arm[arm.name], f"after_{context}") or "-" for context in ("own", "other", "none")
            )
            aligned = "aligned" if all(value < plan.gate for value in gate.values) else "not aligned"
            rows.append((arm.name, own, other, none, gate, aligned))
    if not rows:
        return ""
    heads = ("arm", "after its own comp view", "after another's", "alone", "own minus other", f"gate {plan.gate:g}")
    return "### Does the model read the comp view? Raw bits per byte\n\n" + _markdown(heads, rows)


def _arms(plan: Plan, by_arm: dict[str, list[dict[str, Any]]]) -> str:
    rows = []
    for arm in plan.arms:
        records = by_arm.get(arm.name, [])
        if records:
            figures = [_spread(records, f"{view}_bits_per_byte") or "-" for view in ("raw", "comp")]
            counts = [_mean(records, name) for name in ("raw_view_bytes", "comp_view_bytes")]
            rows.append(
                (arm.name, *figures, *(f"{count / 1e6:.2f}" for count in counts), f"{_mean(records, 'pairs'):,.0f}",
                 f"{_mean(records, 'steps'):,.0f}", f"{_mean(records, 'symbols'):,.0f}", len(records))
            )  # fmt: skip
    heads = (
        "arm", "raw, bits per byte", "comp, bits per raw byte", "raw seen, MB", "comp seen, MB of text", "pairs",
        "steps", "ids", "seeds",
    )  # fmt: skip
    return "### What each saw, and what came of it\n\n" + _markdown(heads, rows)


def _baselines(plan: Plan, by_arm: dict[str, list[dict[str, Any]]]) -> str:
    """Arms beside bytes alone: at the same ids, and at the raw bytes that they saw."""
    arms = {arm.name: arm for arm in plan.arms}
    # of arms that may show the same share of the text raw
    plain = {arm.raw_fraction: arm.name for arm in reversed(plan.arms) if is_bytes(arm) and arm.of is None}
    mixing = [arm for arm in plan.arms if arm.of is None and arm.mode.mixes and arm.raw_fraction in plain]
    pairs: list[tuple[str | None, str]] = [(arm.name, plain[arm.raw_fraction]) for arm in mixing]
    pairs += [(arm.of, arm.name) for arm in plan.arms if arm.of is not None]
    rows = []
    for name, baseline in sorted(pairs, key=lambda pair: list(arms).index(str(pair[0]))):
        ours = {record["seed"]: record for record in by_arm.get(str(name), [])}
        theirs = {record["seed"]: record for record in by_arm.get(str(baseline), [])}
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            continue
        of_arm, of_baseline = (
            Spread(tuple(records[seed]["raw_bits_per_byte"] for seed in seeds)) for records in (ours, theirs)
        )
        differences = [a - b for a, b in zip(of_arm.values, of_baseline.values, strict=True)]
        noise = max(of_arm.width, of_baseline.width)
        mean = statistics.fmean(differences)
        reading = "one seed" if len(seeds) == 1 else "none" if abs(mean) <= noise else "better" if mean < 0 else "worse"
        gates = [ours[seed]["gate"] for seed in seeds]
        if not all(gate is not None and gate < plan.gate for gate in gates):
            reading += ", not aligned"
        rows.append(
            (name, _WORDS[arms[str(baseline)].sizing], of_arm, of_baseline, f"{mean:+.3f}", f"{noise:.3f}", reading)
        )
    if not rows:
        return ""
    heads = ("arm", "bytes alone at the", "arm", "bytes alone", "arm minus bytes", "seeds' range", "reading")
    return "### Beside bytes alone, raw bits per byte\n\n" + _markdown(heads, rows)


def _spread(records: Sequence[dict[str, Any]], name: str) -> Spread | None:
    values = tuple(record[name] for record in records if record[name] is not None)
    return Spread(values) if values else None


def _mean(records: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.fmean(record[name] for record in records)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
