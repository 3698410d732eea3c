"""Compares a candidate with a canonical solution on many inputs, as EvalPlus does. Its text runs inside the sandbox.

The rules are those of EvalPlus 0.3.1 (Liu et al. 2023, https://github.com/evalplus/evalplus, `evalplus/eval`), so that
figures can be compared; only the standard library is used.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

_RELATIVE = 1e-7
_FLOATS = 1e-6
"""Tolerance where floats are expected and none is stated."""

_AS_SETS = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
}  # fmt: skip
"""Functions of MBPP whose order is left open."""

_AS_TRUTH = {"check_str", "text_match_three", "text_starta_endb"}
"""Functions of MBPP that may return a match or a truth value."""


def compare(
    candidate: Callable[..., Any], canonical: Callable[..., Any], inputs: Sequence[Sequence[Any]], tolerance: float,
    name: str, mbpp: bool,
) -> None:  # fmt: skip
    """Call both on copies of each input.

    Args:
        candidate: the function under test.
        canonical: the one that is right.
        inputs: arguments by call.
        tolerance: absolute, for results that are not equal; 0: none but for floats.
        name: of the function: some have rules of their own.
        mbpp: of MBPP, else of HumanEval.

    Raises:
        AssertionError: a result is wrong; the text has the input's number.
        BaseException: whatever the candidate raises.
    """
    for number, arguments in enumerate(inputs):
        expected = canonical(*copy.deepcopy(arguments))
        found = candidate(*copy.deepcopy(arguments))
        if not right(found, expected, arguments, tolerance, name, mbpp):
            raise AssertionError(f"input {number}: got {repr(found)[:60]}, expected {repr(expected)[:60]}")


def right(found: Any, expected: Any, arguments: Sequence[Any], tolerance: float, name: str, mbpp: bool) -> bool:
    """Whether a result counts as right."""
    if not mbpp and name == "find_zero":  # any root will do
        return abs(sum(factor * math.pow(found, power) for power, factor in enumerate(arguments[0]))) <= tolerance
    if mbpp and name in _AS_SETS:
        return set(found) == set(expected)
    if mbpp and name in _AS_TRUTH:
        return (found if isinstance(found, bool) else found is not None) == (
            expected if isinstance(expected, bool) else expected is not None
        )
    if found == expected or (mbpp and _also_right(found, arguments, tolerance, name)):
        return True
    if tolerance == 0 and _is_floats(expected):
        tolerance = _FLOATS
    return tolerance != 0 and type(found) is type(expected) and _close(found, expected, tolerance)


def _also_right(found: Any, arguments: Sequence[Any], tolerance: float, name: str) -> bool:
    """Other readings of problems whose text can be read in several ways."""
    if name == "are_equivalent":
        return True
    if name == "sum_div":
        return bool(found == 0)
    if name == "surface_Area":  # of a pyramid whose height is upright, not along a side
        edge, height = arguments
        slant = math.sqrt((edge / 2) ** 2 + height**2)
        return abs(found - round(edge**2 + 2 * edge * slant)) <= tolerance
    if name == "digit_distance_nums":  # digit by digit from the right
        one, two = (str(number) for number in arguments)
        width = max(len(one), len(two))
        pairs = zip(one.zfill(width), two.zfill(width), strict=True)
        return bool(found == sum(abs(int(first) - int(second)) for first, second in pairs))
    return False


def _is_floats(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, list | tuple) and all(isinstance(one, float) for one in value)
    )


def _close(found: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(found) == len(expected)
            and all(_close(one, other, tolerance) for one, other in zip(found, expected, strict=True))
        )
    if not isinstance(expected, int | float | complex) or not isinstance(found, int | float | complex):
        return bool(found == expected)
    if found == expected:
        return True
    distance = abs(found - expected)
    return distance < math.inf and distance <= tolerance + _RELATIVE * abs(expected)
