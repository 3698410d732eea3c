"""Which view of a document is shown: raw, comp, or both as a pair; a function of its key, its epoch and the step.

r(t) is the wanted share of comp views at optimiser step t; it rises from 0.4 to 0.9 over the ramp, and while it
does, documents may be drawn as pairs. The probabilities are calibrated so that the share of comp among views is r
with pairs or without. A pair counts as one raw and one comp view. Two draws of about 2 microseconds a document.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import lru_cache
from typing import NamedTuple

from schemas.draws import Purpose, draw_u64, uniform
from schemas.errors import UserError
from trainer.data.rows import RowKey

RATE_AT_START, COMP_RATE = 0.4, 0.9
"""r(0) and r(ramp), as published."""

LONGEST_RAMP = 10_000
"""Steps, as published."""


class Mode(StrEnum):
    """What a run trains on; the arms of the study."""

    PROXY = "proxy"
    NEVER_PAIR = "never-pair"
    ALWAYS_PAIR = "always-pair"
    COMP_ONLY = "comp-only"
    BYTES = "bytes"
    NO_SENTINELS = "no-sentinels"

    @property
    def sentinels(self) -> bool:
        """Whether views are wrapped in their sentinels."""
        return self is not Mode.NO_SENTINELS

    @property
    def mixes(self) -> bool:
        """Whether both views occur, at rate r."""
        return self not in (Mode.COMP_ONLY, Mode.BYTES)

    @property
    def columns(self) -> tuple[str, ...]:
        """The shard columns, beside the keys, that this mode reads."""
        if self is Mode.BYTES:
            return ("raw",)
        return ("comp", "spans") if self is Mode.COMP_ONLY else ("raw", "comp", "spans")


class View(Enum):
    """What is shown of a document, in order: 0 raw, 1 comp."""

    RAW = (0,)
    COMP = (1,)
    RAW_COMP = (0, 1)
    COMP_RAW = (1, 0)

    @property
    def is_pair(self) -> bool:
        """Both views in one rendering."""
        return self is View.RAW_COMP or self is View.COMP_RAW


class Text(Enum):
    """What the documents of a text may be shown as."""

    ANY = "any"
    RAW = "raw"
    """Raw or as a pair: the text of all raw views, where these have one of their own."""
    COMP = "comp"
    """As comp alone: the text of all comp views beside it."""


class Probabilities(NamedTuple):
    """Of drawing a document as a pair, as comp alone, as raw alone; they sum to 1."""

    pair: float
    comp: float
    raw: float


@lru_cache(maxsize=16)
def probabilities(rate: float, *, pairing: bool) -> Probabilities:
    """Calibrated so that comp / (comp + raw) views is `rate`.

    With pairs of probability q beside comp alone (1 - q), of 1 + q views one each is comp: 1 / (1 + q) = r, so
    1 - q = 2 - 1/r, possible for r >= 1/2. Below, beside raw alone: q / (1 + q) = r, so q = r / (1 - r).
    """
    if not pairing:
        return Probabilities(0.0, rate, 1.0 - rate)
    if rate > 0.5:
        comp = 2.0 - 1.0 / rate
        return Probabilities(1.0 - comp, comp, 0.0)
    pair = rate / (1.0 - rate)
    return Probabilities(pair, 0.0, 1.0 - pair)


@dataclass(frozen=True)
class Schedule:
    """The views of a run.

    Attributes:
        mode: what it trains on.
        ramp: optimiser steps over which r rises and pairs occur; 0 for neither.
        seed: of the run.
        comp_rate: r after the ramp.
    """

    mode: Mode
    ramp: int
    seed: int
    comp_rate: float = COMP_RATE

    def __post_init__(self) -> None:
        if self.ramp < 0:
            raise UserError(f"--ramp {self.ramp}: expected 0 or more steps")
        if not 0 < self.comp_rate < 1:
            raise UserError(f"--comp-rate {self.comp_rate}: expected more than 0 and less than 1")

    def rate(self, step: int) -> float:
        """r(t), the wanted share of comp among views at step t, counted from 0."""
        if self.mode is Mode.BYTES:
            return 0.0
        if self.mode is Mode.COMP_ONLY:
            return 1.0
        start = min(RATE_AT_START, self.comp_rate)
        return start + (self.comp_rate - start) * (min(step / self.ramp, 1.0) if self.ramp else 1.0)

    def pairs_at(self, step: int) -> bool:
        """Whether documents may be drawn as pairs at step t."""
        if self.mode is Mode.ALWAYS_PAIR:
            return True
        return self.mode in (Mode.PROXY, Mode.NO_SENTINELS) and step < self.ramp

    @property
    def ever_pairs(self) -> bool:
        """Whether any document may be drawn as a pair."""
        return self.pairs_at(0)

    def view(self, key: RowKey, epoch: int, step: int, text: Text = Text.ANY) -> View:
        """The view of a document.

        Args:
            key: of its row.
            epoch: of its lane.
            step: drawn_step, that of the sequence being filled when the lane needed the document's first id.
            text: what the document may be shown as.
        """
        if not self.mode.mixes:
            return View.RAW if self.mode is Mode.BYTES else View.COMP
        if text is Text.COMP:
            return View.COMP
        share = self._probabilities(step)
        u = self._uniform("view", key, epoch)
        # The draw is below the first alternative's probability, or it is the other one: see design section 6.
        if not share.pair:
            return View.COMP if u < share.comp and text is Text.ANY else View.RAW
        if share.comp and u < share.comp and text is Text.ANY:
            return View.COMP
        if not share.comp and u >= share.pair:
            return View.RAW
        return View.RAW_COMP if self._uniform("order", key, epoch) < 0.5 else View.COMP_RAW

    def text(self, u: float, step: int) -> Text:
        """Which text the next document is from, where raw views have one of their own: comp views alone, or the others.

        Args:
            u: a draw, uniform in [0, 1).
            step: as of `view`, which then has the same shares of all views as without.
        """
        return Text.COMP if u < self._probabilities(step).comp else Text.RAW

    def _probabilities(self, step: int) -> Probabilities:
        return probabilities(self.rate(step), pairing=self.pairs_at(step))

    def _uniform(self, purpose: Purpose, key: RowKey, epoch: int) -> float:
        return uniform(draw_row(purpose, self.seed, epoch, key))


def draw_row(purpose: Purpose, seed: int, epoch: int, key: RowKey) -> int:
    """The draw of a row for `row`, `view` and `order`: by its own key and its lane's epoch."""
    return draw_u64(
        purpose, seed=seed, epoch=epoch, doc_id=key.doc_id, record=key.record, piece=key.piece, source=key.source
    )


def is_raw_text(key: RowKey, seed: int, raw_fraction: float) -> bool:
    """Whether a document, or a piece of one, may be shown raw in a run whose raw views are of a share of the text."""
    return raw_fraction == 1 or uniform(draw_row("raw-text", seed, 0, key)) < raw_fraction


def default_ramp(steps: int) -> int:
    """Steps of the ramp for a run of N steps: min(10,000, N // 5), as published."""
    return min(LONGEST_RAMP, steps // 5)
