"""Packing against a plain twin; aligned parts; labels and weights by the formulas."""

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import pytest
from data_fixtures import MemoryDataset, Row, Slot, make_row, random_dataset, twin_labels, twin_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UserError
from trainer.data import kernels, page_kernels, parts
from trainer.data.batch import Arrays, Counts
from trainer.data.lanes import Cursor, Deals
from trainer.data.packing import BatchWriter, Layout
from trainer.data.parts import choose_part, part_of_one
from trainer.data.rendering import Rendering
from trainer.data.sequences import Lane
from trainer.data.views import Mode, Schedule, View

SEED = 1


def documents(dataset: MemoryDataset) -> Iterator[tuple[Row, Any, int]]:
    """The endless documents of the only lane."""
    cursor = Cursor(dataset, Deals(dataset, index=0, seed=SEED, lanes=1), 0, SEED, 0.0, ("raw",))
    while True:
        document = cursor.document()
        yield dataset.groups[int(document.key.source)][document.key.record], document.key, cursor.epoch
        cursor.finish()


def packed(dataset: MemoryDataset, schedule: Schedule, layout: Layout, steps: int) -> tuple[Arrays, Counts]:
    """Sequences of the only lane at steps 0, 1, ..., as one batch."""
    cursor = Cursor(dataset, Deals(dataset, index=0, seed=SEED, lanes=1), 0, SEED, 0.0, schedule.mode.columns)
    lane, writer = Lane(0, [cursor], [1.0], schedule), BatchWriter(steps, layout)
    for step in range(steps):
        lane.fill(writer, step)
    return writer.finish(), writer.counts


def twin(dataset: MemoryDataset, schedule: Schedule, layout: Layout, steps: int) -> list[list[Slot]]:
    return twin_sequences(
        documents(dataset), schedule, steps, layout.sequence, layout.pair_symbols, schedule.mode.sentinels
    )


def field(sequences: list[list[Slot]], name: str) -> list[list[int]]:
    return [[getattr(slot, name) for slot in sequence] for sequence in sequences]


@st.composite
def cases(draw: Any) -> tuple[MemoryDataset, Schedule, Layout]:
    length = draw(st.integers(16, 80))
    main, raw = draw(st.integers(1, 4)), draw(st.integers(0, 4))
    mode = draw(st.sampled_from(list(Mode)))
    layout = Layout(
        sequence=length,
        main_heads=main,
        raw_heads=raw,
        sentinels=mode.sentinels,
        pair_symbols=draw(st.integers(1, length)),
        reference_loss=draw(st.booleans()),
    )
    longest = draw(st.sampled_from([3, 20, 150]))
    dataset = random_dataset(draw(st.integers(0, 10**6)), 5, longest=longest, spans=draw(st.integers(0, 3)) > 0)
    if not dataset.raw_bytes.sum():
        dataset = MemoryDataset([[Row(b"ab", [320, 321], [1, 1])]])
    return dataset, Schedule(mode=mode, ramp=draw(st.sampled_from([0, 5, 1000])), seed=SEED), layout


@settings(max_examples=150, deadline=None)
@given(cases())
def test_all_arrays_are_those_of_the_plain_twin(case: tuple[MemoryDataset, Schedule, Layout]) -> None:
    dataset, schedule, layout = case
    steps = 12
    arrays, counts = packed(dataset, schedule, layout, steps)
    sequences = twin(dataset, schedule, layout, steps)
    for name, array in (("id", arrays.ids), ("view", arrays.view), ("doc", arrays.doc), ("position", arrays.position)):
        assert array.tolist() == field(sequences, name), name
    expected = [
        [twin_labels(slot, layout.main_heads, layout.raw_heads, layout.reference_loss) for slot in sequence]
        for sequence in sequences
    ]
    assert arrays.labels.tolist() == [[labels for labels, _ in sequence] for sequence in expected]
    assert np.array_equal(arrays.weights, np.array([[w for _, w in sequence] for sequence in expected], np.float32))
    assert [array.dtype for array in arrays] == [np.int32, np.int32, np.int32, np.uint8, np.int32, np.float32]
    total = counts.raw_symbols + counts.comp_symbols + counts.unviewed_symbols + counts.reopened + counts.padding
    assert total == arrays.ids.size
    assert counts.targets == int((arrays.weights.sum(-1) > 0).sum())
    assert counts.raw_view_bytes == int(((arrays.view == 0) & (arrays.ids >= 64)).sum())


