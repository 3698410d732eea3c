"""ReCode's layout: folders, names, fields, and where partial prompts end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from perturb_problems import written_problems

from schemas.errors import UserError
from trainer.evaluate.programs.perturb.families import FAMILIES
from trainer.evaluate.programs.problems import Problem
from trainer.evaluate.programs.recode import read_recode

MARKER = "# print('@@this is the line to split##')\n"


def write(folder: Path, name: str, problem: Problem, **changes: object) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "task_id": problem.task_id, "prompt": problem.prompt, "entry_point": problem.entry_point,
        "canonical_solution": problem.canonical, "test": "def check(candidate):\n    pass\n", **changes,
    }  # fmt: skip
    path.write_text(json.dumps(record) + "\n")


def test_a_release_is_read_by_category_method_and_seed(tmp_path: Path) -> None:
    problem = written_problems()[3]
    for seed in (3, 1, 10):
        write(
            tmp_path, f"func_name/humaneval_FuncRenameSwapChar_s{seed}.jsonl", problem,
            prompt=f"def tabel{seed}(size):\n", entry_point=f"tabel{seed}",
        )  # fmt: skip
    write(tmp_path, "nlaugmenter/humaneval_ButterFingers_s0.jsonl", problem)
    found = read_recode(str(tmp_path), [problem], FAMILIES, 2)
    assert [(one.family, one.method, one.number) for one in found] == [
        ("function-name", "FuncRenameSwapChar", 1), ("function-name", "FuncRenameSwapChar", 3),
        ("docstring", "ButterFingers", 0),
    ]  # fmt: skip
    assert found[0].problem.prompt == "def tabel1(size):\n"
    assert found[0].problem.tests.endswith("check(tabel1)\n")
    assert found[0].nominal == problem
    assert [one.changed for one in found] == [True, True, False]
    assert {one.family for one in read_recode(str(tmp_path), [problem], ("docstring",), 5)} == {"docstring"}


def test_nominal_prompts_are_judged_by_no_more_tests_than_the_records_have(tmp_path: Path) -> None:
    problem = replace(written_problems()[3], plus="assert False")
    write(tmp_path, "func_name/humaneval_FuncRenameSwapChar_s0.jsonl", problem)
    (form,) = read_recode(str(tmp_path), [problem], FAMILIES, 5)
    assert (form.nominal.plus, form.problem.plus) == (None, None)


def test_partial_prompts_end_at_the_marker_without_its_blanks(tmp_path: Path) -> None:
    problem = written_problems()[3]
    head, tail = problem.canonical[:14], problem.canonical[14:]
    assert head.endswith("\n")
    write(
        tmp_path, "natgen/humaneval_DeadCodeInserter_s0.jsonl", problem, prompt=problem.prompt + "    x = 1\n   \n",
        partial=problem.prompt + head + "    " + MARKER + tail,
    )  # fmt: skip
    write(tmp_path, "format/humaneval_tab_indent_s0.jsonl", problem, partial=None)
    syntax, form = sorted(read_recode(str(tmp_path), [problem], FAMILIES, 5), key=lambda one: one.family != "syntax")
    assert (syntax.nominal.prompt, syntax.nominal.canonical) == (problem.prompt + head, tail)
    assert syntax.problem.prompt == problem.prompt + "    x = 1\n"
    assert form.nominal == problem


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("format/humaneval.jsonl", {}, "is not named as"),
        ("other/humaneval_x_s0.jsonl", {}, "holds no file of ReCode's"),
        ("natgen/humaneval_x_s0.jsonl", {"task_id": "Own/7"}, "lacks task Own/3"),
        ("natgen/humaneval_x_s0.jsonl", {"partial": "no marker"}, "has no marker"),
    ],
)
def test_what_is_no_release_is_said(tmp_path: Path, name: str, changes: dict[str, object], says: str) -> None:
    problem = written_problems()[3]
    write(tmp_path, name, problem, **changes)
    with pytest.raises(UserError, match=says):
        read_recode(str(tmp_path), [problem], FAMILIES, 5)
