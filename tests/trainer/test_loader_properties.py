"""Properties of whole streams of batches: invariance, kills, coverage, shares, sources, shuffling, reads, memory."""

import functools
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import (
    MemoryDataset,
    digest,
    loader_of,
    make_row,
    number_of,
    numbered_dataset,
    plain_deal,
    preprocessed,
    random_dataset,
    run_world,
)

from schemas.draws import document_id, draw_u64, split_uniform, uniform
from trainer.data.batch import Batch
from trainer.data.loader import Loader
from trainer.data.options import LoaderOptions
from trainer.data.views import Mode

LANES = 24
MIXED = {"batch": LANES, "sequence": 48, "raw_heads": 2, "val_fraction": 0.1, "ramp": 60}


@functools.cache
def one_dataset() -> tuple[MemoryDataset, ...]:
    """Short documents and some of more than 20 sequences of 48 ids."""
    made = random_dataset(31, groups=100, longest=60)
    rng = random.Random(6)
    for n in range(0, 100, 25):
        made.groups[n] = [make_row(rng, [rng.choice([0, 1, 2, 3]) if k else 1 for k in range(600)])]
    return (MemoryDataset(made.groups),)


@functools.cache
def three_datasets() -> tuple[MemoryDataset, ...]:
    return tuple(random_dataset(seed, groups=60, longest=40) for seed in (41, 42, 43))


def options_of(datasets: tuple[MemoryDataset, ...]) -> dict[str, Any]:
    return {**MIXED, "weights": (2.0, 1.0, 5.0)[: len(datasets)]}


@functools.cache
def undisturbed(make: Any, steps: int) -> tuple[str, ...]:
    """Digests of the global batches of one process."""
    return tuple(run_world(list(make()), steps, 1, **options_of(make()))[0])


def steps_of_epochs(datasets: list[MemoryDataset], epochs: int, **options: Any) -> int:
    """Steps after which each lane is through so many epochs of each dataset."""
    loader = loader_of(datasets, **options)
    while loader.epochs[0] < epochs:
        next(loader)
    return loader.step


@functools.cache
def three_epochs(make: Any) -> int:
    return steps_of_epochs(list(make()), 3, **options_of(make()))


@pytest.mark.parametrize("make", [one_dataset, three_datasets])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_three_epochs_of_batches_are_the_same_for_every_world_size_and_prefetch(
    make: Any, world: int, prefetch: int
) -> None:
    steps = three_epochs(make)
    found, _ = run_world(list(make()), steps, world, prefetch=prefetch, **options_of(make()))
    assert tuple(found) == undisturbed(make, steps)
    assert len(set(found)) == steps  # no epoch repeats another's batches


@pytest.mark.parametrize("point", range(20))
def test_killed_anywhere_and_resumed_three_times_at_other_world_sizes(point: int) -> None:
    rng = random.Random(point)
    make = rng.choice([one_dataset, one_dataset, three_datasets])
    datasets, options = list(make()), options_of(make())
    whole = undisturbed(make, 130)
    found, state, worlds = [], None, rng.sample([1, 2, 3, 4, 6, 8, 12, 24], 4)
    for world in worlds:
        # What was made after the state was saved dies with the process; the next one makes it again.
        options["prefetch"] = rng.choice([0, 1, 5])
        digests, state = run_world(datasets, rng.randint(1, 30), world, state, **options)
        found += digests
        lost, _ = run_world(datasets, rng.randint(0, 2), world, state, **options)
        assert tuple(lost) == whole[len(found) : len(found) + len(lost)]
        state = json.loads(json.dumps(state))
    assert tuple(found) == whole[: len(found)]