@settings(max_examples=80, deadline=None)
@given(cases())
def test_each_symbol_except_bos_and_openers_is_a_head_0_label_once(case: tuple[Any, Schedule, Layout]) -> None:
    dataset, schedule, layout = case
    if layout.reference_loss:
        return
    arrays, _ = packed(dataset, schedule, layout, 12)
    found = arrays.labels[..., 0][arrays.weights[..., 0] > 0].tolist()
    renderings = {
        id(slot.rendering): slot.rendering for sequence in twin(dataset, schedule, layout, 12) for slot in sequence
    }
    expected = [
        symbol for rendering in renderings.values() if rendering for symbol, _ in rendering if symbol not in (1, 12, 14)
    ]
    assert len(found) >= 12
    assert found == expected[: len(found)]  # the last rendering goes on in the next sequence
    ends = [len(r) for r in renderings.values() if r]
    assert len(expected) - len(found) <= max(ends[-1:], default=0)


class OnlyPairs(Schedule):
    """Every document is a pair."""

    def rate(self, step: int) -> float:
        return 0.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(16, 64))
def test_parts_of_pairs_cover_each_document_once_and_hold_whole_twins(seed: int, pair_symbols: int) -> None:
    dataset = random_dataset(seed, 6, longest=200)
    if not dataset.raw_bytes.sum():
        return
    layout = Layout(sequence=64, main_heads=1, raw_heads=1, sentinels=True, pair_symbols=pair_symbols)
    schedule = OnlyPairs(mode=Mode.ALWAYS_PAIR, ramp=0, seed=SEED)
    arrays, counts = packed(dataset, schedule, layout, 40)
    shown = documents(dataset)
    row = next(shown)[0]
    parts, raw_at, comp_at = 0, 0, 0
    for ids, docs in zip(arrays.ids, arrays.doc, strict=True):
        for doc in range(docs[-1] + 1):
            part = ids[docs == doc].tolist()
            if part[0] == 0:
                assert doc == docs[-1]  # padding only ends a sequence
                continue
            assert (part[0], part[-1]) == (1, 2)  # whole: no part is cut
            parts += 1
            raw = bytes(symbol - 64 for symbol in part[part.index(12) + 1 : part.index(13)])
            comp = part[part.index(14) + 1 : part.index(15)]
            assert row.raw[raw_at:].startswith(raw)
            assert row.comp[comp_at : comp_at + len(comp)] == comp
            assert sum(row.spans[comp_at : comp_at + len(comp)]) == len(raw)
            raw_at, comp_at = raw_at + len(raw), comp_at + len(comp)
            if comp_at == len(row.comp):
                assert raw_at == len(row.raw)
                row, raw_at, comp_at = next(shown)[0], 0, 0
    assert counts.parts == parts
    assert counts.raw_view_bytes == counts.comp_view_bytes


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 7, 40, 300]), min_size=1, max_size=60),
    st.integers(16, 100),
    st.data(),
)
def test_chosen_parts_follow_the_rule(spans_list: list[int], length: int, data: st.DataObject) -> None:
    spans = np.array([max(1, spans_list[0]), *spans_list[1:]], np.uint16)
    pair_symbols, left = data.draw(st.integers(1, length)), data.draw(st.integers(1, length))
    bounds = [*np.flatnonzero(spans).tolist(), len(spans)]
    for start, following in pairwise(bounds):
        costs = {b: int(spans[start:b].sum()) + b - start + 6 for b in bounds if b > start}
        limit = min(left, pair_symbols)
        end = max((b for b in costs if costs[b] <= limit), default=following)
        pads = limit < min(costs[len(spans)], pair_symbols / 8) or left < costs[end] <= length
        part = choose_part(
            spans,
            start,
            cost_left=costs[len(spans)],
            left=left,
            sequence=length,
            pair_symbols=pair_symbols,
            sentinels=6,
        )
        if pads:
            assert part is None
            assert left < length
        else:
            assert part is not None
            assert (part.start, part.end, part.cost) == (start, end, costs[end])
            assert part.raw_bytes == int(spans[start:end].sum())
        one = part_of_one(spans, start, 6)
        assert (one.end, one.cost) == (following, costs[following])


@pytest.mark.parametrize(("left", "end"), [(7, None), (8, 1), (9, 1), (10, 2)])
def test_an_eighth_of_pair_symbols_is_enough_for_a_part(left: int, end: int | None) -> None:
    spans = np.ones(50, np.uint16)
    part = choose_part(spans, 0, cost_left=106, left=left, sequence=100, pair_symbols=64, sentinels=6)
    assert (part and part.end) == end


