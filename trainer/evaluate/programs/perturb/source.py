"""Python text that is edited in place: what is not touched keeps its layout.

A perturbation looks at a whole solved problem (prompt and canonical solution, which parse) and answers with edits. The
part before the cut is what a model is shown, the part after it stays the canonical rest.
"""

import ast
import io
import random
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

INDENT = "    "

Edit = tuple[int, int, str]
"""Start and end in characters, and what comes in between."""


@dataclass(frozen=True)
class Source:
    """A solved problem.

    Attributes:
        text: prompt and canonical solution.
        cut: characters of it that are shown.
        entry_point: the function that is asked for.
    """

    text: str
    cut: int
    entry_point: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree; raises SyntaxError."""
        return ast.parse(self.text)

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        """Its tokens."""
        return list(tokenize.generate_tokens(io.StringIO(self.text).readline))

    @cached_property
    def starts(self) -> list[int]:
        """Offset of each line, and the end."""
        found = [0]
        for line in self.text.split("\n"):
            found.append(found[-1] + len(line) + 1)
        return found

    @property
    def function(self) -> ast.FunctionDef | None:
        """The function that is asked for."""
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == self.entry_point:
                return node
        return None

    def offset(self, line: int, column: int) -> int:
        """Of a place of a token: line from 1, column in characters."""
        return self.starts[line - 1] + column

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Of a node, in characters; its own columns are in UTF-8 bytes."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        ends = []
        for line, column in ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)):
            start = self.starts[line - 1]
            encoded = self.text[start : self.starts[line]].encode()
            ends.append(start + len(encoded[:column].decode()))
        return ends[0], ends[1]

    def segment(self, node: ast.expr | ast.stmt) -> str:
        """Text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def names(self) -> set[str]:
        """All that a new name must not be."""
        return {token.string for token in self.tokens if token.type == tokenize.NAME}

    def docstring(self) -> ast.Constant | None:
        """Of the function, or of the module where the function is still to come."""
        node = self.function
        body = self.tree.body if node is None or self.span(node)[0] >= self.cut else node.body
        first = body[0] if body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            return first.value
        return None

    def edited(self, edits: Sequence[Edit]) -> "Source":
        """With edits that do not overlap; those that start before the cut, or end at it, belong to what is shown."""
        text, cut = self.text, self.cut
        for start, end, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
            if end <= self.cut:
                cut += len(new) - (end - start)
        return Source(text, cut, self.entry_point)


Method = Callable[[Source, random.Random], Sequence[Edit]]
"""Edits of a source; none: there is nothing to edit."""


def same_code(one: ast.AST, other: ast.AST, *, docstrings: bool = True) -> bool:
    """Whether two trees are of the same program.

    Args:
        one: a tree.
        other: a tree.
        docstrings: False: what docstrings say, or whether there are any, makes no difference.
    """
    if not docstrings:
        one, other = _bare(one), _bare(other)
    return ast.dump(one) == ast.dump(other)


def _bare(tree: ast.AST) -> ast.AST:
    tree = ast.parse(ast.unparse(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def half(prompt: str, canonical: str) -> int:
    """Where ReCode's partial prompts end: after half of the solution's logical lines.

    Returns:
        Characters of prompt + canonical; those of the prompt alone if the solution has one line.
    """
    source = Source(prompt + canonical, len(prompt), "")
    ends = [
        source.offset(*token.end)
        for token in source.tokens
        if token.type == tokenize.NEWLINE and source.offset(*token.start) >= len(prompt)
    ]
    middle = len(ends) // 2
    return ends[middle - 1] if middle else len(prompt)
