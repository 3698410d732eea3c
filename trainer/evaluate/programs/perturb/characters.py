"""Slips of a typist in a word: a neighbouring key, two letters in the wrong order, one more or less, wrong case."""

import random
from collections.abc import Callable

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

Slip = Callable[[str, int, random.Random], str]
"""The word with a slip at a place."""


def _neighbours() -> dict[str, str]:
    """Keys beside each letter, in its row and the next ones, on an American keyboard."""
    found = {}
    for number, row in enumerate(_ROWS):
        for place, letter in enumerate(row):
            near = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            # each row is set in by about half a key
            if number > 0:
                near += _ROWS[number - 1][place : place + 2]
            if number + 1 < len(_ROWS):
                near += _ROWS[number + 1][max(0, place - 1) : place + 1]
            found[letter] = near
    return found


_NEAR = _neighbours()


def butter_finger(word: str, place: int, draw: random.Random) -> str:
    """A neighbouring key instead of the letter."""
    letter = word[place]
    near = _NEAR.get(letter.lower())
    if near is None:
        return word
    new = draw.choice(near)
    return word[:place] + (new.upper() if letter.isupper() else new) + word[place + 1 :]


def swap(word: str, place: int, draw: random.Random) -> str:
    """The letter and the one after it in the wrong order."""
    del draw
    return word[:place] + word[place + 1 : place + 2] + word[place] + word[place + 2 :]


def insert(word: str, place: int, draw: random.Random) -> str:
    """The letter, and a neighbouring key, too."""
    near = _NEAR.get(word[place].lower())
    return word if near is None else word[: place + 1] + draw.choice(near) + word[place + 1 :]


def delete(word: str, place: int, draw: random.Random) -> str:
    """Without the letter."""
    del draw
    return word[:place] + word[place + 1 :] if len(word) > 1 else word


def case(word: str, place: int, draw: random.Random) -> str:
    """The letter in the other case."""
    del draw
    return word[:place] + word[place].swapcase() + word[place + 1 :]
