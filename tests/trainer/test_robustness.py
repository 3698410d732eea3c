"""The command on a small model and a written one: worst cases; the same bytes whatever the batch or a restart."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from perturb_problems import written_problems

from schemas.errors import UserError
from trainer.evaluate.journal import Journal
from trainer.evaluate.programs import robustness
from trainer.evaluate.programs.perturb.families import FAMILIES, forms
from trainer.evaluate.programs.robust import Tally, figures, summary
from trainer.evaluate.programs.robustness import RobustnessOptions, evaluate
from trainer.evaluate.programs.samples import Completion
from trainer.evaluate.sandbox.run import refusal
from trainer.inference.decoding import Generator
from trainer.model.evabyte import EvaByte, ModelConfig

UNSAFE = refusal() is not None
"""Where there are no namespaces, the programs here may run without: a random model's bytes in a test are no danger."""


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl"
    records = [
        {
            "task_id": one.task_id, "prompt": one.prompt, "entry_point": one.entry_point,
            "canonical_solution": one.canonical, "test": one.tests.rsplit("\ncheck(", 1)[0],
        }
        for one in written_problems()[:2]
    ]  # fmt: skip
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(autouse=True)
def generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small random model in fp32."""
    config = ModelConfig(
        dim=32, ffn=48, layers=2, heads=2, window=16, chunk=4, vocabulary_size=320, main_heads=3, raw_heads=0
    )
    model = EvaByte(config)
    model.init_weights(torch.Generator().manual_seed(0))
    made = Generator(model.eval())
    monkeypatch.setattr(Generator, "from_run", lambda run, nodes=None: made)


def options(tmp_path: Path, problems: str, **changes: Any) -> RobustnessOptions:
    return RobustnessOptions(
        **{
            "run": "x", "problems": problems, "out": str(tmp_path / "out"), "max_bytes": 8, "workers": 2,
            "variants": 1, "unsafe": UNSAFE, "json": True, **changes,
        }
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_figures_are_the_papers() -> None:
    outcomes = [(True, "++"), (True, "+-"), (False, "++"), (False, "-+"), (False, "--")]
    tallies = [Tally(tuple((nominal, form == "+") for form in forms)) for nominal, forms in outcomes]
    found = figures(tallies)
    values = {name: one["value"] for name, one in found.items() if one is not None}
    assert values == {"nominal": 0.4, "robust": 0.4, "drop": 0.0, "relative": 0.6, "attack": 0.5}
    for one in found.values():
        assert one is not None
        assert one["low"] <= one["value"] <= one["high"]
        assert one["low"] < one["high"]
    nothing = figures([Tally(((False, False),))] * 3)
    assert (nothing["drop"], nothing["attack"]) == (None, None)
    assert nothing["robust"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_family_is_as_robust_as_its_worst_method() -> None:
    items = [
        {"task": task, "family": "f", "method": method, "nominal": True, "passed": passed, "changed": True}
        for task, method, passed in (("1", "a", True), ("1", "b", False), ("2", "a", True), ("2", "b", True))
    ]
    found = summary(items)
    assert found["methods"]["f a"]["robust"]["value"] == 1.0
    assert found["methods"]["f b"]["robust"]["value"] == 0.5
    assert found["families"]["f"]["robust"]["value"] == found["overall"]["robust"]["value"] == 0.5


def test_a_form_is_compared_with_its_own_nominal_prompt() -> None:
    items = [
        {"task": "1", "family": family, "method": "m", "nominal": nominal, "passed": nominal, "changed": False}
        for family, nominal in (("f", False), ("g", True))
    ]
    found = summary(items)
    assert [found["families"][name]["relative"]["value"] for name in "fg"] == [0.0, 0.0]
    assert found["overall"]["relative"]["value"] == 0.0
    assert found["overall"]["nominal"]["value"] == 0.0


def test_a_model_that_minds_a_family_fails_there_alone(
    tmp_path: Path, problems: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    right = {}
    for problem in written_problems()[:2]:
        for form in forms(problem, FAMILIES, 1, 0):
            right[form.nominal.prompt] = form.nominal.canonical
            wrong = form.family == "docstring" and form.method == "whitespace"
            right[form.problem.prompt] = "    return None\n" if wrong else form.problem.canonical

    def written(generator: Generator, prompts: Sequence[str], **asked: Any) -> list[Completion]:
        return [Completion(right[prompt], "stop") for prompt in prompts]

    monkeypatch.setattr(robustness, "completions", written)
    found = evaluate(options(tmp_path, problems, limit=1))
    assert json.loads(capfd.readouterr().out) == found
    values = {name: one["robust"]["value"] for name, one in found["families"].items()}
    assert values == {"function-name": 1.0, "docstring": 0.0, "format": 1.0, "syntax": 1.0}
    assert found["overall"]["nominal"]["value"] == 1.0
    assert found["overall"]["attack"]["value"] == 1.0
    assert found["methods"]["docstring change-case"]["robust"]["value"] == 1.0
    assert found["examples"]
    assert all(one["prompt"] != one["nominal_prompt"] for one in found["examples"])
    evaluate(options(tmp_path, problems, limit=1, json=False))
    out = capfd.readouterr().out
    assert out.index("docstring") < out.index("  whitespace") < out.index("format") < out.index("  tabs")


def test_neither_batch_nor_workers_nor_a_restart_change_a_byte(
    tmp_path: Path, problems: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"families": ("function-name",), "limit": 1}
    evaluate(options(tmp_path, problems, out=str(tmp_path / "one"), batch=1, workers=1, **asked))
    evaluate(options(tmp_path, problems, out=str(tmp_path / "two"), batch=7, workers=3, **asked))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    add = Journal.add

    def adding(journal: Journal, key: str, item: Any) -> None:
        if len(journal.items) == 3:
            raise KeyboardInterrupt
        add(journal, key, item)

    again = options(tmp_path, problems, out=str(tmp_path / "three"), **asked)
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", adding)
        with pytest.raises(KeyboardInterrupt):
            evaluate(again)
    evaluate(again)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


def test_prompts_are_written_for_people(tmp_path: Path, problems: str) -> None:
    path = tmp_path / "prompts.jsonl"
    evaluate(options(tmp_path, problems, families=("syntax",), limit=1, perturbed_out=str(path), max_bytes=1))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(one["family"], one["method"]) for one in lines[:2]] == [
        ("syntax", "dead-code"),
        ("syntax", "swap-operands"),
    ]
    assert all((one["prompt"] != one["nominal_prompt"]) == one["changed"] for one in lines)
    with pytest.raises(UserError, match="--perturbed-out"):
        evaluate(options(tmp_path, problems, perturbed_out=str(tmp_path / "none" / "x.jsonl")))


@pytest.mark.parametrize(
    "changes", [{"variants": 0}, {"limit": 0}, {"families": ()}, {"families": ("syntax", "syntax")}]
)
def test_bad_options_are_said(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--"):
        RobustnessOptions(**changes)
