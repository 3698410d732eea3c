"""The family "syntax": another program that does the same, before the cut. Renaming reaches behind the cut as well."""

import ast
import random
import re
from collections.abc import Iterator, Mapping

from trainer.evaluate.programs.perturb.function_names import METHODS as METHODS_OF_NAMES
from trainer.evaluate.programs.perturb.function_names import new_name
from trainer.evaluate.programs.perturb.source import INDENT, Edit, Method, Source

_MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


def _fresh(source: Source, stem: str) -> str:
    taken, number = source.names(), 0
    while f"{stem}_{number}" in taken:
        number += 1
    return f"{stem}_{number}"


def _statements(source: Source) -> Iterator[tuple[ast.stmt, int, str]]:
    """Statements in the function that begin a line at or before the cut: node, offset of the line, indentation."""
    function = source.function
    for node in ast.walk(function) if function is not None else ():
        if isinstance(node, ast.stmt) and node is not function and not getattr(node, "decorator_list", None):
            start = source.span(node)[0]
            line = source.text.rfind("\n", 0, start) + 1
            if line <= source.cut and not source.text[line:start].strip():
                yield node, line, source.text[line:start]


def dead_code(source: Source, draw: random.Random) -> list[Edit]:
    """Before one statement, code that never runs or has no effect."""
    docstring = source.docstring()
    places = [
        (line, indent)
        for node, line, indent in _statements(source)
        if not (isinstance(node, ast.Expr) and node.value is docstring) and not source.segment(node).startswith("elif")
    ]
    if not places:
        return []
    line, indent = draw.choice(places)
    name = _fresh(source, "unused")
    code = draw.choice([
        f"{name} = {draw.randrange(100)}\n",
        f"if False:\n{indent}{INDENT}{name} = {draw.randrange(100)}\n",
        f"while False:\n{indent}{INDENT}{name} = {draw.randrange(100)}\n",
        f"for {name} in range(0):\n{indent}{INDENT}pass\n",
    ])  # fmt: skip
    return [(line, line, indent + code)]


def _plain(node: ast.expr) -> bool:
    """Whether it does not matter when it is evaluated."""
    if isinstance(node, ast.UnaryOp):
        return _plain(node.operand)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "len" and all(map(_plain, node.args))
    return isinstance(node, ast.Name | ast.Constant)


def swap_operands(source: Source, draw: random.Random) -> list[Edit]:
    """One comparison mirrored: `a < b` as `b > a`; only of names, constants and lengths."""
    places = []
    for node in ast.walk(source.function or ast.Module([], [])):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and _plain(node.left) and _plain(node.comparators[0]):
            left, right = source.span(node.left), source.span(node.comparators[0])
            between = source.text[left[1] : right[0]]
            operator = re.search(r"[<>=!]=|[<>]", between)
            if operator is not None and operator[0] in _MIRRORED and left[0] > 0 and right[1] <= source.cut:
                mirrored = between.replace(operator[0], _MIRRORED[operator[0]])
                places.append((left[0], right[1], source.text[slice(*right)] + mirrored + source.text[slice(*left)]))
    return [draw.choice(places)] if places and "{" not in _f_strings(source) else []


def _f_strings(source: Source) -> str:
    """Text of f-strings: what is in them has no places before Python 3.12."""
    return "".join(source.segment(node) for node in ast.walk(source.tree) if isinstance(node, ast.JoinedStr))


def for_as_while(source: Source, draw: random.Random) -> list[Edit]:
    """One `for` as a `while` over a list of the same, if the body leaves alone what the loop is over."""
    places = []
    for node, line, indent in _statements(source):
        if not isinstance(node, ast.For) or node.orelse or node.body[0].lineno == node.lineno:
            continue
        inside = {one.id for one in ast.walk(node.iter) if isinstance(one, ast.Name)}
        header = source.text.find(":", source.span(node.iter)[1])
        first = source.span(node.body[0])[0]
        set_in = source.text[source.text.rfind("\n", 0, first) + 1 : first]
        if (
            header >= source.cut
            or source.text[source.span(node.iter)[1] : header].strip()
            or not _left_alone(node, inside)
        ):  # fmt: skip
            continue
        items, place = _fresh(source, "items"), _fresh(source, "place")
        lines = [
            f"{indent}{items} = list({source.segment(node.iter)})",
            f"{indent}{place} = 0",
            f"{indent}while {place} < len({items}):",
            f"{set_in}{source.segment(node.target)} = {items}[{place}]",
            # at once, so that `continue` and whatever is behind the cut need not know of it
            f"{set_in}{place} += 1",
        ]
        places.append((line, header + 1, "\n".join(lines)))
    return [draw.choice(places)] if places else []


def _left_alone(node: ast.For, names: set[str]) -> bool:
    """Whether the body of a loop neither changes nor hands on what it is over; a method or a call might."""
    for statement in node.body:
        for one in ast.walk(statement):
            if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store | ast.Del) and one.id in names:
                return False
            touched: list[ast.expr] = []
            if isinstance(one, ast.Attribute) or (
                isinstance(one, ast.Subscript) and isinstance(one.ctx, ast.Store | ast.Del)
            ):
                touched = [one.value]
            elif isinstance(one, ast.Call) and not (isinstance(one.func, ast.Name) and one.func.id in _READING):
                touched = [*one.args]
            if any(isinstance(inner, ast.Name) and inner.id in names for each in touched for inner in ast.walk(each)):
                return False
    return True


_READING = {"abs", "all", "any", "enumerate", "len", "list", "max", "min", "ord", "range", "set", "sorted", "sum"}
"""Functions that change nothing."""


def _rename(kind: str) -> Method:
    def method(source: Source, draw: random.Random) -> list[Edit]:
        function = source.function
        if function is None or {"locals", "eval", "exec", "vars"} & source.names():
            return []
        uses: dict[str, list[ast.Name]] = {}
        stored, kept = set(), set(re.findall(r"\w+", _f_strings(source)))
        for node in ast.walk(function):
            if isinstance(node, ast.Name):
                uses.setdefault(node.id, []).append(node)
                if isinstance(node.ctx, ast.Store):
                    stored.add(node.id)
            elif isinstance(node, ast.arg):
                kept.add(node.arg)
            elif isinstance(node, ast.Global | ast.Nonlocal):
                kept.update(node.names)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
                kept.add(node.name or "")
            elif isinstance(node, ast.alias):
                kept.add(node.asname or node.name.split(".")[0])
        names = sorted(name for name in stored - kept if source.span(uses[name][0])[0] < source.cut and name != "_")
        if not names:
            return []
        old = draw.choice(names)
        new = _new(kind, old, source, draw)
        return [] if new is None else [(*source.span(node), new) for node in uses[old]]

    return method


def _new(kind: str, old: str, source: Source, draw: random.Random) -> str | None:
    if kind == "numbered":
        return _fresh(source, "var")
    if kind == "random":
        letters = "abcdefghijklmnopqrstuvwxyz"
        return new_name(old, source.names(), lambda name, draw: "".join(draw.choices(letters, k=6)), draw)
    return new_name(old, source.names(), METHODS_OF_NAMES["insert-character"], draw)


METHODS: Mapping[str, Method] = {
    "dead-code": dead_code,
    "swap-operands": swap_operands,
    "for-as-while": for_as_while,
    "rename-numbered": _rename("numbered"),
    "rename-random": _rename("random"),
    "rename-typo": _rename("typo"),
}
