"""Arms beside bytes alone: at the same ids, the same raw bytes, the same text, and where raw text is scarce.

A difference is of runs of the same seeds, and beside its mean stands what the seeds' noise makes of it (`noise.py`).
What is within is marked as none. One comparison in twenty is beyond it by chance.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from trainer.data.views import COMP_RATE, Mode
from trainer.study.figures import ByArm, Spread, Table, mean
from trainer.study.noise import Noise, pooled
from trainer.study.plan import Arm, Plan, Sizing

_WORDS = {
    Sizing.SYMBOLS: "same ids",
    Sizing.ONE_PASS: "same raw bytes, one pass",
    Sizing.SAME_STEPS: "same raw bytes, about the same steps",
    Sizing.REPEATED: "same raw bytes, repeated",
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """An arm and what it is compared with, at the seeds that both have.

    Attributes:
        ours: of the arm.
        theirs: of the other.
        noise: of both.
        aligned: whether the arm passes the gate at all seeds.
    """

    ours: Spread
    theirs: Spread
    noise: Noise
    aligned: bool

    @property
    def difference(self) -> float:
        """Ours minus theirs, mean over seeds."""
        return self.ours.mean - self.theirs.mean

    @property
    def half_width(self) -> float | None:
        """What the seeds' noise makes of it, to either side; None of one seed."""
        return self.noise.half_width(len(self.ours.values)) if len(self.ours.values) > 1 else None

    @property
    def reading(self) -> str:
        """In words."""
        if self.half_width is None:
            word = "one seed"
        elif abs(self.difference) <= self.half_width:
            word = "none"
        else:
            word = "better" if self.difference < 0 else "worse"
        return word if self.aligned else f"{word}, not aligned"

    @property
    def cells(self) -> tuple[object, ...]:
        """Of a row of a table, under `_heads`."""
        within = "unknown" if self.half_width is None else f"{self.half_width:.3f}"
        return self.ours, self.theirs, f"{self.difference:+.3f}", within, self.reading


def _heads(other: str) -> tuple[str, ...]:
    return "arm", other, "difference", "noise, ±", "reading"


Figure = Callable[[Record], float]


def _raw(record: Record) -> float:
    return float(record["raw_bits_per_byte"])


def _best(record: Record) -> float:
    """The least of its curve: a run that repeats little text is best before its end."""
    return min(float(point["raw_bits_per_byte"]) for point in record["curve"])


def _end(record: Record) -> float:
    """The last of its curve, on the same text as the best."""
    return float(record["curve"][-1]["raw_bits_per_byte"])


def is_aligned(plan: Plan, records: Sequence[Record]) -> bool:
    """Whether an arm passes the gate at all of these seeds, its interval below 0, too."""
    return all(one["gate"] is not None and one["gate"] < plan.gate and one["gate_interval"][1] < 0 for one in records)


def compare(
    plan: Plan, by_arm: ByArm, ours: str, theirs: str, noise: Noise, figure: Figure = _raw
) -> Comparison | None:
    """Two arms by a figure of bits per byte; None where they share no seed.

    Args:
        plan: of the study.
        by_arm: records.
        ours: name of the arm.
        theirs: name of the other.
        noise: of the figure.
        figure: that is compared.
    """
    one, other = ({record["seed"]: record for record in by_arm.get(name, [])} for name in (ours, theirs))
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    first, second = (Spread(tuple(figure(records[seed]) for seed in seeds)) for records in (one, other))
    return Comparison(first, second, noise, is_aligned(plan, [one[seed] for seed in seeds]))


def noise_of(by_arm: ByArm, names: Iterable[str], figure: Figure = _raw) -> Noise:
    """The noise of a figure over the seeds of these arms."""
    records = [by_arm.get(name, []) for name in dict.fromkeys(names)]
    return pooled([figure(one) for one in some if one["raw_bits_per_byte"] is not None] for some in records)


