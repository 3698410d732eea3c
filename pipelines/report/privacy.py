"""What a page may not tell: credentials, and where things lie on the machine that it was made on.

A path that the user gave for this report is shown as it was given; of any other absolute path only the last part.
"""

import re
from collections.abc import Collection
from itertools import count
from typing import Any

from schemas.secrets import HIDDEN, redacted

_PART = r"[^\s/'\":;,()<>|]"
_PATH = re.compile(rf"(?:(?<=file://)|(?<![\w./~-]))(?:~[\w-]*)?/(?!/)(?:{_PART}+/)+{_PART}*")
"""An absolute path of two parts or more, which is no part of a URL but of one of this machine."""

_WHOLE = re.compile(r"(?:file://)?(?:~[\w-]*)?/(?!/)[^\n:;,()<>|'\"]*")
"""A text that is a path and nothing else: there may be blanks in it."""


def shown(text: str, given: Collection[str]) -> str:
    """The text without credentials and without paths but those given, and what lies below them."""

    def short(match: re.Match[str]) -> str:
        path = match.group()
        if any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in given if one):
            return path
        return f"…/{path.rstrip('/').rpartition('/')[2]}"

    text = redacted(text)
    if (whole := _WHOLE.fullmatch(text)) is not None and text.count("/") > 1:
        return short(whole)
    return _PATH.sub(short, text)


_TEXTS = "examples"
"""Of an evaluation: text of the corpus and of the model, which is shown as it is, and not of this machine."""


def cleaned(value: Any, given: Collection[str]) -> Any:
    """A JSON value with all texts as `shown` gives them; keys that become alike are told apart by a number."""
    if isinstance(value, str):
        return shown(value, given)
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, item in value.items():
            word = shown(key, given)
            if word in found:
                word = next(numbered for n in count(2) if (numbered := f"{word} ({n})") not in found)
            if key == _TEXTS:
                found[word] = item
            else:
                found[word] = HIDDEN if _is_secret(key, item) else cleaned(item, given)
        return found
    if isinstance(value, list):
        return [cleaned(item, given) for item in value]
    return value


def _is_secret(key: str, value: Any) -> bool:
    """Whether a text stands under the name of a secret."""
    return isinstance(value, str) and redacted(f"{key}=x{value}").endswith(f"={HIDDEN}")
