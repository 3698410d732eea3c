"""Arms beside bytes alone: at the same ids, the same raw bytes, the same text, and where raw text is scarce.

Seeds are compared with each other: a difference is of two runs of one seed, and its mean over seeds stands beside the
range over seeds of either side. What is no larger than that range is marked as none.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from trainer.data.views import Mode
from trainer.study.figures import ByArm, Spread, Table, mean
from trainer.study.plan import Arm, Plan, Sizing

_WORDS = {
    Sizing.SYMBOLS: "same ids",
    Sizing.ONE_PASS: "same raw bytes, one pass",
    Sizing.SAME_STEPS: "same raw bytes, same steps",
    Sizing.REPEATED: "same raw bytes, repeated",
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """An arm and what it is compared with, at the seeds that both have.

    Attributes:
        ours: of the arm.
        theirs: of the other.
        differences: ours minus theirs, seed by seed.
        aligned: whether the arm passes the gate at all seeds.
    """

    ours: Spread
    theirs: Spread
    differences: tuple[float, ...]
    aligned: bool

    @property
    def noise(self) -> float:
        """The wider range over seeds."""
        return max(self.ours.width, self.theirs.width)

    @property
    def reading(self) -> str:
        """In words."""
        difference = statistics.fmean(self.differences)
        if len(self.differences) == 1:
            word = "one seed"
        elif abs(difference) <= self.noise:
            word = "none"
        else:
            word = "better" if difference < 0 else "worse"
        return word if self.aligned else f"{word}, not aligned"

    @property
    def cells(self) -> tuple[object, ...]:
        """Of a row of a table: arm, other, difference, noise, reading."""
        difference = statistics.fmean(self.differences)
        return self.ours, self.theirs, f"{difference:+.3f}", f"{self.noise:.3f}", self.reading


def _raw(record: Record) -> float:
    return float(record["raw_bits_per_byte"])


def _best(record: Record) -> float:
    """The least of its curve: a run that repeats little text is best before its end."""
    return min(float(point["raw_bits_per_byte"]) for point in record["curve"])


def compare(
    plan: Plan, ours: Sequence[Record], theirs: Sequence[Record], figure: Callable[[Record], float] = _raw,
) -> Comparison | None:  # fmt: skip
    """Two arms by a figure of bits per byte; None where they share no seed."""
    one, other = ({record["seed"]: record for record in records} for records in (ours, theirs))
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    first, second = (tuple(figure(records[seed]) for seed in seeds) for records in (one, other))
    gates = [one[seed]["gate"] for seed in seeds]
    return Comparison(
        Spread(first),
        Spread(second),
        tuple(a - b for a, b in zip(first, second, strict=True)),
        all(gate is not None and gate < plan.gate for gate in gates),
    )


def baselines(plan: Plan, by_arm: ByArm) -> Table:
    """Arms beside bytes alone: at the same ids, and at the raw bytes that they saw."""
    rows: list[tuple[object, ...]] = []
    for arm, baseline in _beside(plan):
        found = compare(plan, by_arm.get(arm.name, []), by_arm.get(baseline.name, []))
        if found is not None:
            batch = f"{mean(by_arm[baseline.name], 'steps'):,.0f}"
            rows.append((arm.name, _WORDS[baseline.sizing], batch, *found.cells))
    heads = (
        "arm",
        "bytes alone at the",
        "in steps",
        "arm",
        "bytes alone",
        "arm minus bytes",
        "seeds' range",
        "reading",
    )
    return Table("Beside bytes alone, raw bits per byte", heads, rows)


def _beside(plan: Plan) -> Iterator[tuple[Arm, Arm]]:
    plain = _plain(plan)
    for arm in plan.arms:
        if arm.mode.mixes and arm.raw_text_bytes is None and arm.of is None:
            if plain is not None:
                yield arm, plain
            yield from ((arm, other) for other in plan.arms if other.of == arm.name and other.sizing.is_baseline)


def _plain(plan: Plan, raw_text_bytes: int | None = None) -> Arm | None:
    """Bytes alone."""
    arms = (arm for arm in plan.arms if arm.mode is Mode.BYTES and arm.of is None)
    return next((arm for arm in arms if arm.raw_text_bytes == raw_text_bytes), None)


def same_text(plan: Plan, by_arm: ByArm) -> Table:
    """Arms that saw as much text, in whichever view, as bytes alone at all ids: fewer ids."""
    plain = _plain(plan)
    rows: list[tuple[object, ...]] = []
    theirs = by_arm.get(plain.name, []) if plain is not None else []
    for arm in plan.arms:
        ours = by_arm.get(arm.name, [])
        if arm.sizing is not Sizing.SAME_TEXT or not ours:
            continue
        text = mean(ours, "raw_view_bytes") + mean(ours, "comp_view_bytes")
        size = (f"{text / 1e6:.2f}", f"{mean(ours, 'symbols'):,.0f}")
        if arm.mode is Mode.COMP_ONLY:  # its figure is of its own symbols
            spread = Spread(tuple(record["comp_bits_per_byte"] for record in ours))
            rows.append((arm.name, *size, f"{spread} of comp", "-", "-", "-", "-"))
        elif (found := compare(plan, ours, theirs)) is not None:
            rows.append((arm.name, *size, *found.cells))
    heads = ("arm", "text seen, MB", "ids", "arm", "bytes alone", "arm minus bytes", "seeds' range", "reading")
    note = "Bytes alone saw as much text with more ids and steps."
    return Table("At the same bytes of text in all, raw bits per byte", heads, rows, note)


def worth(plan: Plan, by_arm: ByArm) -> Table:
    """How many raw bytes a byte of text in the comp view stood for, and must stand for to break even."""
    plain = _plain(plan)
    rows: list[tuple[object, ...]] = []
    alone = [
        record
        for arm in plan.arms
        if arm.mode is Mode.BYTES and arm.raw_text_bytes is None and arm.sizing in (Sizing.SYMBOLS, Sizing.ONE_PASS)
        for record in by_arm.get(arm.name, [])
    ]
    of_plain = by_arm.get(plain.name, []) if plain is not None else []
    bytes_at_same_ids = {record["seed"]: record["raw_view_bytes"] for record in of_plain}
    for arm in plan.arms:
        if not arm.mode.mixes or arm.raw_text_bytes is not None or arm.of is not None:
            continue
        needed, found = [], []
        for record in by_arm.get(arm.name, []):
            seed, raw, comp = record["seed"], record["raw_view_bytes"], record["comp_view_bytes"]
            if seed in bytes_at_same_ids and comp:
                curve = [(one["raw_view_bytes"], _raw(one)) for one in alone if one["seed"] == seed]
                needed.append((bytes_at_same_ids[seed] - raw) / comp)
                if (stood_for := raw_bytes_for(_raw(record), curve)) is not None:
                    found.append((stood_for - raw) / comp)
        if needed:
            told = Spread(tuple(found)) if len(found) == len(needed) else "outside of what was measured"
            rows.append((arm.name, Spread(tuple(needed)), told))
    note = (
        "Read off bytes alone trained once over so many bytes, which has fewer steps: this flatters the arms, gzip's "
        "(the null arm) most."
    )
    return Table(
        "What a byte of text in the comp view was worth, in raw bytes", ("arm", "to break even", "was"), rows, note
    )


def raw_bytes_for(bits_per_byte: float, curve: Sequence[tuple[float, float]]) -> float | None:
    """The raw bytes that bytes alone must see to be as good; None outside of the curve.

    Args:
        bits_per_byte: to be reached.
        curve: raw bytes seen and bits per byte; between points bits fall linearly with the logarithm of bytes.
    """
    points = sorted(curve)
    for (less, high), (more, low) in pairwise(points):
        if high >= bits_per_byte >= low and high > low:
            share = (high - bits_per_byte) / (high - low)
            return math.exp(math.log(less) + share * (math.log(more) - math.log(less)))
    return None


def starved(plan: Plan, by_arm: ByArm) -> Table:
    """Arms whose raw views are of little text, beside bytes alone on that text; each at the best point of its curve."""
    rows: list[tuple[object, ...]] = []
    for arm in plan.arms:
        ours = by_arm.get(arm.name, [])
        plain = _plain(plan, arm.raw_text_bytes)
        if arm.raw_text_bytes is None or arm.of is not None or not ours or plain is None:
            continue
        text = mean(ours, "raw_text_bytes")
        seen = (f"{text / 1e6:.3f}", f"{mean(ours, 'raw_view_bytes') / text:.1f}")
        end = Spread(tuple(_raw(record) for record in ours))
        if arm == plain:
            rows.append((arm.name, *seen, end, Spread(tuple(_best(record) for record in ours)), "-", "-", "-", "-"))
        elif (found := compare(plan, ours, by_arm.get(plain.name, []), _best)) is not None:
            rows.append((arm.name, *seen, end, *found.cells))
    heads = (
        "arm", "raw text, MB", "times shown", "at the end", "best", "bytes alone, best", "arm minus bytes",
        "seeds' range", "reading",
    )  # fmt: skip
    return Table("Starved of raw text, raw bits per byte", heads, rows)
