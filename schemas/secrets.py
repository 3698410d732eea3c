"""Text without credentials, for whatever is shown or stored: messages, traces, descriptions of datasets.

`redacted(text)` replaces by *** what lets somebody in: user and password in URLs, signatures, tokens and keys in
queries, connection strings and settings, and the values that the environment and fsspec's configuration hold under
such names, also in the encoding of URLs. What it does not know, it cannot hide: credentials belong in the
environment, never in a URL. Costs: about 0.1 ms a line.
"""

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from fsspec.config import conf

HIDDEN = "***"

_SHORTEST = 8
"""Characters of a value that is looked for everywhere: shorter ones, `test` say, are words of any text."""

_NAME = (
    r"(?:sig|[\w.-]*(?:signature|credentials?|token|secret|password|passwd|passphrase|account[_-]?key|access[_-]?key"
    r"(?:[_-]?id)?|api[_-]?key|access[_-]?id|secret[_-]?key|private[_-]?key|sas[_-]?token|connection[_-]?string))"
)
_SECRET_NAME = re.compile(rf"{_NAME}|.*_KEY|key", re.IGNORECASE)
_INSIDE = r"(?:[^\s'\"]|['\"](?![\s,:;)}\]]))*"
"""What a password may be written with, slashes and quotes unescaped; not the quote that ends a string."""
_PASSWORD = re.compile(rf"(?<=://)[^\s/?#@'\"]*:{_INSIDE}@")
"""Up to the last @. It may also be a port, a path and an @ in it: nothing tells them apart, and hiding is safe."""
_USER_AND_PASSWORD = re.compile(rf"(?<=://)[^\s/?#@'\"]*:(?!\d+(?:[/?#]|$)){_INSIDE}@")
"""Surely no port: what is refused."""
_PATTERNS = (
    _PASSWORD,
    re.compile(r"(?<=http://)[^\s/?#'\"]+@|(?<=https://)[^\s/?#'\"]+@"),  # a token alone; elsewhere a container
    re.compile(
        rf"(?<![\w.-]){_NAME}(?:%3D|['\"]?\s*[=:]\s*(?:b(?=['\"]))?['\"]?)(?P<value>[^\s'\"&,;)}}\]<>]+)", re.IGNORECASE
    ),
    re.compile(r"(?<=[?&])(?:key|code|auth|pwd|pass|jwt)=(?P<value>[^\s'\"&]+)", re.IGNORECASE),
    re.compile(r"\b(?:Bearer|Basic)\s+(?P<value>[\w.~+/=-]{8,})", re.IGNORECASE),
)


def redacted(text: str) -> str:
    """The text without credentials."""
    for value in _known_values(os.environ):
        text = text.replace(value, HIDDEN)
    return redacted_by_form(text)


def redacted_by_form(text: str) -> str:
    """The text without what looks like a credential: the same on every machine, whatever its environment holds."""
    for pattern in _PATTERNS:
        text = pattern.sub(_without_value, text)
    return text


def holds_password(url: str) -> bool:
    """Whether a URL names a user with a password."""
    return _USER_AND_PASSWORD.search(url) is not None


def _without_value(match: re.Match[str]) -> str:
    whole = match.group()
    if "value" not in match.groupdict():
        return f"{HIDDEN}@"
    return whole[: match.start("value") - match.start()] + HIDDEN


def _known_values(environment: Mapping[str, str]) -> list[str]:
    """Values under names of secrets, longest first, so that none is cut by another within it."""
    settings = [(name, value) for name, value in environment.items() if _SECRET_NAME.fullmatch(name)]
    settings += [(name, value) for name, value in _settings(conf) if _SECRET_NAME.fullmatch(name)]
    values = {value for _, value in settings if len(value) >= _SHORTEST}
    return sorted(values | {urllib.parse.quote(value, safe="") for value in values}, key=len, reverse=True)


def _settings(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _settings(value)
        elif isinstance(value, str):
            yield name, value
