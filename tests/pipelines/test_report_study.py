"""The report of a study: what its own files say is drawn, its tables are there, and other files break nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.report import command
from pipelines.report.command import ReportOptions
from trainer.data.views import Mode
from trainer.study.command import PLAN
from trainer.study.plan import Arm, DatasetPlan, Plan, ScalePlan, Sizing
from trainer.study.runs import RECORD, Run, runs_of
from trainer.study.tables import write_tables

ARMS = (
    Arm(name="bytes", dataset="d", mode=Mode.BYTES),
    Arm(name="proxy", dataset="d", mode=Mode.PROXY),
    Arm(name="one-pass", dataset="d", mode=Mode.BYTES, sizing=Sizing.ONE_PASS, of="proxy"),
    Arm(name="few-bytes", dataset="d", mode=Mode.BYTES, raw_text_bytes=40_000),
    Arm(name="few-proxy", dataset="d", mode=Mode.PROXY, raw_text_bytes=40_000),
)


def record(run: Run, curve: list[float]) -> dict[str, Any]:
    mixes = run.arm.mode.mixes
    return {
        "settings": run.settings, "dataset_digest": "d", "dataset_documents": 4000, "raw_text_documents": 30,
        "documents": 400, "translated": 100 if mixes else None, "gate_interval": [-0.125, 0.25] if mixes else None,
        "scale": run.scale.scale, "arm": run.arm.name, "seed": run.seed, "sizing": str(run.arm.sizing), "steps": 9,
        "symbols": 90_000, "raw_view_bytes": 50_000, "comp_view_bytes": 90_000 if mixes else 0, "pairs": 3,
        "dataset_raw_bytes": 400_000, "raw_text_bytes": 38_000, "raw_bits_per_byte": curve[-1] + 0.01, "seconds": 60.0,
        "comp_bits_per_byte": 2.5 if mixes else None,
        **dict.fromkeys(("after_own", "after_other", "after_none"), 2.25 if mixes else None),
        "gate": -0.0625 if mixes else None, "written_exactly": None, "character_error": None,
        "pass_at_1": None, "robust_pass_at_1": None, "yardsticks": {"gzip -9": 3.5},
        "curve": [
            {"step": number, "symbols": 30_000 * number + run.seed, "raw_bits_per_byte": bits}
            for number, bits in enumerate(curve, 1)
        ],
    }  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    scales = tuple(ScalePlan(scale=scale, symbols=90_000, batch=4, sequence=256) for scale in ("tiny", "100m"))
    data = (DatasetPlan(name="d", options=()),)
    plan = Plan(name="small", corpus="stdlib", datasets=data, arms=ARMS, scales=scales, seeds=(0, 1))
    out = tmp_path / "study"
    runs = runs_of(plan, out)
    for run in runs:
        run.folder.mkdir(parents=True)
        (run.folder / RECORD).write_text(json.dumps(record(run, [3.5, 3.0, 2.75 + run.seed / 8])))
    (out / PLAN).write_text(plan.to_json())
    write_tables(plan, out, runs)
    return out


def page_of(study: Path, tmp_path: Path) -> str:
    out = tmp_path / "page.html"
    command.report(ReportOptions(study=str(study), out=str(out)))
    return out.read_text()


def test_gate_bits_curves_and_tables_of_each_scale_are_there(study: Path, tmp_path: Path) -> None:
    text = page_of(study, tmp_path)
    assert text.count('aria-label="Own minus another') == 1
    assert "<title>gate: -0.3</title>" in text
    assert "<title>proxy, tiny: -0.0625 [-0.0625, -0.0625]</title>" in text
    assert "<title>bytes, 100m: 2.822 [2.76, 2.885]</title>" in text
    assert "<title>one-pass, tiny" not in text  # arms of other sizes are in the tables alone
    assert "<title>few-bytes, tiny" not in text  # and so are those that are past their best
    assert text.count("<summary>Values of the curves") == 4
    for title in ("all raw text", "little raw text"):
        assert text.count(f'aria-label="Raw bits per byte, {title}"') == 2
    assert "bytes: 2.812 (ids, millions 0.0900005)" in text  # the mean over seeds
    for title in ("Does the model read the comp view?", "Beside bytes alone", "Starved of raw text"):
        assert text.count(f"<summary>{title}") == 2
    assert "none, not aligned" in text
    assert text.count("<summary>The plan</summary>") == 1


def test_results_of_another_form_are_shown_whole_and_the_plan_once(study: Path, tmp_path: Path) -> None:
    results = json.loads((study / "results.json").read_text())
    for damage in ("tables", "runs", "plan"):
        (study / "results.json").write_text(json.dumps({**results, damage: None, "more": 0.4375}))
        text = page_of(study, tmp_path)
        assert "0.4375" in text
        assert text.count("<summary>The plan</summary>") == 1


@pytest.mark.parametrize(
    "value", ["x", [1], [{"columns": 3, "rows": "y"}], {"tiny": [{"columns": ["a"], "rows": [[]]}]}]
)
def test_tables_that_are_none_do_no_harm(study: Path, tmp_path: Path, value: object) -> None:
    results = json.loads((study / "results.json").read_text())
    (study / "results.json").write_text(
        json.dumps({**results, "tables": value, "runs": [{"scale": "tiny", "curve": [4, {}]}]})
    )
    assert "</html>" in page_of(study, tmp_path)
