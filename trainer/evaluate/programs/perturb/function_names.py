"""The family "function name": the function that is asked for is called otherwise, everywhere in the prompt.

In code every such name is changed, in docstrings and comments those that look like a name there: with an underscore in
it, or with a bracket behind it. The tests call the old name, which is made another name of the new function.
"""

import builtins
import io
import keyword
import random
import re
import tokenize
from collections.abc import Callable, Mapping

from trainer.evaluate.programs.perturb import characters

Rename = Callable[[str, random.Random], str]

_TRIES = 50


def camel_case(name: str, draw: random.Random) -> str:
    """`has_close_elements` as `hasCloseElements`; a name of one word stays."""
    del draw
    first, *others = [part for part in name.split("_") if part] or [name]
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def _slip(slip: characters.Slip) -> Rename:
    def rename(name: str, draw: random.Random) -> str:
        return slip(name, draw.choice([place for place, one in enumerate(name) if one.isalpha()] or [0]), draw)

    return rename


METHODS: Mapping[str, Rename] = {
    "camel-case": camel_case,
    "butter-fingers": _slip(characters.butter_finger),
    "swap-characters": _slip(characters.swap),
    "insert-character": _slip(characters.insert),
    "delete-character": _slip(characters.delete),
    "change-case": _slip(characters.case),
}


def new_name(name: str, taken: set[str], method: Rename, draw: random.Random) -> str | None:
    """A name that means nothing else.

    Args:
        name: the old one.
        taken: names that it must not be.
        method: of `METHODS`.
        draw: where its randomness comes from.

    Returns:
        None: none was found.
    """
    for _ in range(_TRIES):
        found = method(name, draw)
        if (
            found.isidentifier()
            and not keyword.iskeyword(found)
            and found not in taken
            and not hasattr(builtins, found)
        ):
            return found
    return None


def renamed(text: str, old: str, new: str) -> str:
    """Python text with another name; the text need not be whole, but its brackets and quotes are.

    Raises:
        SyntaxError: it cannot be cut into tokens.
    """
    lines = text.split("\n")
    in_words = re.compile(rf"\b{re.escape(old)}\b" + ("" if "_" in old.strip("_") else r"(?=\s?\()"))
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    parts, end = [], 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and token.string == old:
                string = new
            elif token.type in (tokenize.STRING, tokenize.COMMENT):
                string = in_words.sub(new, token.string)
            else:
                continue
            start = starts[token.start[0] - 1] + token.start[1]
            parts += [text[end:start], string]
            end = starts[token.end[0] - 1] + token.end[1]
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from None
    return "".join([*parts, text[end:]])
