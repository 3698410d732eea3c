"""The family "format": the same program laid out otherwise, before the cut.

Whether the syntax tree is the same is checked by the caller. Indentation by tabs reaches behind the cut as well, since
Python takes no mixture: a model has to go on in tabs.
"""

import random
import re
import tokenize
from collections.abc import Mapping

from trainer.evaluate.programs.perturb.source import Edit, Method, Source

_NO_LINE = (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def _line_starts(source: Source) -> list[tuple[int, int, int]]:
    """Logical lines: offset of the physical line's start and of the first token, and the depth of indentation."""
    found, depth, fresh = [], 0, True
    for token in source.tokens:
        depth += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        if fresh and token.type not in _NO_LINE:
            found.append((source.offset(token.start[0], 0), source.offset(*token.start), depth))
            fresh = False
        if token.type == tokenize.NEWLINE:
            fresh = True
    return found


def tabs(source: Source, draw: random.Random) -> list[Edit]:
    """A tab for each level, instead of blanks; in docstrings and between brackets nothing changes."""
    del draw
    return [(start, first, "\t" * depth) for start, first, depth in _line_starts(source) if depth]


def blank_lines(source: Source, draw: random.Random) -> list[Edit]:
    """An empty line before each logical line but the first with probability 0.3, one at least."""
    places = [start for start, _, _ in _line_starts(source)[1:] if start < source.cut]
    chosen = [place for place in places if draw.random() < 0.3] or ([draw.choice(places)] if places else [])
    return [(place, place, "\n") for place in chosen]


def blank_after_docstring(source: Source, draw: random.Random) -> list[Edit]:
    """Empty lines behind the docstring, 1 to 3."""
    node = source.docstring()
    end = -1 if node is None else source.text.find("\n", source.span(node)[1]) + 1
    return [(end, end, "\n" * draw.randint(1, 3))] if 0 < end <= source.cut else []


def blank_at_end(source: Source, draw: random.Random) -> list[Edit]:
    """Empty lines at the end of what is shown, 1 to 3."""
    return [(source.cut, source.cut, "\n" * draw.randint(1, 3))] if source.text[: source.cut].endswith("\n") else []


def split_line(source: Source, draw: random.Random) -> list[Edit]:
    """One line is broken behind a comma between brackets; the rest is set in by eight blanks more."""
    places, brackets = [], 0
    for token in source.tokens:
        if token.type == tokenize.OP:
            brackets += (token.string in "([{") - (token.string in ")]}")
            end = source.offset(*token.end)
            if token.string == "," and brackets > 0 and end < source.cut and source.text[end : end + 1] == " ":
                indent = re.match(r"[ \t]*", token.line.split("\n")[0])
                places.append((end, end + 1, "\n" + (indent[0] if indent else "") + " " * 8))
    return [draw.choice(places)] if places else []


def trailing_blanks(source: Source, draw: random.Random) -> list[Edit]:
    """Blanks, 1 to 4, at the ends of half of the logical lines, one at least."""
    places = [source.offset(*token.start) for token in source.tokens if token.type == tokenize.NEWLINE]
    places = [place for place in places if place < source.cut]
    chosen = [place for place in places if draw.random() < 0.5] or ([draw.choice(places)] if places else [])
    return [(place, place, " " * draw.randint(1, 4)) for place in chosen]


def other_quotes(source: Source, draw: random.Random) -> list[Edit]:
    """The docstring between the other kind of three quotes."""
    del draw
    node = source.docstring()
    if node is None:
        return []
    (start, end), text = source.span(node), source.segment(node)
    for quote, other in (('"""', "'''"), ("'''", '"""')):
        if text.startswith(quote) and text.endswith(quote) and other not in text and text[-4] != other[0]:
            return [(start, start + 3, other), (end - 3, end, other)] if end <= source.cut else []
    return []


def comments(source: Source, draw: random.Random) -> list[Edit]:
    """The lines of the docstring as comments."""
    del draw
    node = source.docstring()
    if node is None:
        return []
    start, end = source.span(node)
    line = source.text.rfind("\n", 0, start) + 1
    stop = source.text.find("\n", end)
    behind = source.text[end : stop if stop >= 0 else len(source.text)]
    # a docstring alone between its lines, and something behind it that is the body
    if source.text[line:start].strip() or behind.strip() or end > source.cut or not source.text[end:].strip():
        return []
    indent = source.text[line:start]
    words = [text.removeprefix(indent).rstrip() for text in str(node.value).strip("\n").split("\n")]
    while words and not words[-1].strip():
        words.pop()
    lines = [f"#{'' if text[:1] in (' ', '') else ' '}{text}" for text in words]
    return [(start, end, f"\n{indent}".join(lines) or "#")]


METHODS: Mapping[str, Method] = {
    "tabs": tabs,
    "blank-lines": blank_lines,
    "blank-after-docstring": blank_after_docstring,
    "blank-at-end": blank_at_end,
    "split-line": split_line,
    "trailing-blanks": trailing_blanks,
    "other-quotes": other_quotes,
    "comments": comments,
}
