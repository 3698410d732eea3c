"""Sizes as people write and read them: 3.3TB, 64MiB, 500 GB; decimal units are powers of 1,000, binary of 1,024."""

import re

from schemas.errors import UserError

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtp", 1)
    for suffix, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}
_SIZE = re.compile(r"\s*(\d[\d,_]*(?:\.\d*)?(?:e\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str, option: str) -> int:
    """Bytes of a size.

    Args:
        text: a number and a unit, in any case; no unit: bytes.
        option: that gave it, for messages.

    Raises:
        UserError: not a size, or less than a byte.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UserError(f"{option} {text!r}: not a size; write it like 3.3TB, 64MiB or 500000000")
    size = round(float(re.sub("[,_]", "", match[1])) * unit)
    if size < 1:
        raise UserError(f"{option} {text!r}: give at least a byte")
    return size


def show_size(size: float) -> str:
    """Three digits and a decimal unit."""
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" or size >= 99.5 else f"{size:.3g} {units[0]}"
