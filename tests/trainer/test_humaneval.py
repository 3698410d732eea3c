"""The command on a small model and on completions made elsewhere: same figures whatever the batch or interruption."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.command_line import BAD_OPTIONS, Command, run
from schemas.errors import UserError
from trainer.evaluate.journal import Journal, read_results
from trainer.evaluate.programs import humaneval, samples
from trainer.evaluate.programs.humaneval import HumanevalOptions, evaluate
from trainer.evaluate.programs.problems import load_problems
from trainer.evaluate.programs.samples import completions, read_samples, seed_of
from trainer.evaluate.sandbox.run import Limits, refusal
from trainer.inference.continuation import Generated
from trainer.inference.decoding import Generator
from trainer.model.evabyte import EvaByte, ModelConfig

UNSAFE = refusal() is not None
"""Where there are no namespaces, the programs here may run without: a random model's bytes in a test are no danger."""


def problem(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "task_id": f"HumanEval/{number}", "prompt": f"def f{number}(x):\n", "entry_point": f"f{number}",
        "canonical_solution": f"    return x + {number}\n", "base_input": [[1], [2]], "plus_input": [[-5]], **changes,
    }  # fmt: skip


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(problem(number)) + "\n" for number in range(4)).encode()))
    return str(path)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Generator:
    """Of a small random model in fp32 with look-ahead heads, what every run holds here."""
    config = ModelConfig(
        dim=32, ffn=48, layers=2, heads=2, window=16, chunk=4, vocabulary_size=320, main_heads=3, raw_heads=0
    )
    model = EvaByte(config)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    made = Generator(model.eval())
    monkeypatch.setattr(Generator, "from_run", lambda run, nodes=None: made)
    return made


def options(tmp_path: Path, problems: str, **changes: Any) -> HumanevalOptions:
    return HumanevalOptions(
        **{
            "run": "x", "problems": problems, "out": str(tmp_path / "out"), "max_bytes": 20, "workers": 2,
            "unsafe": UNSAFE, "json": True, **changes,
        }
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_batch_and_the_workers_change_no_byte(tmp_path: Path, problems: str, generator: Generator) -> None:
    for name, changes in (("one", {"batch": 1, "workers": 1}), ("two", {"batch": 7, "workers": 3})):
        evaluate(
            options(tmp_path, problems, out=str(tmp_path / name), n=3, limit=2, temperature=0.9, k=(1, 3), **changes)
        )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 3


def test_samples_hang_on_their_problem_alone(tmp_path: Path, problems: str, generator: Generator) -> None:
    given = load_problems(problems)
    asked = {"max_bytes": 20, "temperature": 0.9, "top_p": 0.95}
    expected = [
        completions(generator, [one.prompt] * 2, seed=seed_of(5, one.task_id), stop=one.stops, **asked) for one in given
    ]
    evaluate(options(tmp_path, problems, n=2, temperature=0.9, seed=5, limit=3))
    (path,) = (tmp_path / "out").glob("*-samples.jsonl")
    assert read_samples(str(path), given[:3]) == {
        one.task_id: [samples.Completion(each.text, "given") for each in found]
        for one, found in zip(given[:3], expected, strict=False)
    }
    texts = {found.text for both in expected for found in both}
    assert len(texts) > 4
    # greedy ones on the prompt alone, whatever is before it
    prompts = [one.prompt for one in given]
    assert (
        completions(generator, prompts, max_bytes=20)[3].text
        == completions(generator, prompts[3:], max_bytes=20)[0].text
    )


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, problems: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"n": 2, "temperature": 0.9, "workers": 1, "limit": 3}
    evaluate(options(tmp_path, problems, **asked))
    whole = contents(tmp_path / "out")
    made: list[int] = []

    def counted(generator: Generator, prompts: list[str], **given: Any) -> list[samples.Completion]:
        made.extend([1] * len(prompts))
        return completions(generator, prompts, **given)

    add = Journal.add
    for stop in (1, 4):
        again = options(tmp_path, problems, out=str(tmp_path / str(stop)), **asked)

        def adding(journal: Journal, key: str, item: Any, stop: int = stop) -> None:
            if len(journal.items) == stop:
                raise KeyboardInterrupt
            add(journal, key, item)

        with monkeypatch.context() as patched:
            patched.setattr(Journal, "add", adding)
            with pytest.raises(KeyboardInterrupt):
                evaluate(again)
        made.clear()
        with monkeypatch.context() as patched:
            patched.setattr(humaneval, "completions", counted)
            evaluate(again)
        assert contents(tmp_path / str(stop)) == whole
        assert len(made) == 6 - stop // 2 * 2


