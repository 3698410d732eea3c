"""What a study compares, written down before its first run: datasets, arms, scales, seeds, evaluation, the test.

An arm is a way to train. All see the same number of ids, but for those whose size follows from what another arm's run
saw (`of`): baselines on bytes alone, and the same way to train on as much text as bytes alone read. They run after it.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from schemas.errors import UserError
from trainer.data.views import COMP_RATE, Mode
from trainer.evaluate.translation import GATE
from trainer.model.evabyte import Recompute
from trainer.scales import scale_named


class Sizing(StrEnum):
    """How long an arm is trained."""

    SYMBOLS = "symbols"
    """As many ids as the plan says."""
    ONE_PASS = "raw-one-pass"
    """As many ids as the other arm saw raw bytes, in steps of the plan's size: fewer steps."""
    SAME_STEPS = "raw-same-steps"
    """As many ids as the other arm saw raw bytes, in about as many steps: smaller ones."""
    REPEATED = "raw-repeated"
    """As many ids as the plan says, of no more text than the other arm saw raw bytes."""
    SAME_TEXT = "same-text"
    """The other arm once more, for as many ids as show a byte of text for each id of the plan, in whichever view: all
    that bytes alone read."""

    @property
    def is_baseline(self) -> bool:
        """Whether the run is on bytes alone, beside the other arm."""
        return self in (Sizing.ONE_PASS, Sizing.SAME_STEPS, Sizing.REPEATED)


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """A dataset of the study.

    Attributes:
        name: of its folder.
        options: of `python -m pipelines preprocess` that make it, without corpus and --out.
    """

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train.

    Attributes:
        name: unique in the plan.
        dataset: its name.
        mode: see `trainer.data.views`.
        comp_rate: top of r.
        main_heads: see `--main-heads` of train; None: as published, 8 of bytes alone and 1 of others, beside a raw one.
        raw_text_bytes: of the documents that raw views and pairs are of; None: of all. See `raw_text.py`.
        sizing: how long; see `Sizing`.
        of: the arm that the size follows from.
    """

    name: str
    dataset: str
    mode: Mode
    comp_rate: float = COMP_RATE
    main_heads: int | None = None
    raw_text_bytes: int | None = None
    sizing: Sizing = Sizing.SYMBOLS
    of: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScalePlan:
    """One size of model and how it is trained.

    Attributes:
        scale: of the table of scales.
        symbols: ids of a run.
        batch: B, sequences of a step.
        sequence: T, ids of a sequence.
        pair_symbols: longest aligned part of a pair, in ids; None: T // 2.
        processes: that share a batch, one a GPU.
        micro_batch: sequences of a forward pass; None: all of a process.
        recompute: see `--recompute` of train.
    """

    scale: str
    symbols: int
    batch: int
    sequence: int
    pair_symbols: int | None = None
    processes: int = 1
    micro_batch: int | None = None
    recompute: Recompute = "none"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole study.

    Attributes:
        name: of it.
        corpus: as `--corpus` of preprocess; empty: it must be given to the study.
        datasets: made from it.
        arms: in the order in which they run.
        scales: each with all arms.
        seeds: each with all arms and scales.
        val_fraction: held out of every run, the same documents for all arms.
        validations: points of the curve of held-out raw bits per byte by ids, while a run trains.
        documents: held-out ones that bits per byte are measured on after it.
        translations: of those, that the gate is measured on.
        translated_bytes: of each of these, at most; documents without spans (gzip) are translated whole or not at all.
        written: of those, that the model translates by writing the bytes.
        problems: as --problems of `evaluate humaneval` and `robustness`; none: programs are not asked for.
        gate: bits per byte after a document's own comp view minus after another's; an arm is aligned if it is below,
            its 95 % interval below 0. Else comparisons of it say nothing of transfer.
        test: what will be compared and how, in words, for who reads the results.
    """

    name: str
    corpus: str
    datasets: tuple[DatasetPlan, ...]
    arms: tuple[Arm, ...]
    scales: tuple[ScalePlan, ...]
    seeds: tuple[int, ...] = (0,)
    val_fraction: float = 0.05
    validations: int = 10
    documents: int = 400
    translations: int = 100
    translated_bytes: int = 512
    written: int = 0
    problems: str | None = None
    gate: float = GATE
    test: str = field(
        default="Raw bits per byte of held-out documents, arm minus baseline, mean over seeds, beside the 95 % "
        "interval that the seeds' noise makes, pooled over the arms of a table; a difference within it is none, and of "
        "one seed nothing is known. Only arms that pass the gate show transfer."
    )

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        datasets = {dataset.name for dataset in self.datasets}
        if not (self.arms and self.scales and self.seeds):
            raise UserError(f"plan {self.name}: expected an arm, a scale and a seed at least")
        for what, given in (
            ("arms", names), ("seeds", self.seeds), ("scales", [one.scale for one in self.scales]),
            ("datasets", [one.name for one in self.datasets]),
        ):  # fmt: skip
            if len(set(given)) < len(given):
                raise UserError(f"plan {self.name}: {what} {', '.join(map(str, given))}: each may be there once")
        for place, arm in enumerate(self.arms):
            if arm.dataset not in datasets:
                raise UserError(
                    f"plan {self.name}: arm {arm.name} is of dataset {arm.dataset}, which is not in the plan"
                )
            if (arm.of is None) is not (arm.sizing is Sizing.SYMBOLS):
                raise UserError(
                    f"plan {self.name}: arm {arm.name}: sizing {arm.sizing} and of {arm.of} do not go together"
                )
            if arm.of is not None and arm.of not in names[:place]:
                raise UserError(f"plan {self.name}: arm {arm.name} is of {arm.of}, which must stand before it")
            if arm.raw_text_bytes is not None and arm.raw_text_bytes < 1:
                raise UserError(f"plan {self.name}: arm {arm.name}: raw_text_bytes must be 1 or more")
            if arm.raw_text_bytes is not None and arm.mode is Mode.COMP_ONLY:
                raise UserError(f"plan {self.name}: arm {arm.name} reads no raw text that could be scarce")
            if arm.sizing.is_baseline and arm.mode is not Mode.BYTES:
                raise UserError(f"plan {self.name}: arm {arm.name} is a baseline, so its mode must be bytes")
        if self.validations < 1:
            raise UserError(f"plan {self.name}: expected a validation at least")
        for scale in self.scales:
            scale_named(scale.scale)
            if scale.symbols < scale.batch * scale.sequence:
                raise UserError(f"plan {self.name}: {scale.scale}: {scale.symbols} symbols are less than one step")
            if scale.batch % scale.processes:
                raise UserError(
                    f"plan {self.name}: {scale.scale}: a batch of {scale.batch} for {scale.processes} processes"
                )

    def to_json(self) -> str:
        """The file form."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, data: bytes, path: str) -> "Plan":
        """Inverse of `to_json`.

        Raises:
            UserError: not a plan.
        """
        try:
            fields: dict[str, Any] = json.loads(data)
            return cls(
                **{
                    **fields,
                    "datasets": tuple(
                        DatasetPlan(name=one["name"], options=tuple(one["options"])) for one in fields["datasets"]
                    ),
                    "arms": tuple(
                        Arm(**{**one, "mode": Mode(one["mode"]), "sizing": Sizing(one.get("sizing", "symbols"))})
                        for one in fields["arms"]
                    ),
                    "scales": tuple(ScalePlan(**one) for one in fields["scales"]),
                    "seeds": tuple(fields.get("seeds", (0,))),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a plan of a study ({type(error).__name__}: {error})") from None