def test_only_a_symbol_that_costs_more_than_a_sequence_is_cut() -> None:
    rng = random.Random(0)
    dataset = MemoryDataset([[make_row(rng, [1, 2, 300, 1, 1])]])
    layout = Layout(sequence=64, main_heads=1, raw_heads=1, sentinels=True, pair_symbols=32)
    arrays, counts = packed(dataset, Schedule(mode=Mode.ALWAYS_PAIR, ramp=0, seed=3), layout, 30)
    assert counts.reopened > 0
    assert counts.pairs >= 1
    cut = arrays.ids[:, 0]
    assert set(cut.tolist()) <= {1, 12, 14, 15, 2}


def test_spans_that_do_not_sum_to_the_bytes_are_damage_named_by_document() -> None:
    dataset = MemoryDataset([[Row(b"abcdef", [320, 321], [1, 9])], [Row(b"abcdeg", [320, 321], [1, 1])]])
    layout = Layout(sequence=64, main_heads=1, raw_heads=1, sentinels=True, pair_symbols=32)
    with pytest.raises(UserError, match=r"row group \d: document [0-9a-f]{32}: its spans do not sum"):
        packed(dataset, Schedule(mode=Mode.ALWAYS_PAIR, ramp=0, seed=3), layout, 30)


def test_without_spans_covered_bytes_are_the_mean_of_the_row() -> None:
    dataset = MemoryDataset([[Row(bytes(1000), [320] * 100, None)]])
    layout = Layout(sequence=52, main_heads=1, raw_heads=0, sentinels=True, pair_symbols=26)
    arrays, counts = packed(dataset, Schedule(mode=Mode.COMP_ONLY, ramp=0, seed=3), layout, 1)
    assert arrays.ids[0, :2].tolist() == [1, 14]
    assert counts.comp_view_bytes == pytest.approx(500)
    assert counts.comp_symbols == 51
    assert counts.raw_equivalent_bytes == pytest.approx(500)


def test_covered_bytes_are_exact_where_a_re_opener_takes_the_place_of_the_last_comp_symbol() -> None:
    long, other = Row(bytes(56), [320] * 16, [1, 6] * 8), Row(bytes(10), [321] * 10, [1] * 10)
    group = MemoryDataset([[long, other]]).read(0, ("comp", "spans"))
    first, second = (Rendering(group.document(row), View.COMP, sentinels=True) for row in (1, 0))
    layout = Layout(sequence=16, main_heads=1, raw_heads=1, sentinels=True, pair_symbols=8)
    writer = BatchWriter(2, layout)
    writer.open_row()
    assert (writer.place(first, 0), writer.place(second, 0), writer.left) == (14, 2, 0)
    writer.open_row()
    assert (writer.place(second, 2), writer.left) == (15, 0)  # behind the opener, again
    arrays = writer.finish()
    assert arrays.ids[1].tolist() == [14, *[320] * 15]
    assert writer.counts.comp_view_bytes == 10 + 50
    assert writer.counts.reopened == 1


def test_covered_bytes_of_a_part_that_is_cut_are_those_of_its_own_spans() -> None:
    row = Row(bytes(44), [320] * 23, [3, 40, *[0] * 20, 1])
    document = MemoryDataset([[row]]).read(0, ("raw", "comp", "spans")).document(0)
    part = part_of_one(np.array(row.spans, np.uint16), 1, 6)
    rendering = Rendering(document, View.COMP_RAW, sentinels=True, part=part, raw_start=3)
    layout = Layout(sequence=16, main_heads=1, raw_heads=1, sentinels=True, pair_symbols=16)
    writer, covered = BatchWriter(5, layout), []
    at = 0
    while at < rendering.length:
        writer.open_row()
        at += writer.place(rendering, at)
        covered.append(float(writer._covered[1]))
    writer.pad()
    writer.finish()
    assert covered == [40, 40, 40, 40, 40]
    assert writer.counts.comp_view_bytes == writer.counts.raw_view_bytes == 40


def test_many_short_documents_in_a_batch_have_room() -> None:
    dataset = MemoryDataset([[Row(b"a", [320], [1])]])
    layout = Layout(sequence=5000, main_heads=1, raw_heads=1, sentinels=True, pair_symbols=9)
    arrays, counts = packed(dataset, Schedule(mode=Mode.BYTES, ramp=0, seed=SEED), layout, 2)
    assert arrays.doc[0].max() == 999
    assert arrays.ids.reshape(-1, 5).tolist() == [[1, 12, 64 + ord("a"), 13, 2]] * 2000
    assert counts.raw_documents == 2000


@pytest.mark.parametrize("module", [kernels, page_kernels, parts])
def test_compiled_loops_leave_other_threads_running_and_are_kept_on_disk(module: Any) -> None:
    loops = [item for item in vars(module).values() if isinstance(item, numba.core.registry.CPUDispatcher)]
    assert loops
    for loop in loops:
        assert loop.targetoptions["nogil"], loop
        assert loop._cache.cache_path
