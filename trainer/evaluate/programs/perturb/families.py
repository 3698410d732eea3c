"""The four families, and one problem's perturbed forms.

    function-name   function_names.py   prompt                      the code is the same but for the name
    docstring       docstrings.py       prompt                      the code is the same but for the docstring
    format          layout.py           prompt and half a solution  the code is the same
    syntax          syntax.py           prompt and half a solution  another program that does the same

The right column is proved on syntax trees for the first three; an edit that fails the proof is dropped. A form is a
function of (seed, task, family, method, number) alone.
"""

import ast
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from tokenize import TokenError
from typing import Literal, get_args

from trainer.evaluate.programs.perturb import docstrings, function_names, layout, syntax
from trainer.evaluate.programs.perturb.source import Source, half, same_code
from trainer.evaluate.programs.problems import Problem

Family = Literal["function-name", "docstring", "format", "syntax"]
FAMILIES: tuple[Family, ...] = get_args(Family)

PARTIAL: tuple[Family, ...] = ("format", "syntax")
"""Families whose nominal prompt holds half of the solution."""

METHODS: dict[Family, tuple[str, ...]] = {
    "function-name": tuple(function_names.METHODS),
    "docstring": tuple(docstrings.METHODS),
    "format": tuple(layout.METHODS),
    "syntax": tuple(syntax.METHODS),
}

ALONE = ("camel-case", "tabs", "other-quotes", "comments")
"""Methods without a draw: one form is all there is."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A perturbed problem.

    Attributes:
        family: of `FAMILIES`.
        method: of the family.
        number: of the draw, from 0.
        nominal: the problem before it; its canonical solution still passes.
        problem: the problem after it, as its nominal one if there was nothing to perturb.
    """

    family: Family
    method: str
    number: int
    nominal: Problem
    problem: Problem

    @property
    def changed(self) -> bool:
        """Whether the prompt is another."""
        return self.problem.prompt != self.nominal.prompt


def partial(problem: Problem) -> Problem:
    """With half of the canonical solution in the prompt; as it is if the solution has one line or does not parse."""
    text = problem.prompt + problem.canonical
    try:
        ast.parse(text)
        cut = half(problem.prompt, problem.canonical)
    except (SyntaxError, ValueError, TokenError):
        return problem
    return replace(problem, prompt=text[:cut], canonical=text[cut:])


def forms(problem: Problem, families: Sequence[Family], numbers: int, seed: int) -> Iterator[Form]:
    """All forms of a problem.

    Args:
        problem: in its own prompt.
        families: in this order.
        numbers: draws of each method; 1 is taken of those that draw nothing.
        seed: of the draws.
    """
    half_solved = partial(problem)
    for family in families:
        nominal = half_solved if family in PARTIAL else problem
        for method in METHODS[family]:
            for number in range(1 if method in ALONE else numbers):
                made = perturbed(nominal, family, method, _draw(seed, problem.task_id, family, method, number))
                yield Form(family=family, method=method, number=number, nominal=nominal, problem=made)


def perturbed(nominal: Problem, family: Family, method: str, draw: random.Random) -> Problem:
    """One form, or the nominal problem if nothing can be perturbed or the proof fails."""
    source = Source(nominal.prompt + nominal.canonical, len(nominal.prompt), nominal.entry_point)
    if "\r" in source.text or "\f" in source.text:
        return nominal  # other ends of lines have other places
    try:
        if family == "function-name":
            return _renamed(nominal, source, function_names.METHODS[method], draw)
        methods = {"docstring": docstrings.METHODS, "format": layout.METHODS, "syntax": syntax.METHODS}[family]
        edits = methods[method](source, draw)
        if not edits:
            return nominal
        made = source.edited(edits)
        if family != "syntax":
            bare = family == "docstring" or method == "comments"
            if not same_code(source.tree, made.tree, docstrings=not bare):
                return nominal
        ast.parse(made.text)
    except (SyntaxError, ValueError, TokenError):
        return nominal
    return replace(nominal, prompt=made.text[: made.cut], canonical=made.text[made.cut :])


def _renamed(nominal: Problem, source: Source, method: function_names.Rename, draw: random.Random) -> Problem:
    old = nominal.entry_point
    new = function_names.new_name(old, source.names(), method, draw)
    if new is None or new in nominal.tests:
        return nominal
    prompt = function_names.renamed(nominal.prompt, old, new)
    whole = function_names.renamed(source.text, old, new)
    back = function_names.renamed(whole, new, old)
    if not whole.startswith(prompt) or not same_code(source.tree, ast.parse(back), docstrings=False):
        return nominal
    alias = f"{old} = {new}\n"
    return replace(
        nominal, prompt=prompt, canonical=whole[len(prompt) :], entry_point=new, tests=alias + nominal.tests,
        plus=None if nominal.plus is None else alias + nominal.plus,
    )  # fmt: skip


def _draw(*what: object) -> random.Random:
    return random.Random(hashlib.sha256(" ".join(map(str, what)).encode()).digest())
