"""The loader: the same batches for every world size, prefetch depth and restart; state; refusals."""

import itertools
import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from data_fixtures import (
    MemoryDataset,
    Row,
    loader_of,
    made_dataset,
    make_row,
    number_of,
    numbered_dataset,
    random_dataset,
    run_world,
)

from schemas.draws import draw_u64, split_uniform, uniform
from schemas.errors import UserError
from schemas.vocabulary import BYTE_OFFSET, BYTES, COMP_OFFSET, COMP_OPEN, RAW_OPEN
from trainer.data.batch import Counts
from trainer.data.loader import Loader
from trainer.data.options import LoaderOptions
from trainer.data.state import merge_states
from trainer.data.views import Mode


@pytest.fixture(scope="module")
def dataset() -> MemoryDataset:
    """Short documents and, in each fourth group, one of more than 20 sequences of 64 ids."""
    made = random_dataset(11, groups=32, longest=120)
    rng = random.Random(5)
    for n in range(0, 32, 4):
        made.groups[n] = [make_row(rng, [rng.choice([0, 1, 2, 3]) if k else 1 for k in range(1500)])]
    return MemoryDataset(made.groups)


@pytest.fixture(scope="module")
def undisturbed(dataset: MemoryDataset) -> list[str]:
    return run_world(dataset, 90, 1)[0]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("prefetch", [0, 8])
def test_batches_are_the_same_for_every_world_size_and_prefetch(
    dataset: MemoryDataset, undisturbed: list[str], world: int, prefetch: int
) -> None:
    assert run_world(dataset, 40, world, prefetch=prefetch)[0] == undisturbed[:40]


def test_three_resumes_at_other_world_sizes_change_nothing(dataset: MemoryDataset, undisturbed: list[str]) -> None:
    found, state, inside, step = [], None, 0, 0
    for world, steps in ((2, 23), (4, 17), (1, 21), (2, 29)):  # ramp 60: the first three end inside it
        digests, state = run_world(dataset, steps, world, json.loads(json.dumps(state)), prefetch=3)
        found += digests
        step += steps
        inside += sum(numbers[5] >= 0 and step - numbers[5] > 8 for numbers in state["lanes"].values())
    assert found == undisturbed
    assert inside > 0  # some resume was in the middle of a long document


def long_pairs() -> MemoryDataset:
    """Documents of which one as a pair takes about 40 sequences of 64 ids."""
    rng = random.Random(1)
    return MemoryDataset([[make_row(rng, [rng.choice([1, 2, 3]) for _ in range(800)])] for _ in range(24)])


