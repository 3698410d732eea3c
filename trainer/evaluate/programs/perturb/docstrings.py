"""The family "docstring": slips of a typist in what the docstring says, and nowhere else.

Only words of prose are touched: four letters or more between blanks or punctuation, no parameter's or function's name,
nothing in quotes or backticks, and no line of an example (`>>>` and what follows up to an empty line; a line with an
arrow, an equation, an assertion or a call of the function).
"""

import ast
import random
import re
from collections.abc import Mapping

from trainer.evaluate.programs.perturb import characters
from trainer.evaluate.programs.perturb.source import Edit, Method, Source

_WORD = re.compile(r"(?<![\w'\"`\\.\[({=])[A-Za-z]{4,}(?![\w'\"`(\[=])")
_QUOTED = re.compile(r"`[^`]*`|(?<!\w)'[^']*'|(?<![\w\"])\"[^\"]+\"(?!\")")
_EXAMPLE = re.compile(r"==|=>|->|\u279e|\u2192|\bassert\b|^\s*[\[({]")


def _words(source: Source) -> list[tuple[int, int]]:
    """Spans of the words that may be touched."""
    node = source.docstring()
    if node is None:
        return []
    start, end = source.span(node)
    function = source.function
    arguments = ast.walk(function) if function is not None else ()
    names = {source.entry_point} | {one.arg for one in arguments if isinstance(one, ast.arg)}
    found, example = [], False
    place = start
    for line in source.text[start:end].split("\n"):
        example = bool(line.strip()) and (example or ">>>" in line)
        if not example and not _EXAMPLE.search(line) and f"{source.entry_point}(" not in line:
            quoted = [match.span() for match in _QUOTED.finditer(line)]
            for match in _WORD.finditer(line):
                if match[0] not in names and not any(low <= match.start() < high for low, high in quoted):
                    found.append((place + match.start(), place + match.end()))
        place += len(line) + 1
    return [span for span in found if span[1] <= source.cut]


def _slips(slip: characters.Slip, share: float, *, last: bool = True) -> Method:
    """Slips in a share of the letters, in one of them at least."""

    def method(source: Source, draw: random.Random) -> list[Edit]:
        places = [
            (start, end, place) for start, end in _words(source) for place in range(end - start - (0 if last else 1))
        ]
        if not places:
            return []
        chosen = [place for place in places if draw.random() < share] or [draw.choice(places)]
        words: dict[tuple[int, int], list[int]] = {}
        for start, end, place in chosen:
            words.setdefault((start, end), []).append(place)
        edits = []
        for (start, end), found in words.items():
            word = source.text[start:end]
            for place in reversed(found):  # from the end, so that places before it stay
                word = slip(word, place, draw)
            edits.append((start, end, word))
        return edits

    return method


def _whitespace(source: Source, draw: random.Random) -> list[Edit]:
    """A blank in one word of ten, or none before it, one change at least."""
    words = _words(source)
    if not words:
        return []
    edits: list[Edit] = []
    for start, end in [word for word in words if draw.random() < 0.1] or [draw.choice(words)]:
        lost = source.text[start - 2 : start - 1].isalpha() and source.text[start - 1] == " "
        if lost and draw.random() < 0.5:
            edits.append((start - 1, start, ""))
        else:
            place = draw.randrange(start + 1, end)
            edits.append((place, place, " "))
    return edits


METHODS: Mapping[str, Method] = {
    "butter-fingers": _slips(characters.butter_finger, 0.05),
    "swap-characters": _slips(characters.swap, 0.05, last=False),
    "insert-characters": _slips(characters.insert, 0.05),
    "delete-characters": _slips(characters.delete, 0.05),
    "change-case": _slips(characters.case, 0.2),
    "whitespace": _whitespace,
}
