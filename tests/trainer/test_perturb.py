"""Perturbed problems ask for the same: their canonical solutions pass; what must not change does not."""

import ast
import dataclasses
import functools
import random
import re

import pytest
from perturb_problems import written_problems

from trainer.evaluate.programs.perturb import characters, docstrings, function_names
from trainer.evaluate.programs.perturb.families import ALONE, FAMILIES, METHODS, Form, forms, partial
from trainer.evaluate.programs.perturb.function_names import camel_case, renamed
from trainer.evaluate.programs.perturb.source import Source, half
from trainer.evaluate.programs.problems import Problem

NUMBERS = 6


@functools.cache
def all_forms() -> list[Form]:
    return [form for problem in written_problems() for form in forms(problem, FAMILIES, NUMBERS, seed=0)]


def passes(problem: Problem) -> None:
    exec(compile(problem.prompt + problem.canonical + "\n" + problem.tests, problem.task_id, "exec"), {})


def test_every_canonical_solution_still_passes() -> None:
    for form in all_forms():
        passes(form.nominal)
        passes(form.problem)


def test_a_wrong_solution_still_fails() -> None:
    """Or the tests of a perturbed problem would test nothing."""
    for form in all_forms():
        if form.family in ("function-name", "docstring"):
            with pytest.raises(AssertionError):
                passes(dataclasses.replace(form.problem, canonical="    return None\n"))


def test_every_method_changes_something() -> None:
    changed = {(form.family, form.method) for form in all_forms() if form.changed}
    assert changed == {(family, method) for family in FAMILIES for method in METHODS[family]}


def test_a_form_hangs_on_its_own_coordinates_alone() -> None:
    together = {(one.problem.task_id, one.family, one.method, one.number): one for one in all_forms()}
    problem = written_problems()[2]
    for one in forms(problem, ("syntax", "docstring"), 3, seed=0):
        assert together[problem.task_id, one.family, one.method, one.number] == one
    other = [one.problem.prompt for one in forms(problem, FAMILIES, NUMBERS, seed=1)]
    assert other != [one.problem.prompt for one in forms(problem, FAMILIES, NUMBERS, seed=0)]


def test_draws_give_several_forms() -> None:
    problem = written_problems()[0]
    for method in METHODS["docstring"]:
        made = {one.problem.prompt for one in forms(problem, ("docstring",), NUMBERS, 0) if one.method == method}
        assert len(made) > NUMBERS // 2, method
    counts = [(one.method, one.number) for one in forms(problem, FAMILIES, 3, 0)]
    assert all(number == 0 for method, number in counts if method in ALONE)


def test_a_docstrings_examples_code_and_names_stay() -> None:
    for form in all_forms():
        if form.family == "docstring" and form.changed:
            for line in form.nominal.prompt.split("\n"):
                if ">>>" in line or "def " in line or re.fullmatch(r"\s*\d+", line):
                    assert line in form.problem.prompt.split("\n")
            assert form.problem.canonical == form.nominal.canonical
            assert "`gap`" in form.problem.prompt or form.problem.entry_point != "join_words"
            if form.method != "whitespace":
                assert "threshold" in form.problem.prompt or "threshold" not in form.nominal.prompt


def test_the_format_changes_no_program() -> None:
    for form in all_forms():
        if form.family == "format" and form.method != "comments":
            before, after = (ast.dump(ast.parse(one.prompt + one.canonical)) for one in (form.nominal, form.problem))
            assert before == after
        if form.family == "format" and form.method != "tabs":
            assert form.problem.canonical == form.nominal.canonical


def test_tabs_reach_every_level_and_leave_strings() -> None:
    (form,) = (one for one in forms(written_problems()[0], ("format",), 1, 0) if one.method == "tabs")
    assert "\n\ttotal = 0\n" in form.problem.prompt
    assert "\n    itself does not belong" in form.problem.prompt
    assert "\n\t\ttotal += 1" in form.problem.prompt + form.problem.canonical


def test_comments_hold_the_docstrings_words() -> None:
    (form,) = (one for one in forms(written_problems()[0], ("format",), 1, 0) if one.method == "comments")
    assert '"""' not in form.problem.prompt
    assert "    # Count how many" in form.problem.prompt
    assert "    # >>> count_larger([1, 5, 7], 4)\n    # 2\n" in form.problem.prompt


def test_syntax_touches_what_is_shown_and_renaming_what_follows_too() -> None:
    for form in all_forms():
        if form.family == "syntax" and form.changed:
            assert form.problem.prompt.endswith("\n")
            if not form.method.startswith("rename"):
                assert form.problem.canonical == form.nominal.canonical
            assert form.problem.prompt.split(":\n")[0] == form.nominal.prompt.split(":\n")[0]


