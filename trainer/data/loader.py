"""The loader: options, datasets, lanes of this rank, prefetch and state; iterate it for batches.

The batch of optimiser step t is a pure function of options and datasets: the same for every world size, prefetch
depth and restart. Prefetch is one thread with a bounded buffer; the state is that after the last batch handed out,
never after one prefetched. Memory: one decoded row group for each lane of this rank and dataset, and the batches in
the buffer; `notes` says how much that is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from schemas.errors import UserError
from schemas.vocabulary import BYTES, Vocabulary
from trainer.data.batch import Batch
from trainer.data.dataset import Dataset
from trainer.data.lanes import Cursor, Deals, check_lanes, check_val_fraction
from trainer.data.options import LoaderOptions
from trainer.data.packing import BatchWriter, Layout
from trainer.data.prefetch import Prefetch
from trainer.data.sequences import Lane
from trainer.data.state import Identity, check_identity, lane_states, make_state
from trainer.data.views import COMP_RATE, Mode, Schedule


class Loader:
    """Batches of this rank, endless.

    Attributes:
        options: as given.
        datasets: opened, in order.
        vocabulary: of the model that is trained: bytes only with mode `bytes`, whatever the datasets.
        schedule: r(t) and pairing.
        notes: lines to show at the start: warnings, and the memory that is needed.
        memory_bytes: bound of decoded row groups and prefetched batches.
    """

    def __init__(self, options: LoaderOptions, datasets: Sequence[Dataset] | None = None) -> None:
        """Open the datasets (unless they are given, opened) and check that they fit the options.

        Raises:
            UserError: they do not, or a dataset is missing or damaged.
        """
        self.options = options
        self.datasets = [Dataset(url) for url in options.data] if datasets is None else list(datasets)
        self.schedule = Schedule(
            mode=options.mode,
            ramp=options.ramp_steps,
            seed=options.seed,
            comp_rate=options.comp_rate,
        )
        self.notes = check_val_fraction(options.val_fraction)
        _check_same_proxy(self.datasets)
        for dataset in self.datasets:
            self.notes += _check_views(dataset, self.schedule)
            least = min(share for _, share in options.texts)
            self.notes += check_lanes(dataset, options.batch, options.val_fraction, least, options.seed)
        self.vocabulary = vocabulary_of(self.datasets, options.mode)
        self._spans_known = not self._uses_comp or all(dataset.has_spans for dataset in self.datasets)
        self.memory_bytes = self._memory()
        self.notes.append(
            f"loader: at most {self.memory_bytes / 2**20:,.0f} MiB for {len(options.lanes)} lanes of this process "
            f"and {options.prefetch} batches ahead"
        )
        self._identity = self._make_identity()
        self._producer = _Producer(options, self.datasets, self.schedule, spans_known=self._spans_known)
        self._handed_out = self._producer.snapshot()
        self._prefetch: Prefetch[tuple[Batch, _Snapshot]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            UserError: a row group is damaged or cannot be read.
        """
        if not self.options.prefetch:
            try:
                batch, self._handed_out = self._producer.produce()
            except BaseException:
                self._producer.restore(self._handed_out)  # not half-way through a batch
                raise
            return batch
        if self._prefetch is None:
            self._prefetch = Prefetch(self._producer.produce, self.options.prefetch)
        batch, self._handed_out = self._prefetch.get()
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread. Iterating goes on after the last batch handed out, from prefetched ones made anew."""
        if self._prefetch is not None:
            self._prefetch.close()
            self._prefetch = None
            self._producer.restore(self._handed_out)

    @property
    def step(self) -> int:
        """The step of the next batch."""
        return self._handed_out.step

    @property
    def epochs(self) -> tuple[float, float, float]:
        """(min, mean, max) over this rank's lanes and datasets after the last batch handed out."""
        return self._handed_out.epochs

    def state(self) -> dict[str, Any]:
        """Where this rank's lanes are after the last batch handed out, as JSON takes it; see `merge_states`."""
        return make_state(self._identity, self.step, self._handed_out.lanes)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of all lanes, whatever the world size that it was saved at.

        Raises:
            UserError: it is of other options or data; the message lists the differences.
        """
        check_identity(state, self._identity)
        lanes = lane_states(state, self.options.lanes, cursors=self.options.cursors)
        if self._prefetch is not None:
            self._prefetch.close()
            self._prefetch = None
        self._producer.restore(_Snapshot(int(state["step"]), lanes, (0.0, 0.0, 0.0)))
        self._handed_out = self._producer.snapshot()

    @property
    def _uses_comp(self) -> bool:
        return self.options.mode is not Mode.BYTES

    def _memory(self) -> int:
        options = self.options
        largest = max(dataset.largest_decoded(options.mode.columns) for dataset in self.datasets)
        groups = len(options.lanes) * max(2, options.cursors) * largest
        batch = options.local_batch * options.sequence * (13 + 8 * options.heads)
        return groups + (options.prefetch + 1) * batch

    def _make_identity(self) -> Identity:
        options = self.options
        weights = options.weights or (1.0,) * len(self.datasets)
        # only where they are not the usual: states of before are states of now
        unusual = {"comp_rate": (options.comp_rate, COMP_RATE), "raw_fraction": (options.raw_fraction, 1.0)}
        return {
            **{name: value for name, (value, usual) in unusual.items() if value != usual},
            "batch": options.batch,
            "sequence": options.sequence,
            "seed": options.seed,
            "val_fraction": options.val_fraction,
            "mode": str(options.mode),
            "ramp": options.ramp_steps,
            "pair_symbols": options.longest_part,
            "datasets": [
                {
                    "weight": weight,
                    "proxy": dataset.proxy_name,
                    "fingerprint": dataset.fingerprint,
                    "vocabulary": dataset.vocabulary.size,
                    "row_groups": dataset.row_groups_digest,
                }
                for dataset, weight in zip(self.datasets, weights, strict=True)
            ],
        }


@dataclass(frozen=True)
class _Snapshot:
    """Where the lanes of a rank are: next step, state of each lane, epochs."""

    step: int
    lanes: dict[int, list[int]]
    epochs: tuple[float, float, float]


class _Producer:
    """Makes batches, in whichever one thread."""

    def __init__(
        self, options: LoaderOptions, datasets: list[Dataset], schedule: Schedule, *, spans_known: bool
    ) -> None:
        self._options, self._spans_known = options, spans_known
        self._layout = Layout(
            sequence=options.sequence,
            main_heads=options.main_heads,
            raw_heads=options.raw_heads,
            sentinels=options.mode.sentinels,
            pair_symbols=options.longest_part,
            reference_loss=options.reference_loss,
        )
        self._step = 0
        deals = [
            Deals(dataset, index=index, seed=options.seed, lanes=options.batch)
            for index, dataset in enumerate(datasets)
        ]
        weights = list(options.weights or (1.0,) * len(datasets))
        self._lanes = [
            Lane(
                lane,
                [
                    Cursor(dataset, deal, lane, options.seed, options.val_fraction, options.mode.columns, share, text)
                    for dataset, deal in zip(datasets, deals, strict=True)
                    for text, share in options.texts
                ],
                weights,
                schedule,
            )
            for lane in options.lanes
        ]

    def produce(self) -> tuple[Batch, _Snapshot]:
        """The next batch and the state after it."""
        writer = BatchWriter(len(self._lanes), self._layout)
        for lane in self._lanes:
            lane.fill(writer, self._step)
        arrays = writer.finish()
        self._step += 1
        after = self.snapshot()
        return Batch(after.step - 1, arrays, writer.counts, self._spans_known, after.epochs), after

    def snapshot(self) -> _Snapshot:
        progress = [cursor.progress for lane in self._lanes for cursor in lane.cursors]
        epochs = min(progress), sum(progress) / len(progress), max(progress)
        return _Snapshot(self._step, {lane.lane: lane.state for lane in self._lanes}, epochs)

    def restore(self, snapshot: _Snapshot) -> None:
        self._step = snapshot.step
        for lane in self._lanes:
            lane.restore(snapshot.lanes[lane.lane])


def vocabulary_of(datasets: Sequence[Dataset], mode: Mode) -> Vocabulary:
    """Ids of the model that is trained on datasets of one proxy."""
    return BYTES if mode is Mode.BYTES else datasets[0].vocabulary


def _check_same_proxy(datasets: list[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        if (other.vocabulary, other.fingerprint) != (first.vocabulary, first.fingerprint):
            raise UserError(
                f"DATA={other.url}: made with another proxy ({other.proxy_name}, {other.fingerprint[:12]}) than "
                f"{first.url} ({first.proxy_name}, {first.fingerprint[:12]}); datasets of one run must share it"
            )


def _check_views(dataset: Dataset, schedule: Schedule) -> list[str]:
    if schedule.mode is Mode.BYTES:
        return []
    if not dataset.has_comp:
        raise UserError(
            f"DATA={dataset.url}: has no comp view (proxy {dataset.proxy_name}), so it takes only MODE=bytes, "
            f"not MODE={schedule.mode}"
        )
    if schedule.ever_pairs and not dataset.has_spans:
        return [
            f"DATA={dataset.url}: comp symbols of {dataset.proxy_name} have no spans, so pairs are cut plainly: "
            "the twin of a symbol may lie in another sequence"
        ]
    return []
