"""The runs of a plan: which there are, the commands that make them, and what is kept of each.

    OUT/plan.json                      written first, never changed
    OUT/data/DATASET/                  by `python -m pipelines preprocess`, unless it is there
    OUT/runs/SCALE-ARM-sSEED/          by `python -m trainer train` and `evaluate`; record.json last: it is done

Every step is a command that goes on where it was stopped, so a study does.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from trainer.data.dataset import Dataset
from trainer.data.views import Mode
from trainer.evaluate.journal import FOLDER, read_results
from trainer.run_log import read_metrics
from trainer.study.plan import Arm, DatasetPlan, Plan, ScalePlan, Sizing

RECORD = "record.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a study.

    Attributes:
        plan: of the study.
        out: its folder.
        arm: what is trained.
        scale: at which size.
        seed: of the run.
    """

    plan: Plan
    out: Path
    arm: Arm
    scale: ScalePlan
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return name_of(self.scale.scale, self.arm.name, self.seed)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.out / "runs" / self.name

    @property
    def record(self) -> dict[str, Any] | None:
        """What is kept of it; None: it is not done.

        Raises:
            UserError: the file is damaged.
        """
        path = self.folder / RECORD
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"{path}: damaged; delete it, and the run is evaluated again") from None
        return found

    def base(self) -> "Run | None":
        """The run that a baseline is of."""
        if self.arm.of is None:
            return None
        arm = next(arm for arm in self.plan.arms if arm.name == self.arm.of)
        return Run(plan=self.plan, out=self.out, arm=arm, scale=self.scale, seed=self.seed)

    def train_command(self) -> list[str]:
        """Options of `python -m trainer`.

        Raises:
            UserError: the run that this is a baseline of is not done, or saw nothing raw.
        """
        scale, arm = self.scale, self.arm
        symbols, batch, fraction = scale.symbols, scale.batch, arm.raw_fraction
        if (base := self.base()) is not None:
            record = base.record
            if record is None:
                raise UserError(f"{self.name}: a baseline of {base.name}, which is not done")
            raw = int(record["raw_view_bytes"])
            if not raw:
                raise UserError(f"{self.name}: a baseline of {base.name}, which saw nothing raw")
            if arm.sizing is Sizing.REPEATED:
                fraction = min(1.0, raw / (record["dataset_raw_bytes"] * (1 - self.plan.val_fraction)))
            else:
                symbols = max(raw, scale.sequence)
            if arm.sizing is Sizing.SAME_STEPS:
                batch = max(1, round(scale.batch * raw / scale.symbols))
        symbols = max(symbols, batch * scale.sequence)
        return [
            "train", "--data", str(data_folder(self.out, arm.dataset)), "--run", str(self.folder),
            "--scale", scale.scale, "--mode", str(arm.mode), "--symbols", str(symbols), "--batch", str(batch),
            "--sequence", str(scale.sequence),
            "--comp-rate", repr(arm.comp_rate), "--raw-fraction", repr(fraction), "--seed", str(self.seed),
            "--val-fraction", repr(self.plan.val_fraction), "--validate-every", "0", "--no-tensorboard",
        ]  # fmt: skip

    def evaluate_commands(self) -> Iterator[list[str]]:
        """Options of `python -m trainer`, a command each."""
        run = ("--run", str(self.folder), "--json")
        yield ["evaluate", "bpb", *run, "--documents", str(self.plan.documents), "--markov"]
        if self.arm.mode.mixes:
            yield ["evaluate", "translation", *run, "--documents", str(self.plan.translations), "--no-generate"]

    def make_record(self) -> dict[str, Any]:
        """What is kept of a run whose commands have ended: its configuration, what it saw, its figures.

        Raises:
            UserError: a log or a result is missing.
        """
        lines = list(read_metrics(self.folder))
        results = {result["evaluation"]: result["figures"] for result in read_results(self.folder / FOLDER)}
        if not lines or "bpb" not in results:
            raise UserError(f"{self.folder}: no metrics or no result of bpb; delete the folder and run the study again")
        seen = ("symbols", "raw_view_bytes", "comp_view_bytes", "pairs")
        every = results["bpb"]["all"]
        gate = results.get("translation", {}).get("all", {})
        return {
            "scale": self.scale.scale,
            "arm": self.arm.name,
            "seed": self.seed,
            "mode": str(self.arm.mode),
            "dataset": self.arm.dataset,
            "sizing": str(self.arm.sizing),
            "of": self.arm.of,
            "steps": len(lines),
            **{name: sum(int(line[name]) for line in lines) for name in seen},
            "dataset_raw_bytes": int(Dataset(str(data_folder(self.out, self.arm.dataset))).raw_bytes.sum()),
            "raw_bits_per_byte": every.get("raw", {}).get("value"),
            "comp_bits_per_byte": every.get("comp", {}).get("value"),
            **{f"after_{name}": gate.get(name, {}).get("value") for name in ("own", "other", "none")},
            "gate": gate.get("gate", {}).get("value"),
        }


def name_of(scale: str, arm: str, seed: int) -> str:
    """Of a run's folder."""
    return f"{scale}-{arm}-s{seed}"


def runs_of(plan: Plan, out: Path) -> list[Run]:
    """All runs, in order: seed by seed, so that a study that is stopped has whole comparisons."""
    return [
        Run(plan=plan, out=out, arm=arm, scale=scale, seed=seed)
        for scale in plan.scales
        for seed in plan.seeds
        for arm in plan.arms
    ]


def data_folder(out: Path, name: str) -> Path:
    """Of a dataset of a study."""
    return out / "data" / name


def preprocess_command(plan: Plan, dataset: DatasetPlan, out: Path) -> list[str]:
    """Options of `python -m pipelines`."""
    folder = str(data_folder(out, dataset.name))
    return ["preprocess", "--corpus", plan.corpus, "--out", folder, "--quiet", *dataset.options]


def is_bytes(arm: Arm) -> bool:
    """Whether an arm is trained on bytes alone."""
    return arm.mode is Mode.BYTES
