"""What is shown holds no control characters but line ends of our own."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.terminal import visible, visible_lines


@given(st.text())
def test_only_control_characters_change(text: str) -> None:
    shown = visible(text)
    assert not [character for character in shown if ord(character) < 32 or 127 <= ord(character) < 160]
    assert shown.replace("\\x", "").isprintable() or not text.isprintable()
    if text.isprintable():
        assert shown == text


def test_lines_of_our_own_stay() -> None:
    assert visible("a\x1b[2J\n\x9bb\x7f") == r"a\x1b[2J\x0a\x9bb\x7f"
    assert visible_lines("a\r\nb\t\n") == "a\\x0d\nb\\x09\n"
