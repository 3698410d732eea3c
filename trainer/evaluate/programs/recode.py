"""ReCode's published files of perturbed prompts (Wang et al. 2022, arXiv 2212.10264).

Its release is a folder of a category each with files `DATASET_METHOD_sSEED.jsonl`, such as
`func_name/humaneval_FuncRenameCamelCase_s0.jsonl`. A record has the fields of HumanEval, with the perturbed prompt and,
where the name changed, tests of the new name. In `natgen` and `format` a text `partial` is the unperturbed problem with
a marker line where the prompt ends, or null if its solution was too short to be cut. A prompt that was cut there ends
in the blanks of the marker's line, which belong to no line of the program and are left out here, before and after.
"""

import re
from dataclasses import replace
from pathlib import Path

from schemas.errors import UserError
from trainer.evaluate.programs.perturb.families import Family, Form
from trainer.evaluate.programs.problems import Problem, load_problems, read_records

CATEGORIES: dict[str, Family] = {
    "func_name": "function-name", "nlaugmenter": "docstring", "format": "format", "natgen": "syntax",
}  # fmt: skip
"""Folders of a release."""

_NAME = re.compile(r"[^_]+_(?P<method>.+)_s(?P<seed>\d+)\.jsonl(\.gz|\.zst)?")
_MARKER = re.compile(r"^[ \t]*#[ \t]*print\('@@this is the line to split##'\)[ \t]*\n", re.MULTILINE)
_LEFT_OVER = re.compile(r"(?<=\n)[ \t]+\n?\Z")


def read_recode(folder: str, problems: list[Problem], families: tuple[Family, ...], numbers: int) -> list[Form]:
    """The forms in a release.

    Args:
        folder: of the category folders, on this machine.
        problems: unperturbed; records of other tasks are left out.
        families: of these alone.
        numbers: of each method at most so many files, by seed.

    Returns:
        By problem, then family, method and seed.

    Raises:
        UserError: no such files, damaged ones, or a file that lacks one of the problems.
    """
    found: list[Form] = []
    tasks = {problem.task_id: problem for problem in problems}
    for category, family in CATEGORIES.items():
        if family not in families:
            continue
        for method, paths in _files(Path(folder) / category).items():
            for seed, path in sorted(paths)[:numbers]:
                found += _forms(path, family, method, seed, tasks)
    if not found:
        raise UserError(
            f"{folder}: holds no file of ReCode's; expected e.g. func_name/humaneval_FuncRenameCamelCase_s0.jsonl"
        )
    order = {task: number for number, task in enumerate(tasks)}
    return sorted(found, key=lambda form: order[form.nominal.task_id])


def _files(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    methods: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("*.jsonl*")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise UserError(f"{path}: is not named as ReCode's files are, DATASET_METHOD_sSEED.jsonl")
        methods.setdefault(match["method"], []).append((int(match["seed"]), path))
    return methods


def _forms(path: Path, family: Family, method: str, seed: int, tasks: dict[str, Problem]) -> list[Form]:
    perturbed = {problem.task_id: problem for problem in load_problems(str(path))}
    records = {str(record["task_id"]): record for _, record in read_records(str(path))}
    if lacking := [task for task in tasks if task not in perturbed]:
        raise UserError(f"{path}: lacks task {lacking[0]} and {len(lacking) - 1} others of --problems; see --limit")
    forms = []
    for task, problem in tasks.items():
        nominal, made = replace(problem, plus=None), perturbed[task]  # the records have no more tests than these
        partial = records[task].get("partial")
        if isinstance(partial, str):
            parts = _MARKER.split(partial)
            if len(parts) != 2:
                raise UserError(f"{path}: task {task}: its partial prompt has no marker where it ends")
            nominal = replace(nominal, prompt=parts[0], canonical=parts[1])
            made = replace(made, prompt=_LEFT_OVER.sub("", made.prompt))
        forms.append(Form(family=family, method=method, number=seed, nominal=nominal, problem=made))
    return forms
