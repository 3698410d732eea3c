"""`evaluate all`: what fits a run is done, with its own result; what does not is said, and the rest goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UserError
from tests.trainer.small_models import folder_of_model
from trainer.data.views import Mode
from trainer.evaluate import bpb, cost, translation
from trainer.evaluate.cost import CostOptions
from trainer.evaluate.programs import humaneval, robustness
from trainer.evaluate.programs.robustness import RobustnessOptions
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
def quick(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Cost and robustness are only called, they have tests of their own."""
    called: list[object] = []
    monkeypatch.setattr(cost, "evaluate", called.append)
    monkeypatch.setattr(robustness, "evaluate", called.append)
    return called


def test_all_that_a_run_allows_is_done_and_a_second_call_does_nothing_anew(
    datasets: dict[str, Path],
    problems: str,
    tmp_path: Path,
    quick: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, out = folder_of_model(datasets["neural"], tmp_path / "model"), tmp_path / "out"
    run_all(run, out, problems=problems)
    assert names(out) == ["bpb", "humaneval", "translation"]
    unsafe, place = refusal() is not None, str(out)
    asked = RobustnessOptions(run=str(run), problems=problems, variants=1, unsafe=unsafe, out=place)
    assert quick == [asked, CostOptions(run=str(run), out=place)]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    shown = capsys.readouterr().out
    assert shown.index("== bpb ==") < shown.index("== translation ==") < shown.index("== cost ==")
    assert f"make report RUN={run}" in shown

    def again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(translation, "told", again)
    run_all(run, out, problems=problems)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_every_option_goes_to_the_evaluations_that_it_is_of(
    datasets: dict[str, Path], tmp_path: Path, quick: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bpb, translation, humaneval):
        monkeypatch.setattr(module, "evaluate", quick.append)
    run = str(folder_of_model(datasets["neural"], tmp_path / "model"))
    given = {"run": run, "out": str(tmp_path / "out"), "afresh": True}
    of_data, of_programs = {"data": "d"}, {"problems": "p", "limit": 3, "unsafe": True}
    mine = {"documents": 8, "written": 2, "variants": 4, "beside": "b"}
    evaluate(AllOptions(**given, **of_data, **of_programs, **mine))  # type: ignore[arg-type]
    assert quick == [
        bpb.BpbOptions(**given, **of_data, documents=8),  # type: ignore[arg-type]
        translation.TranslationOptions(**given, **of_data, documents=4, written=2),  # type: ignore[arg-type]
        humaneval.HumanevalOptions(**given, **of_programs),  # type: ignore[arg-type]
        RobustnessOptions(**given, **of_programs, variants=4),  # type: ignore[arg-type]
        CostOptions(**given, **of_data, beside="b"),  # type: ignore[arg-type]
    ]


def test_what_does_not_fit_a_run_is_left_out_and_what_fails_is_named_at_the_end(
    datasets: dict[str, Path], tmp_path: Path, quick: list[object], capsys: pytest.CaptureFixture[str]
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
