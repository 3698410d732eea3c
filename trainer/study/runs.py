"""The runs of a plan: which there are, the commands that make them, and what is kept of each.

    OUT/plan.json                      written first; grows, never changes
    OUT/data/DATASET/                  by `python -m pipelines preprocess`, unless it is there
    OUT/runs/SCALE-ARM-sSEED/          by `python -m trainer train` and `evaluate`; record.json last: it is done

Every step is a command that goes on where it was stopped, so a study does.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.names import MANIFEST
from trainer.data.dataset import Dataset
from trainer.data.views import Mode
from trainer.evaluate.journal import FOLDER, read_results
from trainer.run_log import read_metrics
from trainer.scales import scale_named
from trainer.study.plan import Arm, DatasetPlan, Plan, ScalePlan, Sizing
from trainer.study.raw_text import RawText, raw_text

RECORD = "record.json"

VALIDATE_BYTES = 1 << 16
"""Of held-out documents, at each point of a curve."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much a run trains.

    Attributes:
        symbols: ids.
        batch: sequences of a step.
        sequence: ids of each.
        raw_text_bytes: of the documents that raw views are of; None: of all.
    """

    symbols: int
    batch: int
    sequence: int
    raw_text_bytes: int | None

    @property
    def steps(self) -> int:
        """Of the run."""
        return -(-self.symbols // (self.batch * self.sequence))


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
            UserError: the file is damaged, or of a run that the plan would do otherwise.
        """
        path = self.folder / RECORD
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
            settings: dict[str, Any] = found["settings"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: damaged; delete it, and the run is evaluated again") from None
        if settings != (own := self.settings):
            changed = sorted(name for name in own.keys() | settings.keys() if own.get(name) != settings.get(name))
            raise UserError(
                f"{path}: of a run with another {', '.join(changed)} than the plan has; give another --out, or delete "
                f"{self.folder} to do it again"
            )
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """All of the plan that decides its record; JSON."""
        plan, base = self.plan, self.base()
        dataset = next(dataset for dataset in plan.datasets if dataset.name == self.arm.dataset)
        found = {
            "arm": _given(self.arm),
            "base": None if base is None else _given(base.arm),
            "scale": _given(self.scale),
            "seed": self.seed,
            "corpus": plan.corpus,
            "dataset": dataset.options,
            **{name: getattr(plan, name) for name in _EVALUATION},
        }
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def base(self) -> "Run | None":
        """The run that this one's size follows from."""
        if self.arm.of is None:
            return None
        arm = next(arm for arm in self.plan.arms if arm.name == self.arm.of)
        return Run(plan=self.plan, out=self.out, arm=arm, scale=self.scale, seed=self.seed)

    def size(self) -> Size:
        """How much is trained.

        Raises:
            UserError: the run that this one's size follows from is not done, or saw nothing raw.
        """
        scale, sizing = self.scale, self.arm.sizing
        plain = Size(
            symbols=scale.symbols, batch=scale.batch, sequence=scale.sequence, raw_text_bytes=self.arm.raw_text_bytes
        )
        base = self.base()
        if base is None:
            return plain
        record = base.record
        if record is None:
            raise UserError(f"{self.name}: its size follows from {base.name}, which is not done")
        raw = int(record["raw_view_bytes"])
        if sizing is Sizing.SAME_TEXT:
            share = min(1.0, plain.symbols / (raw + record["comp_view_bytes"]))
            return _at_least_a_step(replace(plain, symbols=int(plain.symbols * share)))
        if not raw:
            raise UserError(f"{self.name}: a baseline of {base.name}, which saw nothing raw")
        if sizing is Sizing.REPEATED:
            return replace(plain, raw_text_bytes=raw)
        # a document is bos, opener, bytes, closer, eos
        framing = 1 + 4 * record["dataset_documents"] / record["dataset_raw_bytes"]
        found = replace(plain, symbols=round(raw * framing))
        if sizing is Sizing.SAME_STEPS:
            batch, sequence = shape_of(
                found.symbols / record["steps"], plain.batch, plain.sequence, scale.processes,
                scale_named(scale.scale).window,
            )  # fmt: skip
            found = replace(found, batch=batch, sequence=sequence)
        return _at_least_a_step(found)

    def _raw_text(self, size: Size) -> RawText | None:
        """The documents that raw views are of; None: all, and nothing is read."""
        if size.raw_text_bytes is None:
            return None
        return raw_text(self._dataset(), size.raw_text_bytes, self.plan.val_fraction, self.seed)

    def _dataset(self) -> Dataset:
        return Dataset(str(data_folder(self.out, self.arm.dataset)))

    def train_command(self) -> list[str]:
        """Options of `python -m trainer`.

        Raises:
            UserError: see `size`.
        """
        scale, arm, size = self.scale, self.arm, self.size()
        text = self._raw_text(size)
        share = 1.0 if text is None else text.share
        each = size.batch // scale.processes
        micro_batch = () if scale.micro_batch is None else ("--micro-batch", str(math.gcd(each, scale.micro_batch)))
        return [
            "train", "--data", str(data_folder(self.out, arm.dataset)), "--run", str(self.folder),
            "--scale", scale.scale, "--mode", str(arm.mode), "--symbols", str(size.symbols),
            "--batch", str(size.batch), "--sequence", str(size.sequence), *micro_batch, "--recompute", scale.recompute,
            "--comp-rate", repr(arm.comp_rate), "--raw-fraction", repr(share), "--seed", str(self.seed),
            "--val-fraction", repr(self.plan.val_fraction), "--no-tensorboard",
            *(() if arm.main_heads is None else ("--main-heads", str(arm.main_heads))),
            *(() if scale.pair_symbols is None else ("--pair-symbols", str(min(scale.pair_symbols, size.sequence)))),
            "--validate-every", str(self._validate_every(size.steps)), "--validate-bytes", str(VALIDATE_BYTES),
        ]  # fmt: skip

    def evaluate_commands(self) -> Iterator[list[str]]:
        """Options of `python -m trainer`, a command each."""
        plan, run = self.plan, ("--run", str(self.folder), "--json")
        plain = self.arm.mode is Mode.BYTES and self.arm.raw_text_bytes is None and self.arm.of is None
        no_markov = () if plain else ("--markov",)  # its figure is the same for every arm, and takes a while
        yield ["evaluate", "bpb", *run, "--documents", str(plan.documents), *no_markov]
        if self.arm.mode.mixes:
            documents = (
                "--documents", str(plan.translations), "--max-bytes", str(plan.translated_bytes),
                "--written", str(plan.written),
            )  # fmt: skip
            yield ["evaluate", "translation", *run, *documents]
        if plan.problems is not None and self.arm.mode is not Mode.COMP_ONLY:
            for what in ("humaneval", "robustness"):
                yield ["evaluate", what, *run, "--problems", plan.problems]

    def _validate_every(self, steps: int) -> int:
        return -(-steps // self.plan.validations)

    def _validated(self, steps: int) -> list[int]:
        """Steps, from 0, after which held-out raw text is told: the last one, too."""
        if self.arm.mode is Mode.COMP_ONLY:
            return []
        every = self._validate_every(steps)
        return sorted({*range(every - 1, steps, every), steps - 1})

    def _results(self) -> dict[str, dict[str, Any]]:
        """Figures by evaluation, of those that the plan asks for.

        Raises:
            UserError: there are several of one.
        """
        asked = {command[1] for command in self.evaluate_commands()}
        found: dict[str, dict[str, Any]] = {}
        for result in read_results(self.folder / FOLDER):
            name = result["evaluation"]
            if name in found and name in asked:
                raise UserError(
                    f"{self.folder / FOLDER}: several results of {name}, made with other options or before the run was "
                    "done, and nothing says which is the study's; delete that folder, and it is evaluated again"
                )
            found[name] = result["figures"]
        return {name: figures for name, figures in found.items() if name in asked}

    def make_record(self) -> dict[str, Any]:
        """What is kept of a run whose commands have ended: its configuration, what it saw, its figures.

        Raises:
            UserError: a log or a result is missing, or is not what the plan asks for.
        """
        lines = list(read_metrics(self.folder))
        results = self._results()
        if not lines or "bpb" not in results:
            raise UserError(f"{self.folder}: no metrics or no result of bpb; delete the folder and run the study again")
        size = self.size()
        if len(lines) != size.steps:
            raise UserError(
                f"{self.folder}: {len(lines)} of {size.steps} steps are in its log; delete the folder and run the "
                "study again"
            )
        curve = _curve(lines)
        if [point["step"] for point in curve] != self._validated(size.steps):
            raise UserError(
                f"{self.folder}: its log has validations at other steps than the plan's {self.plan.validations} (was "
                "the plan changed while it ran?); delete the folder and run the study again"
            )
        every, text, dataset = results["bpb"]["all"], self._raw_text(size), self._dataset()
        told = results.get("translation", {}).get("all", {})
        gate = told.get("gate", {})
        passed = results.get("humaneval", {}).get("base", {}).get("pass@1", {})
        robust = results.get("robustness", {}).get("overall", {}).get("robust") or {}
        return {
            "settings": self.settings,
            "scale": self.scale.scale,
            "arm": self.arm.name,
            "seed": self.seed,
            "mode": str(self.arm.mode),
            "dataset": self.arm.dataset,
            "sizing": str(self.arm.sizing),
            "of": self.arm.of,
            "raw_text_bytes": None if text is None else text.raw_bytes,
            "raw_text_documents": None if text is None else text.documents,
            "steps": len(lines),
            **{name: sum(int(line[name]) for line in lines) for name in _SEEN},
            "seconds": round(sum(line["symbols"] / line["symbols_per_second"] for line in lines), 1),
            "dataset_digest": dataset.row_groups_digest,
            "dataset_raw_bytes": int(dataset.raw_bytes.sum()),
            "dataset_documents": int(dataset.rows.sum()),
            "pieces": every["pieces"],
            "documents": every["documents"],
            "raw_bits_per_byte": every.get("raw", {}).get("value"),
            "comp_bits_per_byte": every.get("comp", {}).get("value"),
            **{f"after_{name}": told.get(name, {}).get("value") for name in ("own", "other", "none")},
            "gate": gate.get("value"),
            "gate_interval": [gate["low"], gate["high"]] if gate else None,
            "translated": told.get("pieces"),
            "written_exactly": told.get("exact", {}).get("value"),
            "character_error": told.get("character_error", {}).get("value"),
            "pass_at_1": passed.get("value"),
            "robust_pass_at_1": robust.get("value"),
            "yardsticks": {**every["compressors"], **{f"markov-{k}": bits for k, bits in every["markov"].items()}},
            "curve": curve,
        }


_SEEN = ("symbols", "raw_view_bytes", "comp_view_bytes", "pairs")


_EVALUATION = (
    "val_fraction", "validations", "documents", "translations", "translated_bytes", "written", "problems",
)  # fmt: skip
"""Of the plan: what of it decides figures of all runs."""


def _given(one: Arm | ScalePlan) -> dict[str, Any]:
    """What is not by default: a field that comes later makes no record of earlier one of another plan."""
    return {field.name: value for field in fields(one) if (value := getattr(one, field.name)) != field.default}


def shape_of(ids: float, most: int, sequence: int, processes: int, window: int) -> tuple[int, int]:
    """Sequences of a batch and ids of each, as nearly so many ids a step as whole windows allow.

    Args:
        ids: of a step.
        most: sequences.
        sequence: ids of each, as far as there is a choice.
        processes: that share the batch evenly.
        window: that a sequence is a multiple of.
    """
    shapes = (
        (batch, max(round(ids / batch / window), 1) * window)
        for batch in range(processes, max(most, processes) + 1, processes)
    )
    return min(shapes, key=lambda shape: (abs(shape[0] * shape[1] - ids), abs(shape[1] - sequence)))


def _at_least_a_step(size: Size) -> Size:
    return replace(size, symbols=max(size.symbols, size.batch * size.sequence))


def _curve(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Held-out raw bits per byte while the run trained, beside what it had seen by then."""
    seen = dict.fromkeys(_SEEN, 0)
    points = []
    for line in lines:
        for name in _SEEN:
            seen[name] += int(line[name])
        if line.get("validation_bits_per_byte") is not None:
            points.append({"step": line["step"], **seen, "raw_bits_per_byte": line["validation_bits_per_byte"]})
    return points


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


def check_datasets(runs: Sequence[Run]) -> None:
    """See that all records are of the datasets that are there, so that what is compared is of the same documents.

    Raises:
        UserError: one is of another version of its dataset.
    """
    digests: dict[str, str] = {}
    for run in runs:
        record = run.record
        if record is None:
            continue
        folder = data_folder(run.out, run.arm.dataset)
        if run.arm.dataset not in digests and (folder / MANIFEST).exists():
            digests[run.arm.dataset] = Dataset(str(folder)).row_groups_digest
        if record["dataset_digest"] != digests.setdefault(run.arm.dataset, record["dataset_digest"]):
            raise UserError(
                f"{run.folder / RECORD}: of another dataset than {folder} or other records, whose documents have "
                "changed (another version of the corpus?); give another --out, and the study begins anew"
            )


def preprocess_command(plan: Plan, dataset: DatasetPlan, out: Path) -> list[str]:
    """Options of `python -m pipelines`."""
    folder = str(data_folder(out, dataset.name))
    return ["preprocess", "--corpus", plan.corpus, "--out", folder, "--quiet", *dataset.options]
