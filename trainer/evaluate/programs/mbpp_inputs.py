"""Inputs of MBPP+ as Python values: EvalPlus stores them as JSON, which has no tuples, sets and complex numbers.

Which problem has which is a part of the format that is written nowhere but in EvalPlus's reader
(`evalplus/data/mbpp.py`, 0.3.1).
"""

from collections.abc import Callable, Sequence
from typing import Any

Arguments = Sequence[Any]


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


def _rows(value: Any) -> list[Any]:
    return list(map(tuple, value))


def _first(change: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    return lambda arguments: [change(arguments[0]), *arguments[1:]]


def _each(change: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    return lambda arguments: [change(argument) for argument in arguments]


_CHANGES: list[tuple[Callable[[Arguments], Arguments], set[int]]] = [
    (
        _each(tuple),
        {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809},
    ),
    (_each(_rows), {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780}),
    (_each(lambda rows: tuple(map(tuple, rows))), {259, 401, 445}),
    (_each(_deep), {580, 615, 791}),
    (_first(tuple), {250, 307, 405, 446, 617, 720, 763, 808}),
    (_first(_rows), {75, 413, 444, 753}),
    (_first(lambda items: tuple(tuple(item) if isinstance(item, list) else item for item in items)), {278}),
    (_first(lambda items: [set(item) if isinstance(item, list) and item else {} for item in items]), {115}),
    (_first(lambda table: {key: tuple(value) for key, value in table.items()}), {722}),
    (_first(complex), {252}),
    (lambda arguments: [arguments[0], tuple(arguments[1])], {106, 750}),
    (lambda arguments: [float(arguments[0]), complex(arguments[1])], {124}),
]
_BY_NUMBER = {number: change for change, numbers in _CHANGES for number in numbers}


def python_inputs(task_id: str, inputs: Sequence[Arguments]) -> list[Arguments]:
    """The arguments of each call, as they were before they became JSON.

    Args:
        task_id: `Mbpp/NUMBER`.
        inputs: of that problem, by call.

    Raises:
        ValueError, TypeError, AttributeError, IndexError: they are not such a problem's.
    """
    change = _BY_NUMBER.get(int(task_id.rpartition("/")[2]))
    return list(inputs) if change is None else [change(arguments) for arguments in inputs]
