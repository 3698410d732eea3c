"""What decides the batches, and how they are made: the loader's options, checked. Nothing is read here."""

from dataclasses import dataclass

from schemas.errors import UserError
from trainer.data.views import COMP_RATE, Mode, Text, default_ramp

MOST_HEADS = 64
"""Far above any head count in use; heads are counted in a byte."""


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """What decides the batches, and how they are made.

    Attributes:
        data: folders or URLs of the datasets, in the order that `source` draws refer to.
        weights: of the datasets; equal ones if empty.
        batch: B, sequences of a global batch.
        sequence: T, ids of a sequence.
        steps: N, optimiser steps of the run.
        seed: of the run.
        val_fraction: share of documents held out.
        mode: what is trained on.
        ramp: steps over which r rises and pairs occur; None: min(10,000, N // 5).
        pair_symbols: longest aligned part of a pair, in ids; None: T // 2.
        comp_rate: r after the ramp.
        raw_fraction: share of the training documents, or pieces, that raw views and pairs are of, again and again,
            while comp views are of all; drawn by the seed; with mode `bytes` the run has these alone.
        main_heads: P, heads over the full vocabulary.
        raw_heads: R, heads over bytes and specials.
        reference_loss: labels as published, openers included.
        rank: k, of this process.
        world: W, number of processes.
        micro_batch: sequences of a forward pass; None: all of this rank.
        prefetch: batches made ahead by a thread; 0: none, each is made when it is asked for.
    """

    data: tuple[str, ...]
    weights: tuple[float, ...] = ()
    batch: int
    sequence: int
    steps: int
    seed: int = 0
    val_fraction: float = 0.005
    mode: Mode = Mode.PROXY
    ramp: int | None = None
    pair_symbols: int | None = None
    comp_rate: float = COMP_RATE
    raw_fraction: float = 1.0
    main_heads: int = 1
    raw_heads: int = 1
    reference_loss: bool = False
    rank: int = 0
    world: int = 1
    micro_batch: int | None = None
    prefetch: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: with the option, its value and what would fit.
        """
        for name in ("batch", "steps", "main_heads", "world"):
            _expect(name, getattr(self, name), at_least=1)
        for name in ("seed", "raw_heads", "prefetch"):
            _expect(name, getattr(self, name), at_least=0)
        if self.heads > MOST_HEADS:
            raise UserError(f"--main-heads {self.main_heads} and --raw-heads {self.raw_heads}: at most {MOST_HEADS}")
        _expect("sequence", self.sequence, at_least=max(16, self.heads + 1))
        if self.ramp is not None:
            _expect("ramp", self.ramp, at_least=0)
        if self.pair_symbols is not None and not 1 <= self.pair_symbols <= self.sequence:
            raise UserError(f"--pair-symbols {self.pair_symbols}: expected 1 to the sequence's {self.sequence} ids")
        if not 0 < self.raw_fraction <= 1:
            raise UserError(f"--raw-fraction {self.raw_fraction}: expected more than 0, 1 at most")
        if not self.data:
            raise UserError("--data: expected at least one dataset")
        if self.weights and len(self.weights) != len(self.data):
            raise UserError(f"--weights: {len(self.weights)} weights for {len(self.data)} datasets")
        if any(not weight > 0 for weight in self.weights):
            raise UserError(f"--weights {' '.join(map(str, self.weights))}: expected numbers above 0")
        self._check_world()

    def _check_world(self) -> None:
        if not 0 <= self.rank < self.world:
            raise UserError(f"rank {self.rank}: expected 0 to {self.world - 1}")
        if self.batch % self.world:
            raise UserError(
                f"--batch {self.batch}: cannot be shared by {self.world} processes; "
                f"use {_divisors(self.batch)} of them, or a batch of {_multiples(self.batch, self.world)}"
            )
        if self.micro_batch is not None and (self.micro_batch < 1 or self.local_batch % self.micro_batch):
            raise UserError(
                f"--micro-batch {self.micro_batch}: does not divide the {self.local_batch} sequences of a process; "
                f"use {_divisors(self.local_batch)}"
            )

    @property
    def local_batch(self) -> int:
        """B / W, sequences of this rank."""
        return self.batch // self.world

    @property
    def pass_size(self) -> int:
        """Sequences of a forward pass."""
        return self.micro_batch or self.local_batch

    @property
    def heads(self) -> int:
        """H = P + R."""
        return self.main_heads + self.raw_heads

    @property
    def ramp_steps(self) -> int:
        """The ramp that holds."""
        return default_ramp(self.steps) if self.ramp is None else self.ramp

    @property
    def own_raw_text(self) -> bool:
        """Whether raw views and pairs have a text of their own, a part of that of the comp views."""
        return self.mode.mixes and self.raw_fraction < 1

    @property
    def texts(self) -> tuple[tuple[Text, float], ...]:
        """Of the cursors that a lane has in a dataset: what their documents may be shown as, and their share of all."""
        if self.own_raw_text:
            return (Text.RAW, self.raw_fraction), (Text.COMP, 1.0)
        return ((Text.ANY, self.raw_fraction if self.mode is Mode.BYTES else 1.0),)

    @property
    def cursors(self) -> int:
        """Of a lane: one a dataset, or two where raw views have a text of their own."""
        return len(self.data) * len(self.texts)

    @property
    def longest_part(self) -> int:
        """The pair_symbols that holds."""
        return self.sequence // 2 if self.pair_symbols is None else self.pair_symbols

    @property
    def lanes(self) -> range:
        """This rank's lanes."""
        return range(self.rank, self.batch, self.world)


def _expect(name: str, value: int, *, at_least: int) -> None:
    if value < at_least:
        raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {at_least}")


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)


def _multiples(number: int, of: int) -> str:
    below, above = number // of * of, (number // of + 1) * of
    return f"{below} or {above}" if below else str(above)