def lanes_of(datasets: Any, steps: int, world: int = 1, **options: Any) -> list[list[tuple[int, list[int]]]]:
    """For each lane the head-0 labels of its documents, in order, each with the step that it begins at.

    The last document may be cut short.
    """
    batch = options["batch"]
    loaders = [loader_of(datasets, rank=rank, world=world, **options) for rank in range(world)]
    streams: list[list[tuple[int, int]]] = [[] for _ in range(batch)]
    for step in range(steps):
        for rank, loader in enumerate(loaders):
            arrays = next(loader).arrays
            for row, lane in enumerate(range(rank, batch, world)):
                labelled = arrays.weights[row, :, 0] > 0
                streams[lane] += [(step, symbol) for symbol in arrays.labels[row, labelled, 0].tolist()]
    return [list(documents_in(stream)) for stream in streams]


def documents_in(stream: list[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """Cut at eos; closers are dropped."""
    for ends, items in groupby(stream, key=lambda item: item[1] == 2):
        if not ends:
            document = list(items)
            yield document[0][0], [symbol for _, symbol in document if symbol not in (13, 15)]


@pytest.mark.parametrize("mode", [Mode.BYTES, Mode.COMP_ONLY])
@pytest.mark.parametrize("world", [1, 3])
def test_each_training_document_is_shown_whole_once_an_epoch(mode: Mode, world: int) -> None:
    dataset = numbered_dataset(0, groups=70, rows=3, longest=20)
    rows = [row for group in dataset.groups for row in group]
    options = {"batch": 6, "sequence": 50, "val_fraction": 0.2, "mode": mode, "seed": 4}
    steps = steps_of_epochs([dataset], 3, **options) + 8  # the last document of an epoch may be cut
    shown = lanes_of(dataset, steps, world, **options)
    kept = [split_uniform(document_id(row.raw)) >= 0.2 for row in rows]
    assert 20 < kept.count(False) < 70
    at = [0] * 6
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for lane, units in enumerate(plain_deal(dataset, index=0, seed=4, lanes=6, epoch=epoch)):
            count = sum(kept[3 * unit + row] for unit in units for row in range(3))
            for _, symbols in shown[lane][at[lane] : at[lane] + count]:
                number = number_of(symbols)
                row = rows[number]
                assert symbols == ([64 + byte for byte in row.raw] if mode is Mode.BYTES else row.comp)
                seen[number] += 1
            at[lane] += count
        assert seen == Counter(number for number in range(len(rows)) if kept[number])


def expected_shares(mode: Mode, step: int, ramp: int) -> tuple[float, float, float]:
    """Probabilities of a pair, comp alone, raw alone, by the design's words."""
    rate = 0.4 + 0.5 * min(step / ramp, 1)
    pairing = mode is Mode.ALWAYS_PAIR or (mode is not Mode.NEVER_PAIR and step < ramp)
    if not pairing:
        return 0, rate, 1 - rate
    if rate > 0.5:
        return 1 / rate - 1, 2 - 1 / rate, 0
    return rate / (1 - rate), 0, 1 - rate / (1 - rate)


@pytest.mark.parametrize("mode", [Mode.PROXY, Mode.NEVER_PAIR, Mode.ALWAYS_PAIR, Mode.NO_SENTINELS])
def test_shares_of_views_are_r_within_three_sigma_at_every_stage_of_the_schedule(mode: Mode) -> None:
    dataset, ramp = random_dataset(8, groups=600, longest=8), 120
    loader = loader_of(dataset, mode=mode, ramp=ramp, batch=16, sequence=64, seed=1)
    stages = [(0, 12), (12, 40), (40, 80), (80, 120), (120, 150)]  # r .4, to .5, beyond, to .9, after the ramp
    for first, last in stages:
        drawn, mean, variance, wanted = np.zeros(3), np.zeros(3), np.zeros(3), []
        for step in range(first, last):
            counts = next(loader).counts
            found = np.array([counts.pairs, counts.comp_documents, counts.raw_documents])
            shares = np.array(expected_shares(mode, step, ramp))
            assert not found[shares == 0].any()
            drawn += found
            mean += found.sum() * shares
            variance += found.sum() * shares * (1 - shares)
            wanted += [0.4 + 0.5 * min(step / ramp, 1)] * int(found.sum())
        assert drawn.sum() > 400
        assert (abs(drawn - mean) <= 3 * np.sqrt(variance)).all(), (first, last)
        rate = float(np.mean(wanted))
        comp_views, views = drawn[0] + drawn[1], 2 * drawn[0] + drawn[1] + drawn[2]
        assert abs(comp_views / views - rate) < 3 * (rate * (1 - rate) / drawn.sum()) ** 0.5


def test_sources_are_the_keyed_draws_and_their_shares_the_weights() -> None:
    weights = (0.5, 2.0, 1.5)
    datasets = [numbered_dataset(1000 * n, groups=40, rows=3, longest=4) for n in range(3)]
    options = {"batch": 6, "sequence": 64, "val_fraction": 0.0, "mode": Mode.BYTES, "seed": 9, "weights": weights}
    shown = lanes_of(datasets, 150, 2, **options)
    counts: Counter[int] = Counter()
    for lane, documents in enumerate(shown):
        found = [number_of(symbols) // 1000 for _, symbols in documents[:-1]]
        draws = [uniform(draw_u64("source", seed=9, record=n, piece=lane)) for n in range(len(found))]
        assert found == [0 if u < 0.125 else 1 if u < 0.625 else 2 for u in draws]
        counts.update(found)
    total = counts.total()
    assert total > 2000
    for source, share in enumerate((0.125, 0.5, 0.375)):
        assert abs(counts[source] - total * share) < 3 * (total * share * (1 - share)) ** 0.5


GROUPS, ROWS, FILE = 320, 4, 8  # row groups, rows in each, row groups of a source file


def displacement(order: list[int]) -> float:
    """Mean distance of a document from its stored place, as a share of what a random permutation has (n / 3)."""
    return float(np.abs(np.argsort(order) - np.arange(len(order))).mean() / (len(order) / 3))


def neighbours(batches: list[list[tuple[int, int]]]) -> float:
    """Of the pairs of documents in a batch that are of different lanes, the share of the same source file."""
    same = pairs = 0
    for documents in batches:
        for at, (lane, number) in enumerate(documents):
            for other, beside in documents[:at]:
                if other != lane:
                    pairs += 1
                    same += number // (ROWS * FILE) == beside // (ROWS * FILE)
    return same / pairs


def test_the_shuffle_is_nearly_as_good_as_a_full_permutation() -> None:
    dataset = numbered_dataset(0, groups=GROUPS, rows=ROWS, longest=8)
    options = {"batch": 16, "sequence": 64, "val_fraction": 0.0, "mode": Mode.BYTES, "seed": 2}
    steps = steps_of_epochs([dataset], 2, **options) + 4
    shown = lanes_of(dataset, steps, **options)
    begun = [(step, lane, symbols) for lane, documents in enumerate(shown) for step, symbols in documents[:-1]]
    orders: tuple[list[int], list[int]] = [], []
    batches: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    times: Counter[int] = Counter()
    for step, lane, symbols in sorted(begun, key=lambda item: item[:2]):  # stable: in order within a lane
        number = number_of(symbols)
        if times[number] < 2:  # the third epoch is begun only
            orders[times[number]].append(number)
            batches[step].append((lane, number))
        times[number] += 1
    full = list(range(GROUPS * ROWS))
    random.Random(0).shuffle(full)
    assert displacement(full) == pytest.approx(1, abs=0.1)
    for order in orders:
        assert sorted(order) == sorted(full)
        assert displacement(order) == pytest.approx(1, abs=0.1)
        # Rows inside their group: three neighbours as stored are a quarter of the orders' pairs at random.
        groups = [[number for number in order if number // ROWS == group] for group in range(GROUPS)]
        in_order = sum(b - a == 1 for group in groups for a, b in pairwise(group))
        assert in_order / (GROUPS * (ROWS - 1)) == pytest.approx(0.25, abs=0.06)
    ranks = np.argsort(orders[0]), np.argsort(orders[1])
    assert abs(float(np.corrcoef(*ranks)[0, 1])) < 0.1  # epochs have little to do with each other
    numbers = iter(full + full[::-1])
    permuted = [[(lane, next(numbers)) for lane, _ in documents] for documents in batches]
    assert neighbours(permuted) == pytest.approx(FILE / GROUPS, rel=0.25)
    assert neighbours(batches) == pytest.approx(neighbours(permuted), rel=0.3)


def test_the_first_batch_after_a_resume_late_in_an_epoch_reads_as_little_as_at_its_start() -> None:
    dataset = numbered_dataset(0, groups=400, rows=3, longest=20)
    options = {"batch": 8, "sequence": 256}

    def reads_of_the_next_batch(state: Any) -> int:
        loader = loader_of(dataset, **options)
        dataset.read_ordinals.clear()  # what the start counts in small datasets
        if state is not None:
            loader.load_state(state)
        next(loader)
        return len(dataset.read_ordinals)

    loader = loader_of(dataset, **options)
    while loader.epochs[0] < 0.9:
        next(loader)
    assert loader.epochs[2] < 1
    at_start, late = reads_of_the_next_batch(None), reads_of_the_next_batch(json.loads(json.dumps(loader.state())))
    assert 8 <= at_start < 80
    assert 8 <= late <= 2 * at_start


def test_the_state_of_100_lanes_and_two_datasets_stays_below_8_kb_a_dataset() -> None:
    datasets = [numbered_dataset(1000 * n, groups=120, rows=3, longest=4) for n in range(2)]
    loader = loader_of(datasets, batch=100, weights=(1.0, 1.0))
    for _ in range(20):
        next(loader)
    assert len(json.dumps(loader.state())) < 2 * 8192


@pytest.fixture(scope="module")
def long_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 documents of 1 MiB, each a row group."""
    folder, rng = tmp_path_factory.mktemp("long"), random.Random(3)
    (folder / "corpus").mkdir()
    words = [f"name_{n} = value[{n}]\n" for n in range(50)]
    for n in range(24):
        text = "".join(rng.choices(words, k=60_000)).encode()[: 1 << 20]
        assert len(text) == 1 << 20
        (folder / "corpus" / f"{n:02d}.py").write_bytes(text)
    return preprocessed(folder / "corpus", folder / "data", "neural", row_group_bytes=1 << 20)


def test_memory_is_flat_and_within_the_bound_that_is_told_for_documents_of_1_mib(long_documents: Path) -> None:
    options = LoaderOptions(
        data=(str(long_documents),), batch=4, sequence=8192, steps=100, ramp=10**6, prefetch=2, val_fraction=0.0
    )
    with Loader(options) as warm:  # what the first calls of libraries and compiled loops keep is not the loader's
        next(warm)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with Loader(options) as loader:
            peaks = []
            for epoch in (1, 2, 3):
                tracemalloc.reset_peak()
                while loader.epochs[0] < epoch:
                    next(loader)
                peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert f"at most {loader.memory_bytes / 2**20:,.0f} MiB" in loader.notes[-1]
    assert 4 << 20 < max(peaks) <= loader.memory_bytes < 80 << 20
    assert peaks[2] <= 1.1 * max(peaks[:2])


# Streams of batches are a promise: a change of any of these makes runs that were saved go on differently.
GOLDEN = {
    Mode.PROXY: "9e350aea71023ef0",
    Mode.NEVER_PAIR: "77de0ab32b335e04",
    Mode.ALWAYS_PAIR: "87257a536f706cb7",
    Mode.COMP_ONLY: "3a10a6f717fc7743",
    Mode.BYTES: "fc96a9696ed71849",
    Mode.NO_SENTINELS: "567ba2f2d92f3dd8",
}


@pytest.mark.parametrize("mode", list(Mode))
def test_batches_are_the_golden_ones(mode: Mode) -> None:
    loader = loader_of(list(one_dataset()), **{**MIXED, "mode": mode, "batch": 6})
    digests = [digest(batch.arrays) + repr(batch.counts) for batch in take(loader, 100)]
    assert digest([np.frombuffer("".join(digests).encode(), np.uint8)])[:16] == GOLDEN[mode]


def take(loader: Loader, count: int) -> list[Batch]:
    return [next(loader) for _ in range(count)]