def test_completions_made_elsewhere_are_counted(
    tmp_path: Path, problems: str, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"task_id": "HumanEval/0", "completion": "    return x\n"},
        {"task_id": "HumanEval/0", "completion": "    exit(0)\n"},
        {"task_id": "HumanEval/1", "solution": "def f1(x): return abs(x) + 1"},
        {"task_id": "HumanEval/1", "completion": "    return 1 + x\n\ndef g("},
        {"task_id": "HumanEval/2", "completion": "    while x: pass\n"},
        {"task_id": "HumanEval/2", "completion": "    return x"},
        {"task_id": "HumanEval/3", "completion": "    import os; os.abort()"},
        {"task_id": "HumanEval/3", "completion": "    return x + 3"},
    ]
    path = tmp_path / "made.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = options(tmp_path, problems, samples=str(path), k=(1, 2), out=None, limits=Limits(cpu_seconds=1))
    figures = evaluate(asked)
    assert json.loads(capfd.readouterr().out) == figures
    assert figures["outcomes"] == {"passed": 4, "failed": 1, "timeout": 1, "crashed": 2, "killed": 0}
    assert figures["plus_outcomes"] == {"passed": 3, "failed": 2, "timeout": 1, "crashed": 2, "killed": 0}
    assert (figures["problems"], figures["samples"], figures["cut_off"]) == (4, 8, 0)
    assert {name: one["value"] for name, one in figures["base"].items()} == {"pass@1": 0.5, "pass@2": 0.75}
    assert {name: one["value"] for name, one in figures["plus"].items()} == {"pass@1": 0.375, "pass@2": 0.75}
    (result,) = read_results(tmp_path / "evaluations")
    assert result["figures"] == figures
    assert result["configuration"]["confined"] is not UNSAFE
    # what is written for others is what was read
    (written,) = (tmp_path / "evaluations").glob("*-samples.jsonl")
    assert [json.loads(line) for line in written.read_text().splitlines()] == lines
    plain = evaluate(options(tmp_path, problems, samples=str(path), sanitize=False, limits=asked.limits))
    assert plain["outcomes"] == {"passed": 3, "failed": 2, "timeout": 1, "crashed": 2, "killed": 0}
    evaluate(options(tmp_path, problems, samples=str(path), k=(1, 2), out=None, json=False, limits=asked.limits))
    out = capfd.readouterr().out
    assert "8 samples of 4 problems" in out
    assert "50.0%" in out
    assert "37.5%" in out
    nothing = tmp_path / "nothing.jsonl"
    empty = [{"task_id": one.task_id, "completion": ""} for one in load_problems(problems)]
    nothing.write_text("".join(json.dumps(line) + "\n" for line in empty))
    evaluate(options(tmp_path, problems, samples=str(nothing), out=None, json=False))
    assert "0.0% (-)" in capfd.readouterr().out


def test_a_canonical_solution_passes_and_an_empty_one_does_not(tmp_path: Path, problems: str) -> None:
    for solution, value in (("canonical", 1.0), ("empty", 0.0)):
        path = tmp_path / f"{solution}.jsonl"
        texts = {one.task_id: one.canonical if solution == "canonical" else "" for one in load_problems(problems)}
        path.write_text(
            "".join(json.dumps({"task_id": task, "completion": text}) + "\n" for task, text in texts.items())
        )
        figures = evaluate(options(tmp_path, problems, samples=str(path)))
        assert figures["base"]["pass@1"] == figures["plus"]["pass@1"] == {"value": value, "low": value, "high": value}


