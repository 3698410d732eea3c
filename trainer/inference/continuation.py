"""What follows one prompt: what is asked for, how far it is, why it ended. No tensors: choices in, bytes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt

from schemas.errors import UserError
from trainer.inference.sampling import CLOSE, Sampler, Sampling
from trainer.inference.stops import StopFinder
from trainer.inference.tree import Belief, Tree

Ended = Literal["end", "stop", "length"]
"""Why a generation ended: the model closed the text, a stop text came, or max_bytes were made."""

MEMORY = 0.97
"""What is left after a pass of the account of promises: heads are good in one place and bad in another."""


@dataclass(frozen=True)
class Generated:
    """What followed a prompt.

    Attributes:
        data: the bytes, without the stop text.
        ended: why there are no more.
        made: bytes chosen, those of a stop text and beyond it in its pass too.
        passes: of the trunk, the one over the prompt included.
    """

    data: bytes
    ended: Ended
    made: int
    passes: int

    @property
    def bytes_per_pass(self) -> float:
        """1 at most if bytes are made one at a time."""
        return self.made / self.passes


@dataclass(frozen=True, kw_only=True)
class Request(Sampling):
    """What to generate, and how bytes are chosen.

    Attributes:
        max_bytes: for each prompt, exactly so many unless it ends before.
        stop: texts that end a generation; they are not given out.
    """

    max_bytes: int = 400
    stop: Sequence[bytes | str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bytes < 1:
            raise UserError(f"max-bytes is {self.max_bytes}; expected 1 or more")
        if isinstance(self.stop, bytes | str):
            raise UserError(f"stop is {self.stop!r}; expected a list of texts")


class Options(TypedDict, total=False):
    """The fields of `Request` as keyword arguments."""

    temperature: float
    top_p: float
    seed: int
    max_bytes: int
    stop: Sequence[bytes | str]


def as_bytes(text: bytes | str) -> bytes:
    """Bytes as they are; text in UTF-8, with undecodable bytes of a command line as they were."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


class Row:
    """A prompt in work.

    Attributes:
        number: of the prompt.
        made: bytes chosen.
        passes: of the trunk so far.
        ended: why there are no more; None: there are.
        root: the byte chosen last; it is not in the cache yet.
        beliefs: for the bytes after it.
    """

    def __init__(self, number: int, request: Request, sampler: Sampler) -> None:
        self.number, self.sampler = number, sampler
        self.made = self.passes = self.root = 0
        self.ended: Ended | None = None
        self.beliefs: list[Belief] = []
        self._promised = self._kept = 0.0  # nodes that should have been right, and were
        self._max_bytes = request.max_bytes
        self._stops = StopFinder([as_bytes(stop) for stop in request.stop])

    @property
    def trust(self) -> float:
        """How much of what the heads promised lately came true; 1 to begin with, and again if nothing is promised."""
        return min(1.0, (self._kept + 1) / (self._promised + 1))

    @property
    def remaining(self) -> int:
        """Bytes that may still be made."""
        return self._max_bytes - self.made

    def choose(self, logits: npt.NDArray[np.floating], position: int) -> int:
        """The choice at a position from logits [258]."""
        return self.sampler.choose(logits, self.number, position)

    def walk(self, tree: Tree, logits: npt.NDArray[np.floating], length: int) -> tuple[list[int], list[int]]:
        """From the root down, as long as a node has the byte that is chosen at its parent.

        Args:
            tree: of this pass.
            logits: [N, 258] of its nodes.
            length: ids in the cache, without the root.

        Returns:
            The nodes that are right, and what is chosen after each of them: the last one is no node.
        """
        children = tree.children()
        path, choices = [0], [self.choose(logits[0], length + 1)]
        while (node := children.get((path[-1], choices[-1]))) is not None:
            path.append(node)
            choices.append(self.choose(logits[node], length + len(path)))
        self._promised = MEMORY * self._promised + sum(tree.beliefs[1:]) / self.trust
        self._kept = MEMORY * self._kept + len(path) - 1
        return path, choices

    def take(self, choices: list[int]) -> bytes:
        """The choices of a pass become the row's; what of them is free to be given out."""
        self.passes += 1
        fresh = bytearray()
        for choice in choices:
            if choice >= CLOSE:
                self.ended = "end"
                break
            fresh.append(choice)
        self.made += len(fresh)
        if self.ended is None and self.made == self._max_bytes:
            self.ended = "length"
        if fresh:
            self.root = fresh[-1]
        part = self._stops.feed(bytes(fresh))
        if self._stops.found:
            self.ended = "stop"
        return part + self._stops.end() if self.ended else part
