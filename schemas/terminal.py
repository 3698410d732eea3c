"""Text of a corpus (file names, keys, contents) made safe to show: no control characters reach a terminal."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    r"""The text on one line, with each control character as `\xNN`: one could move the cursor or forge a line."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def visible_lines(text: str) -> str:
    """As `visible`, for text whose line ends are our own."""
    return "\n".join(map(visible, text.split("\n")))