def test_what_a_model_writes_is_cut_at_stops_and_counted_when_too_long(
    tmp_path: Path, problems: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = iter([
        Generated(b"   return x\n", "stop", 12, 1),
        Generated(b"    return x + 1\n\xff", "length", 20, 1),
        Generated(b"", "end", 0, 1),
        Generated(b"    return x + 3", "length", 20, 1),
    ])  # fmt: skip
    asked = []

    class Written(list[bytes]):
        result = None

    def stream(prompt: str, **given: Any) -> Written:
        asked.append((prompt, given["stop"]))
        found = Written()
        found.result = next(written)
        return found

    monkeypatch.setattr(generator, "stream", stream)
    figures = evaluate(options(tmp_path, problems))
    assert figures["cut_off"] == 2
    assert figures["outcomes"]["passed"] == 3
    assert asked == [(one.prompt, one.stops) for one in load_problems(problems)]
    (path,) = (tmp_path / "out").glob("*-samples.jsonl")
    found = [json.loads(line)["completion"] for line in path.read_text().splitlines()]
    assert found == ["    return x\n", "    return x + 1\n\ufffd", "", "    return x + 3"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"task_id": "HumanEval/9", "completion": ""}], "line 1: task_id 'HumanEval/9' is none"),
        ([{"completion": ""}], "line 1: task_id None"),
        ([{"task_id": "HumanEval/0", "completion": 3}], "line 1: has neither"),
        ([{"task_id": "HumanEval/0"}], "line 1: has neither"),
        ([{"task_id": "HumanEval/0", "completion": ""}], "has no sample of HumanEval/1 and 2 other"),
        ([], "has no sample of HumanEval/0 and 3 other"),
    ],
)
def test_bad_samples_are_named(tmp_path: Path, problems: str, lines: list[Any], said: str) -> None:
    path = tmp_path / "made.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=said):
        evaluate(options(tmp_path, problems, samples=str(path)))


def test_more_than_the_samples_there_are_is_refused(tmp_path: Path, problems: str) -> None:
    path = tmp_path / "made.jsonl"
    counts = {"HumanEval/0": 3, "HumanEval/1": 3, "HumanEval/2": 2, "HumanEval/3": 3}
    lines = [{"task_id": task, "completion": ""} for task, count in counts.items() for _ in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="pass@3 needs as many samples of each problem, HumanEval/2 has 2"):
        evaluate(options(tmp_path, problems, samples=str(path), k=(1, 3)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 0}, "--n"), ({"k": (2,)}, "pass@2 needs --n 2"), ({"k": (0,)}, "--k"), ({"k": ()}, "--k"),
        ({"k": (1, 1)}, "--k"), ({"n": 2, "temperature": 0.0}, "all samples are the same"), ({"limit": 0}, "--limit"),
        ({"temperature": -1.0}, "temperature"), ({"top_p": 0.0}, "top-p"), ({"workers": 0}, "--workers"),
    ],
)  # fmt: skip
def test_options_make_sense(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        HumanevalOptions(**changes)


def test_the_command_line_takes_limits_and_says_what_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    commands = {
        "evaluate humaneval": Command("trainer.evaluate.programs.humaneval", "HumanevalOptions", "evaluate", "pass@k")
    }
    assert run("trainer", commands, ["evaluate", "humaneval", "--memory", "5"]) == BAD_OPTIONS
    assert "--memory is 5" in capfd.readouterr().err


def test_without_a_sandbox_it_refuses_before_anything_else(
    tmp_path: Path, problems: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluate.sandbox.run.refusal", lambda: "Operation not permitted")
    with pytest.raises(UserError, match="--unsafe"):
        evaluate(options(tmp_path, problems, unsafe=False))
    assert not (tmp_path / "out").exists()