def test_a_loop_keeps_its_continue_as_while() -> None:
    problem = written_problems()[0]
    made = next(one.problem for one in forms(problem, ("syntax",), 1, 0) if one.method == "for-as-while")
    assert "while place_0 < len(items_0):\n        number = items_0[place_0]\n        place_0 += 1\n" in made.prompt


@pytest.mark.parametrize("body", ["a.append(1)", "a = [x]", "a[0] = x", "del a[0]", "f(a)", "pass\n  else:\n    pass"])
def test_a_loop_over_what_it_changes_stays(body: str) -> None:
    prompt = "def g(a, f):\n"
    problem = Problem(
        task_id="t",
        prompt=prompt,
        entry_point="g",
        tests="",
        canonical=f"  for x in a:\n    {body}\n  return a\n  pass\n",
    )
    assert not [one for one in forms(problem, ("syntax",), 5, 0) if one.method == "for-as-while" and one.changed]


def test_half_is_half_of_the_logical_lines() -> None:
    prompt, canonical = "def f(a):\n", "    b = [\n        1,\n    ]\n    c = 2\n    if a:\n        return b\n"
    assert (prompt + canonical)[: half(prompt, canonical)] == prompt + "    b = [\n        1,\n    ]\n    c = 2\n"
    one = written_problems()[-1]
    assert partial(one) == one
    broken = dataclasses.replace(one, canonical="    return (\n")
    assert partial(broken) == broken


def test_what_does_not_parse_or_has_nothing_to_perturb_stays() -> None:
    problem = dataclasses.replace(written_problems()[0], canonical="    return (\n")
    assert not any(form.changed for form in forms(problem, FAMILIES, 2, 0))
    windows = dataclasses.replace(problem, prompt="def f(x):\r\n", canonical="    return x\r\n", entry_point="f")
    assert not any(form.changed for form in forms(windows, FAMILIES, 2, 0))


def test_slips_are_one_letter_off() -> None:
    draw = random.Random(0)
    for word in ("threshold", "Aq", "ml"):
        for place in range(len(word)):
            assert len(characters.insert(word, place, draw)) == len(word) + 1
            assert len(characters.delete(word, place, draw)) == len(word) - 1
            assert sorted(characters.swap(word, place, draw)) == sorted(word)
            other = characters.case(word, place, draw)
            assert other != word
            assert other.lower() == word.lower()
            typed = characters.butter_finger(word, place, draw)
            assert [one != other for one, other in zip(typed, word, strict=True)].count(True) == 1
    assert characters.butter_finger("a_b", 1, draw) == "a_b"


def test_names() -> None:
    draw = random.Random(0)
    assert camel_case("has_close_elements", draw) == "hasCloseElements"
    assert camel_case("one", draw) == "one"
    assert renamed("def add(a):\n    '''add them, as add(1)'''\n    return add(a)  # add\n", "add", "dad") == (
        "def dad(a):\n    '''add them, as dad(1)'''\n    return dad(a)  # add\n"
    )
    assert renamed("x = '''an_old one'''\n", "an_old", "new") == "x = '''new one'''\n"
    # neither a keyword, nor a builtin, nor a name that is there
    for taken in ("pas", "lst"):
        for found in ("pass", "list", taken):
            assert function_names.new_name("f", {"pas", "lst"}, lambda name, draw, found=found: found, draw) is None


def test_mbpp_like_prompts_have_their_name_changed() -> None:
    prompt = '"""\nWrite a function to add two numbers together.\nassert add(1, 2) == 3\n"""\n'
    canonical = "def add(a, b):\n    return a + b\n"
    problem = Problem(
        task_id="Mbpp/1", prompt=prompt, entry_point="add", canonical=canonical, tests="assert add(1, 2) == 3\n"
    )
    changed = [one for one in forms(problem, ("function-name", "docstring"), 3, 0) if one.changed]
    assert {one.family for one in changed} == {"function-name", "docstring"}
    for one in changed:
        passes(one.problem)
        assert "to add two" in one.problem.prompt or one.family == "docstring"
        assert f"assert {one.problem.entry_point}(1, 2) == 3" in one.problem.prompt
        assert one.problem.canonical.startswith(f"def {one.problem.entry_point}(a, b)")


def test_letters_beyond_ascii_move_no_place() -> None:
    text = "def f(x):\n    é = 'ü'; result = 1 == x\n    return result\n"
    source = Source(text, len(text), "f")
    compare = next(node for node in ast.walk(source.tree) if isinstance(node, ast.Compare))
    assert source.segment(compare) == "1 == x"


def test_words_in_quotes_or_backticks_are_no_prose() -> None:
    text = 'def f(x):\n    """Give \'long quoted text\' or `some code` or plain words."""\n    return x\n'
    source = Source(text, len(text), "f")
    words = {source.text[slice(*span)] for span in docstrings._words(source)}
    assert words == {"plain", "words"} | ({"Give"} if '"""Give' not in text else set())