def forget_drawn_step(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a loader that draws anew, at the step of the resume, for the document it is in."""
    lanes = {lane: [*numbers[:5], state["step"] if numbers[5] >= 0 else -1] for lane, numbers in state["lanes"].items()}
    return {**state, "lanes": lanes}


def test_a_pair_begun_before_the_ramps_end_stays_one_after_a_resume_beyond_it() -> None:
    dataset = long_pairs()
    options = {"ramp": 60, "seed": 2}
    whole, _ = run_world(dataset, 110, 1, **options)
    first, state = run_world(dataset, 70, 2, **options)
    begun = [numbers for numbers in state["lanes"].values() if 0 <= numbers[5] < 60 and numbers[3] > 0]
    assert begun  # inside a pair that was drawn while pairing was on
    rest, _ = run_world(dataset, 40, 4, json.loads(json.dumps(state)), **options)
    assert first + rest == whole
    wrong, _ = run_world(dataset, 40, 4, forget_drawn_step(state), **options)
    assert first + wrong != whole  # the state without drawn_step would not do


def test_killed_inside_the_ramp_and_inside_a_pair() -> None:
    dataset = long_pairs()
    options = {"ramp": 60, "seed": 2}
    whole, _ = run_world(dataset, 80, 1, **options)
    first, state = run_world(dataset, 58, 1, **options)
    assert any(numbers[3] > 0 for numbers in state["lanes"].values())
    second, state = run_world(dataset, 3, 4, state, **options)
    rest, _ = run_world(dataset, 19, 2, state, **options)
    assert first + second + rest == whole


def test_state_is_after_the_last_batch_handed_out_and_small(dataset: MemoryDataset) -> None:
    eager, lazy = loader_of(dataset, prefetch=8), loader_of(dataset)
    assert eager.state() == lazy.state()
    for _ in range(5):
        next(eager), next(lazy)
        assert eager.state() == lazy.state()
        assert eager.step == lazy.step
    eager.close()
    assert eager.state() == lazy.state()
    assert np.array_equal(next(eager).arrays.ids, next(lazy).arrays.ids)  # goes on after close
    eager.close()


def test_the_state_of_100_lanes_is_below_8_kb() -> None:
    made = random_dataset(4, groups=120)
    loader = loader_of(made, batch=100)
    for _ in range(30):
        next(loader)
    # Numbers of a long run: every one has its most digits.
    state = loader.state()
    state["lanes"] = {lane: [12, 9999, 99, 99_999, 999_999, 99_999] for lane in state["lanes"]}
    assert len(json.dumps(state)) < 8192


def test_a_resume_reads_only_the_row_groups_it_stands_in(dataset: MemoryDataset) -> None:
    _, state = run_world(dataset, 60, 1)
    dataset.read_ordinals.clear()
    loader = loader_of(dataset)
    checked = len(dataset.read_ordinals)  # counts documents of small datasets
    loader.load_state(state)
    next(loader)
    assert len(dataset.read_ordinals) - checked <= 2 * 4


def test_a_resume_of_another_run_is_refused_with_the_differences(dataset: MemoryDataset) -> None:
    loader = loader_of(dataset)
    next(loader)
    state = loader.state()
    for option, value, text in (
        ("sequence", 65, "sequence 64 -> 65"),
        ("batch", 2, "batch 4 -> 2"),
        ("seed", 2, "seed 1 -> 2"),
        ("val_fraction", 0.01, "val_fraction 0.005 -> 0.01"),
        ("mode", Mode.NEVER_PAIR, "mode proxy -> never-pair"),
        ("ramp", 7, "ramp 60 -> 7"),
        ("steps", 100, "ramp 60 -> 20"),
        ("pair_symbols", 10, "pair_symbols 32 -> 10"),
    ):
        with pytest.raises(UserError, match=f"other data or options .*{text}.*--afresh"):
            loader_of(dataset, **{option: value}).load_state(state)
    other = MemoryDataset([*dataset.groups[1:], dataset.groups[0]])
    with pytest.raises(UserError, match=r"datasets\[0\].row_groups"):
        loader_of(other).load_state(state)
    with pytest.raises(UserError, match="number of datasets 1 -> 2"):
        loader_of([dataset, dataset]).load_state(state)
    proxy = MemoryDataset(dataset.groups, proxy="other", symbols=200)
    with pytest.raises(UserError, match=r"proxy memory -> other.*vocabulary 420 -> 520"):
        loader_of(proxy).load_state(state)
    for same in ({"main_heads": 3, "raw_heads": 2}, {"micro_batch": 2}, {"prefetch": 4}):
        again = loader_of(dataset, **same)
        again.load_state(state)
        again.close()


def test_a_state_of_one_rank_or_of_a_newer_program_is_refused(dataset: MemoryDataset) -> None:
    one = loader_of(dataset, world=2, rank=0)
    next(one)
    with pytest.raises(UserError, match="lane 1 is not in the saved state"):
        loader_of(dataset).load_state(one.state())
    with pytest.raises(UserError, match="version 2"):
        loader_of(dataset).load_state({**one.state(), "version": 2})
    two = loader_of(dataset, world=2, rank=1)
    with pytest.raises(ValueError, match="different steps"):
        merge_states([one.state(), two.state()])


def test_several_datasets_are_mixed_by_weight_and_resume_exactly(dataset: MemoryDataset) -> None:
    pair = [random_dataset(21, groups=40), dataset, random_dataset(22, groups=16)]
    options = {"weights": (2.0, 1.0, 5.0), "sequence": 128}
    whole, state = run_world(pair, 60, 1, **options)
    first, state = run_world(pair, 31, 2, **options)
    second, state = run_world(pair, 14, 4, json.loads(json.dumps(state)), prefetch=2, **options)
    rest, state = run_world(pair, 15, 1, state, **options)
    assert first + second + rest == whole
    assert all(len(numbers) == 19 for numbers in state["lanes"].values())


def test_sources_are_drawn_in_the_share_of_their_weights() -> None:
    one, two = (MemoryDataset([[Row(bytes([n]) * 4, [320], [4])] for _ in range(8)]) for n in (1, 2))
    loader = loader_of([one, two], weights=(1.0, 3.0), mode=Mode.BYTES, val_fraction=0.0)
    ids = np.concatenate([next(loader).arrays.ids for _ in range(60)])
    share = (ids == 64 + 2).sum() / ((ids == 64 + 1).sum() + (ids == 64 + 2).sum())
    documents = ids.size / 8
    assert abs(share - 0.75) < 3 * (0.75 * 0.25 / documents) ** 0.5


@pytest.mark.parametrize(
    ("mode", "ramp", "rate"),
    [
        (Mode.PROXY, 10**9, 0.4),
        (Mode.PROXY, 0, 0.9),
        (Mode.ALWAYS_PAIR, 0, 0.9),
        (Mode.NEVER_PAIR, 10**9, 0.4),
        (Mode.NO_SENTINELS, 0, 0.9),
    ],
)
def test_the_share_of_comp_views_in_batches_is_r(mode: Mode, ramp: int, rate: float) -> None:
    loader = loader_of(random_dataset(8, groups=300, longest=12), mode=mode, ramp=ramp, sequence=256)
    counts = Counts()
    for _ in range(80):
        counts.add(next(loader).counts)
    documents = counts.raw_documents + counts.comp_documents + counts.pairs
    share = (counts.comp_documents + counts.pairs) / (documents + counts.pairs)
    assert documents > 1000
    assert abs(share - rate) < 3 * (rate * (1 - rate) / documents) ** 0.5


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("proxy", ["neural", "bpe", "gzip", "identity"])
def test_all_modes_on_datasets_of_all_proxies(proxy: str, mode: Mode) -> None:
    options = LoaderOptions(data=(str(made_dataset(proxy)),), batch=4, sequence=512, steps=100, mode=mode, prefetch=1)
    if proxy == "identity" and mode is not Mode.BYTES:
        with pytest.raises(UserError, match=f"takes only MODE=bytes, not MODE={mode}"):
            Loader(options)
        return
    with Loader(options) as loader:
        batches = [next(loader) for _ in range(12)]
        ids = np.concatenate([batch.arrays.ids for batch in batches])
        assert ids.max() < loader.vocabulary.size
        assert (loader.vocabulary == BYTES) == (mode is Mode.BYTES)
        views = set(np.unique(np.concatenate([batch.arrays.view for batch in batches])).tolist())
        assert views == {Mode.BYTES: {0, 2}, Mode.COMP_ONLY: {1, 2}}.get(mode, {0, 1, 2})
        assert (mode is Mode.NO_SENTINELS) == (not np.isin(ids, (12, 13, 14, 15)).any())
        assert any("no spans" in note for note in loader.notes) == (
            proxy == "gzip" and mode in (Mode.PROXY, Mode.ALWAYS_PAIR, Mode.NO_SENTINELS)
        )
        assert batches[0].spans_known == (proxy != "gzip" or mode is Mode.BYTES)
        assert any("MiB for 4 lanes" in note for note in loader.notes)
        counts = batches[0].counts
        assert counts.raw_equivalent_bytes > 0
        low, mean, high = batches[-1].epochs
        assert 0 <= low <= mean <= high
        assert loader.epochs == (low, mean, high)


def test_datasets_of_different_proxies_are_refused() -> None:
    data = (str(made_dataset("neural")), str(made_dataset("bpe")))
    with pytest.raises(UserError, match="made with another proxy"):
        Loader(LoaderOptions(data=data, batch=2, sequence=64, steps=10))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"world": 3}, "--batch 4: cannot be shared by 3 processes; use 1, 2, 4 of them, or a batch of 3 or 6"),
        ({"world": 2, "micro_batch": 3}, "--micro-batch 3: does not divide the 2 sequences of a process; use 1, 2"),
        ({"rank": 1}, "rank 1"),
        ({"sequence": 8}, "--sequence 8: expected at least 16"),
        ({"pair_symbols": 65}, "--pair-symbols 65: expected 1 to the sequence's 64"),
        ({"ramp": -1}, "--ramp -1"),
        ({"steps": 0}, "--steps 0"),
        ({"main_heads": 60, "raw_heads": 5}, "at most 64"),
        ({"weights": (1.0, 2.0)}, "2 weights for 1 datasets"),
        ({"weights": (0.0,)}, "--weights 0.0"),
        ({"val_fraction": 1.5}, "--val-fraction 1.5"),
        ({"batch": 99}, "training documents that are not empty, for a batch of 99"),
        ({"batch": 35}, "row groups for a batch of 35"),
    ],
)
def test_options_that_do_not_fit_are_refused(dataset: MemoryDataset, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as error:
        loader_of(dataset, **options)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_in_the_thread_reaches_the_trainer_and_the_state_stays(dataset: MemoryDataset) -> None:
    broken = random_dataset(9, groups=16)

    def fail(*_: object) -> None:
        raise UserError("shard x, row group 3: damaged")

    for prefetch in (0, 4):
        loader = loader_of(broken, prefetch=prefetch, val_fraction=0.0)
        for _ in range(3):
            next(loader)
        state = loader.state()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(broken, "read", fail)
            error = None
            while error is None:  # a lane goes on until it needs the next row group
                state = loader.state()
                try:
                    next(loader)
                except UserError as raised:
                    error = str(raised)
        assert error == "shard x, row group 3: damaged"
        assert loader.state() == state
        loader.close()


def test_micro_batches_are_slices(dataset: MemoryDataset) -> None:
    batch = next(loader_of(dataset, micro_batch=2))
    parts = list(batch.micro_batches(2))
    assert len(parts) == 2
    for name in batch.arrays._fields:
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(batch.arrays, name))


@pytest.mark.parametrize("mode", [Mode.BYTES, Mode.PROXY])
def test_with_little_raw_text_any_world_and_resume_gives_the_same_batches_and_other_states_are_refused(
    dataset: MemoryDataset, mode: Mode
) -> None:
    options = {"mode": mode, "raw_fraction": 0.5, "main_heads": 1, "raw_heads": 0}
    whole, _ = run_world(dataset, 40, 1, **options)
    first, state = run_world(dataset, 25, 2, **options)
    rest, _ = run_world(dataset, 15, 4, json.loads(json.dumps(state)), **options)
    assert first + rest == whole
    usual, _ = run_world(dataset, 40, 1, **{**options, "raw_fraction": 1.0})
    assert usual != whole
    with pytest.raises(UserError, match=r"raw_fraction 0\.5 -> None"):
        loader_of(dataset, **{**options, "raw_fraction": 1.0}).load_state(state)


@pytest.mark.parametrize("mode", [Mode.BYTES, Mode.PROXY, Mode.ALWAYS_PAIR])
def test_raw_bytes_are_those_of_the_documents_that_may_be_shown(dataset: MemoryDataset, mode: Mode) -> None:
    loader = loader_of(dataset, mode=mode, raw_fraction=0.25, val_fraction=0.2, main_heads=1, raw_heads=0)
    may = [raw for raw, is_shown in texts_of(dataset, 0.2, 0.25) if is_shown]
    starts = 0
    for _ in range(60):
        for ids in next(loader).arrays.ids.tolist():
            for at in (place for place, value in enumerate(ids) if value == RAW_OPEN):
                shown = itertools.takewhile(lambda value: BYTE_OFFSET <= value < COMP_OFFSET, ids[at + 1 :])
                text = bytes(value - BYTE_OFFSET for value in shown)
                assert any(text in raw for raw in may)
                starts += len(text) > 8
    assert starts > 20


def test_little_raw_text_is_repeated_while_comp_views_go_through_all_at_the_same_rate() -> None:
    dataset = numbered_dataset(0, groups=60, rows=8, longest=6)
    loader = loader_of(dataset, raw_fraction=0.04, ramp=0, val_fraction=0.1, main_heads=1, raw_heads=0)
    texts = texts_of(dataset, 0.1, 0.04)
    trained = {int(raw[:6]) for raw, _ in texts}
    may = {int(raw[:6]) for raw, is_shown in texts if is_shown}
    raw, comp = Counter[int](), Counter[int]()
    for _ in range(250):  # a sequence may begin inside a document, so its first place is left out
        for ids in next(loader).arrays.ids.tolist():
            for seen, opened, least in ((raw, RAW_OPEN, BYTE_OFFSET), (comp, COMP_OPEN, COMP_OFFSET)):
                for at in (place for place, value in enumerate(ids[:-6]) if value == opened and place):
                    if min(ids[at + 1 : at + 7]) >= least:
                        seen[number_of(ids[at + 1 :])] += 1
    assert 5 < len(may) < 40
    assert set(raw) == may
    assert set(comp) <= trained
    assert len(comp) > 0.8 * len(trained)
    share = comp.total() / (comp.total() + raw.total())
    assert abs(share - 0.9) < 4 * (0.09 / (comp.total() + raw.total())) ** 0.5
    assert raw.total() / len(may) > 2 * comp.total() / len(trained)


def texts_of(dataset: MemoryDataset, val_fraction: float, raw_fraction: float) -> list[tuple[bytes, bool]]:
    """Of the training documents the bytes, and whether they may be shown raw."""
    keyed = [
        (row.raw, key)
        for ordinal, group in enumerate(dataset.groups)
        for row, key in zip(group, dataset.read(ordinal).keys, strict=True)
    ]
    return [
        (raw, uniform(draw_u64("raw-text", seed=1, **key._asdict())) < raw_fraction)
        for raw, key in keyed
        if split_uniform(key.doc_id) >= val_fraction
    ]


def test_two_datasets_with_little_raw_text_go_on_in_any_world() -> None:
    datasets = [numbered_dataset(0, 24, 6, 6), numbered_dataset(500, 24, 6, 6)]
    options = {"raw_fraction": 0.2, "weights": (3.0, 1.0), "ramp": 30}
    whole, _ = run_world(datasets, 60, 1, **options)
    first, state = run_world(datasets, 35, 4, **options)
    assert all(len(numbers) == 4 * 6 + 1 for numbers in state["lanes"].values())
    rest, _ = run_world(datasets, 25, 2, json.loads(json.dumps(state)), **options)
    assert first + rest == whole


def test_comp_views_alone_are_never_short_of_raw_text(dataset: MemoryDataset) -> None:
    whole = loader_of(dataset, mode=Mode.COMP_ONLY, main_heads=1, raw_heads=0)
    few = loader_of(dataset, mode=Mode.COMP_ONLY, raw_fraction=1e-9, main_heads=1, raw_heads=0)  # no document at all
    for _ in range(3):
        assert np.array_equal(next(few).arrays.ids, next(whole).arrays.ids)


def test_a_raw_fraction_that_is_none_is_refused(dataset: MemoryDataset) -> None:
    for fraction in (0.0, 1.1):
        with pytest.raises(UserError, match=rf"--raw-fraction {fraction}: expected more than 0, 1 at most"):
            loader_of(dataset, raw_fraction=fraction)