def baselines(plan: Plan, by_arm: ByArm) -> Table:
    """Arms beside bytes alone: at the same ids, and at the raw bytes that they saw."""
    rows: list[tuple[object, ...]] = []
    some = list(_beside(plan))
    noise = noise_of(by_arm, (arm.name for both in some for arm in both))
    for arm, baseline in some:
        found = compare(plan, by_arm, arm.name, baseline.name, noise)
        if found is not None:
            steps = (f"{mean(by_arm[one.name], 'steps'):,.0f}" for one in (arm, baseline))
            rows.append((arm.name, _WORDS[baseline.sizing], *steps, *found.cells))
    heads = ("of", "bytes alone at the", "steps", "of bytes alone", *_heads("bytes alone"))
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
    some = [arm for arm in plan.arms if arm.sizing is Sizing.SAME_TEXT]
    other = "" if plain is None else plain.name
    noise = noise_of(by_arm, (other, *(arm.name for arm in some)))
    for arm in some:
        ours = by_arm.get(arm.name, [])
        if not ours:
            continue
        text = mean(ours, "raw_view_bytes") + mean(ours, "comp_view_bytes")
        size = (f"{text / 1e6:.2f}", f"{mean(ours, 'symbols'):,.0f}")
        if arm.mode is Mode.COMP_ONLY:  # its figure is of its own symbols
            spread = Spread(tuple(record["comp_bits_per_byte"] for record in ours))
            rows.append((arm.name, *size, f"{spread} of comp", "-", "-", "-", "-"))
        elif (found := compare(plan, by_arm, arm.name, other, noise)) is not None:
            rows.append((arm.name, *size, *found.cells))
    heads = ("of", "text seen, MB", "ids", *_heads("bytes alone"))
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
        if plain is not None and arm.main_heads == plain.main_heads
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
            curve = [(one["raw_view_bytes"], _raw(one)) for one in alone if one["seed"] == seed]
            if seed in bytes_at_same_ids and comp and len(curve) > 1:
                needed.append((bytes_at_same_ids[seed] - raw) / comp)
                if (stood_for := raw_bytes_for(_raw(record), curve)) is not None:
                    found.append((stood_for - raw) / comp)
        if needed:
            outside = len(needed) - len(found)
            told = str(Spread(tuple(found))) if found else ""
            beyond = f"outside of what was measured at {outside} of {len(needed)} seeds" if outside else ""
            rows.append((arm.name, Spread(tuple(needed)), "; ".join(filter(None, (told, beyond))), len(needed)))
    note = (
        "Read off bytes alone trained once over so many bytes, which has fewer steps: this flatters the arms, gzip's "
        "(the null arm) most."
    )
    return Table(
        "What a byte of text in the comp view was worth, in raw bytes",
        ("arm", "to break even", "was", "seeds"),
        rows,
        note,
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


def ablations(plan: Plan, by_arm: ByArm) -> Table:
    """Arms beside the proxy that they vary: of the same dataset, at the published rate, all modes."""
    rows: list[tuple[object, ...]] = []
    mixed = [arm for arm in plan.arms if arm.mode.mixes and arm.raw_text_bytes is None and arm.of is None]
    usual = {arm.dataset: arm for arm in reversed(mixed) if arm.mode is Mode.PROXY and arm.comp_rate == COMP_RATE}
    pairs = [(arm, usual[arm.dataset]) for arm in mixed if arm.dataset in usual and arm != usual[arm.dataset]]
    noise = noise_of(by_arm, (arm.name for both in pairs for arm in both))
    for arm, other in pairs:
        if (found := compare(plan, by_arm, arm.name, other.name, noise)) is not None:
            rows.append((arm.name, other.name, *found.cells))
    return Table("Ablations, raw bits per byte", ("of", "beside", *_heads("other")), rows)


def starved(plan: Plan, by_arm: ByArm) -> Table:
    """Arms whose raw views are of little text, beside bytes alone on that text; each at the best point of its curve."""
    rows: list[tuple[object, ...]] = []
    some = [arm for arm in plan.arms if arm.raw_text_bytes is not None and arm.of is None]
    noise = noise_of(by_arm, (arm.name for arm in some), _best)
    for arm in some:
        ours = by_arm.get(arm.name, [])
        plain = _plain(plan, arm.raw_text_bytes)
        if not ours or plain is None:
            continue
        text = mean(ours, "raw_text_bytes")
        seen = (
            f"{text / 1e6:.3f}", f"{mean(ours, 'raw_text_documents'):,.0f}",
            f"{mean(ours, 'raw_view_bytes') / text:.1f}",
        )  # fmt: skip
        end = Spread(tuple(_end(record) for record in ours))
        if arm == plain:
            rows.append((arm.name, *seen, end, Spread(tuple(_best(record) for record in ours)), "-", "-", "-", "-"))
        elif (found := compare(plan, by_arm, arm.name, plain.name, noise, _best)) is not None:
            rows.append((arm.name, *seen, end, *found.cells))
    heads = (
        "of", "raw text, MB", "of documents", "times shown", "arm, at the end", "arm, best",
        *_heads("bytes alone, best")[1:],
    )  # fmt: skip
    note = (
        "The end and the best are points of one curve, on the same held-out text. The least of some points is a little "
        "too good, most so of a rough curve."
    )
    return Table("Starved of raw text, raw bits per byte", heads, rows, note)
