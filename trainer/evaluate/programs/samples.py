"""Completions of prompts: by a model, or made elsewhere and read from a file in the public format.

By a model, a completion is a function of (model, prompt, number, options) alone. On a CPU each prompt is worked at by
itself, since products of matrices of other shapes round otherwise and a batch would decide between nearly equal bytes:
so the batch changes nothing there, not even the speed. On a GPU greedy prompts are worked at together, and so are the
samples of one problem.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Unpack

from schemas.errors import UserError
from trainer.evaluate.programs.problems import Problem, read_records
from trainer.inference.continuation import Ended, Generated, Options
from trainer.inference.decoding import BATCH, Generator

MAX_BYTES = 2048
"""Of a completion: the paper's, for bytes."""


@dataclass(frozen=True)
class Completion:
    """What follows a prompt.

    Attributes:
        text: without the stop text; what is no UTF-8 replaced by U+FFFD.
        ended: why there is no more; "given" if it was made elsewhere.
        whole: it is a whole program, the prompt's text included.
    """

    text: str
    ended: Ended | Literal["given"]
    whole: bool = False


def completions(
    generator: Generator, prompts: Sequence[str], *, batch: int = BATCH, **options: Unpack[Options]
) -> list[Completion]:
    """Completions of prompts.

    Args:
        generator: of a model.
        prompts: of all of them.
        batch: prompts at once, on a GPU.
        options: see `Request`. The noise of sampling hangs on the prompt's number in the list, too.

    Returns:
        One for each prompt, in order.

    Raises:
        UserError: an option is out of range.
    """
    if generator.model.embed_tokens.weight.device.type != "cpu":
        return [_completion(found) for found in generator.generate(prompts, batch=batch, **options)]
    made = []
    for number, prompt in enumerate(prompts):
        stream = generator.stream(prompt, number=number, **options)
        for _ in stream:
            pass
        assert stream.result is not None
        made.append(_completion(stream.result))
    return made


def programs_of(problem: Problem, completion: Completion, *, sanitize: bool) -> list[str]:
    """Program texts of a completion, each to run only if the one before passes: tests, then plus tests.

    Args:
        problem: that it is of.
        completion: of its prompt, or a whole program.
        sanitize: leave out lines from the end until the rest parses; done where the program runs.
    """
    prompt = "" if completion.whole else problem.prompt
    text = f"{prompt}{completion.text}"
    if sanitize:
        text = f"{_SANITIZE}exec(_as_far_as_it_parses({prompt!r}, {completion.text!r}))\n"
    return [f"{text}\n{tests}" for tests in (problem.tests, problem.plus) if tests is not None]


def seed_of(seed: int, task_id: str) -> int:
    """The seed of one problem's samples: the same whatever other problems there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {task_id}".encode()).digest()[:8], "little")


def read_samples(source: str, problems: Sequence[Problem]) -> dict[str, list[Completion]]:
    """Completions made elsewhere: JSON lines of `task_id` and `completion`, or `solution` for a whole program.

    Args:
        source: path or URL, see `read_records`.
        problems: that they may be of; `Mbpp/7` is `7`, too.

    Returns:
        By task, in stored order; every problem has one or more.

    Raises:
        UserError: damaged, of an unknown task, or none for a problem.
    """
    found: dict[str, list[Completion]] = {problem.task_id: [] for problem in problems}
    names = {name: task for task in found for name in (task, task.removeprefix("Mbpp/"))}
    for place, record in read_records(source):
        task = names.get(str(record.get("task_id")))
        if task is None:
            raise UserError(f"{place}: task_id {record.get('task_id')!r} is none of the problems'")
        field = "solution" if "solution" in record else "completion"
        if not isinstance(record.get(field), str):
            raise UserError(f'{place}: has neither a text "completion" nor a text "solution"')
        found[task].append(Completion(record[field], "given", field == "solution"))
    if lacking := [task for task, given in found.items() if not given]:
        raise UserError(f"{source}: has no sample of {lacking[0]} and {len(lacking) - 1} other problems; see --limit")
    return found


def _completion(found: Generated) -> Completion:
    text = found.data.decode("utf-8", "replace")
    # as the paper's evaluation does: a body set in by three spaces belongs under a docstring set in by four
    return Completion(re.sub(r"(?m)^ {3}(?=\S)", "    ", text), found.ended)


_SANITIZE = """\
def _as_far_as_it_parses(prompt, completion):
    lines = completion.split("\\n")
    for count in range(len(lines), 0, -1):
        try:
            return compile(prompt + "\\n".join(lines[:count]) + "\\n", "<program>", "exec")
        except (SyntaxError, ValueError):
            pass
    return compile(prompt, "<program>", "exec")
"""
