"""What of a stream may be given out: stop texts are found across the borders of its parts, and never given out.

An automaton over all stop texts (Aho and Corasick, 1975) knows after each byte the longest end of the stream that may
be the beginning of one: that alone is held back. Constant time a byte, however long texts and stream are.
"""

import codecs
from collections import deque
from collections.abc import Iterable, Iterator, Sequence


class StopFinder:
    """Passes bytes on as soon as they cannot belong to a stop text.

    Attributes:
        found: whether a stop text was completed; nothing is given out after that.
    """

    def __init__(self, stops: Sequence[bytes]) -> None:
        """Texts of one byte or more; empty ones are ignored."""
        self.found = False
        self._held = bytearray()
        self._state = 0
        self._next: list[dict[int, int]] = [{}]
        self._fall: list[int] = [0]
        self._depth: list[int] = [0]
        self._length: list[int] = [0]  # of the longest stop text that ends in this state
        for stop in stops:
            self._add(stop)
        self._link()

    def feed(self, data: bytes) -> bytes:
        """Take in bytes; give out what is free, up to a stop text if one is complete."""
        if len(self._next) == 1:
            return data
        if self.found:
            return b""
        for byte in data:
            self._held.append(byte)
            while self._state and byte not in self._next[self._state]:
                self._state = self._fall[self._state]
            self._state = self._next[self._state].get(byte, 0)
            if self._length[self._state]:
                self.found = True
                return self._release(self._length[self._state])
        return self._release(self._depth[self._state])

    def end(self) -> bytes:
        """What was held back, now that nothing follows; empty after a stop text."""
        return b"" if self.found else self._release(0)

    def _release(self, keep: int) -> bytes:
        free = bytes(self._held[: len(self._held) - keep])
        del self._held[: len(free)]
        return free

    def _add(self, stop: bytes) -> None:
        state = 0
        for byte in stop:
            if byte not in self._next[state]:
                self._next[state][byte] = len(self._next)
                self._next.append({})
                self._fall.append(0)
                self._depth.append(self._depth[state] + 1)
                self._length.append(0)
            state = self._next[state][byte]
        self._length[state] = len(stop)

    def _link(self) -> None:
        """From each state to that of its longest proper end, breadth first."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for byte, child in self._next[state].items():
                waiting.append(child)
                fall = self._fall[state]
                while fall and byte not in self._next[fall]:
                    fall = self._fall[fall]
                self._fall[child] = self._next[fall].get(byte, 0)
                # its own text is longer than any that ends in it
                self._length[child] = self._length[child] or self._length[self._fall[child]]


def whole_characters(parts: Iterable[bytes], before: bytes = b"") -> Iterator[str]:
    """UTF-8 text in parts that never split a character.

    Args:
        parts: bytes of any kind; what is not UTF-8 becomes U+FFFD.
        before: bytes before them; a character that begins there and ends in the parts comes out whole.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(before)
    for part in parts:
        if text := decoder.decode(part):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text
