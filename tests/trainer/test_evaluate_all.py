"""`evaluate all`: what fits a run is done, with its own result; what does not is said, and the rest goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UserError
from tests.trainer.small_models import folder_of_model
from trainer.data.views import Mode
from trainer.evaluate import cost, translation
from trainer.evaluate.programs import robustness
from trainer.evaluate.sandbox.run import refusal
from trainer.evaluate.whole import AllOptions, evaluate

PROBLEM = {
    "task_id": "HumanEval/900",
    "prompt": 'def f(x):\n    """Add one."""\n',
    "entry_point": "f",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
}


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(PROBLEM) + "\n")
    return str(path)


def names(out: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in out.glob("*.json"))


def run_all(run: Path, out: Path, **options: Any) -> None:
    unsafe = refusal() is not None  # a random model's bytes are no danger
    evaluate(AllOptions(run=str(run), documents=6, written=1, variants=1, out=str(out), unsafe=unsafe, **options))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cost and robustness are only called, they have tests of their own."""
    called: list[str] = []
    monkeypatch.setattr(cost, "evaluate", lambda options: called.append(f"cost {options.run}"))
    monkeypatch.setattr(robustness, "evaluate", lambda options: called.append(f"robustness {options.problems}"))
    return called


def test_all_that_a_run_allows_is_done_and_a_second_call_does_nothing_anew(
    datasets: dict[str, Path],
    problems: str,
    tmp_path: Path,
    quick: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, out = folder_of_model(datasets["neural"], tmp_path / "model"), tmp_path / "out"
    run_all(run, out, problems=problems)
    assert names(out) == ["bpb", "humaneval", "translation"]
    assert quick == [f"robustness {problems}", f"cost {run}"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    shown = capsys.readouterr().out
    assert shown.index("== bpb ==") < shown.index("== translation ==") < shown.index("== cost ==")
    assert f"make report RUN={run}" in shown

    def again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(translation, "told", again)
    run_all(run, out, problems=problems)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_does_not_fit_a_run_is_left_out_and_what_fails_is_named_at_the_end(
    datasets: dict[str, Path], tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder_of_model(datasets["neural"], tmp_path / "bytes", Mode.BYTES)
    with pytest.raises(UserError, match="humaneval: not done"):
        run_all(run, tmp_path / "out", problems="missing.jsonl")
    shown = capsys.readouterr().out
    assert "left out: a run of bytes knows one view" in shown
    assert "not done: " in shown
    assert "missing.jsonl" in shown
    assert names(tmp_path / "out") == ["bpb"]
    assert len(quick) == 2
    run = folder_of_model(datasets["neural"], tmp_path / "comp", Mode.COMP_ONLY)
    run_all(run, tmp_path / "more", problems="missing.jsonl")
    assert capsys.readouterr().out.count("left out: a run of comp-only writes no bytes") == 4
    run_all(run, tmp_path / "none", only=("cost",))
    assert not (tmp_path / "none").exists()
