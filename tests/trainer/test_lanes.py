"""Lanes: dealing, permutations, the split; the union over lanes of an epoch is the training split, each once."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import MemoryDataset, Row, plain_deal, random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.draws import document_id, draw_u64, split_uniform
from schemas.errors import UserError
from trainer.data.held_out import is_held_out, sample, training
from trainer.data.lanes import Cursor, Deals, check_lanes, check_val_fraction
from trainer.data.rows import RowKey


def cursor(dataset: Any, deals: Deals, lane: int, val_fraction: float = 0.3) -> Cursor:
    return Cursor(dataset, deals, lane, 1, val_fraction, ("raw", "comp", "spans"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0, 0.6))
def test_the_lanes_of_an_epoch_are_the_training_split_each_once(seed: int, lanes: int, val_fraction: float) -> None:
    dataset = random_dataset(seed, groups=4 * lanes + 3)
    expected = sorted(d.key for d in training(dataset, val_fraction) if d.raw_bytes)
    deals = Deals(dataset, index=0, seed=1, lanes=lanes)
    if not expected:
        return
    found: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for lane in range(lanes):
        place = cursor(dataset, deals, lane, val_fraction)
        while True:
            key = place.document().key
            if place.epoch > 2:
                break
            found[place.epoch].append(key)
            place.finish()
    assert [sorted(keys) for keys in found.values()] == [expected] * 3
    assert len(expected) < 5 or found[0] != found[1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7), st.integers(0, 5))
def test_dealing_is_that_of_the_plain_words(seed: int, lanes: int, epoch: int) -> None:
    dataset = random_dataset(seed, groups=4 * lanes)
    dealt = plain_deal(dataset, index=2, seed=9, lanes=lanes, epoch=epoch)
    deals = Deals(dataset, index=2, seed=9, lanes=lanes)
    assert [deals.units(epoch, lane).tolist() for lane in range(lanes)] == dealt


def test_rows_of_a_group_are_permuted_by_their_own_draws() -> None:
    dataset = MemoryDataset([[Row(b"%d" % n) for n in range(50)]])
    place = cursor(dataset, Deals(dataset, index=0, seed=1, lanes=1), 0, 0.0)
    orders = []
    for _ in range(2):
        orders.append([])
        for _ in range(50):
            orders[-1].append(place.document().key)
            place.finish()
    for epoch, order in enumerate(orders):
        assert order == sorted(
            order,
            key=lambda k: draw_u64(
                "row", seed=1, epoch=epoch, doc_id=k.doc_id, record=k.record, piece=k.piece, source=k.source
            ),
        )
    assert orders[0] != orders[1]


def test_a_cursor_at_a_restored_place_goes_on_there_and_reads_one_row_group() -> None:
    dataset = random_dataset(3, groups=12)
    deals = Deals(dataset, index=0, seed=1, lanes=2)
    place, keys, states = cursor(dataset, deals, 1), [], []
    for _ in range(40):
        keys.append(place.document().key)
        states.append(place.state)
        place.finish()
    for n in (0, 7, 23):
        dataset.read_ordinals.clear()
        again = cursor(dataset, deals, 1)
        again.restore(states[n])
        assert again.document().key == keys[n]
        assert len(dataset.read_ordinals) == 1


def test_the_split_is_by_doc_id_alone() -> None:
    dataset = random_dataset(1, groups=40)
    keys = [key for ordinal in range(len(dataset)) for key in dataset.read(ordinal).keys]
    held = [key for key in keys if is_held_out(key, 0.4)]
    trained = [document.key for document in training(dataset, 0.4)]
    assert held
    assert {key.doc_id for key in held}.isdisjoint(key.doc_id for key in trained)
    assert all(split_uniform(key.doc_id) < 0.4 for key in held)
    assert len(held) + len(trained) == len(keys)


def test_too_few_row_groups_or_documents_are_refused_and_few_groups_warned_about() -> None:
    rng = random.Random(0)
    rows = [Row(rng.randbytes(9)) for _ in range(40)]
    one = MemoryDataset([rows])
    with pytest.raises(UserError, match=r"1 row groups for a batch of 4 .*--row-group-bytes 22"):
        check_lanes(one, 4, 0.0)
    empty = MemoryDataset([[Row(b"")] for _ in range(20)] + [[row] for row in rows[:3]])
    with pytest.raises(UserError, match="3 training documents that are not empty, for a batch of 4"):
        check_lanes(empty, 4, 0.0)
    held = MemoryDataset([[row] for row in rows])
    with pytest.raises(UserError, match="0 training documents"):
        check_lanes(held, 4, 0.9999999)
    assert check_lanes(held, 10, 0.0) == []
    assert "only 40 row groups for 11 lanes" in check_lanes(held, 11, 0.0)[0]


def test_val_fraction_is_checked_against_the_fitting_margin() -> None:
    assert check_val_fraction(0.05) == []
    assert "0.06" in check_val_fraction(0.06)[0]
    for wrong in (-0.1, 1.0):
        with pytest.raises(UserError, match="--val-fraction"):
            check_val_fraction(wrong)


def test_golden_unit_draw() -> None:
    golden = json.loads((Path(__file__).parent.parent / "data" / "golden.json").read_text())["purposes"]
    entry = next(item for item in golden if item["purpose"] == "unit")
    found = draw_u64("unit", seed=entry["seed"], epoch=entry["epoch"], record=entry["record"], piece=entry["piece"])
    assert found == entry["u64"]


def test_lanes_get_about_equal_bytes() -> None:
    dataset = random_dataset(5, groups=400)
    deals = Deals(dataset, index=0, seed=1, lanes=8)
    sizes = [int(dataset.raw_bytes[deals.units(0, lane)].sum()) for lane in range(8)]
    assert max(sizes) - min(sizes) <= int(dataset.raw_bytes.max())
    assert np.concatenate([deals.units(0, lane) for lane in range(8)]).size == 400


def pieces_dataset() -> MemoryDataset:
    """Twelve documents of 1 to 40 pieces, one after another, in row groups of five rows."""
    rng = random.Random(3)
    rows = []
    for record in range(12):
        doc_id = document_id(rng.randbytes(20))
        count = rng.choice((1, 2, 40))
        rows += [Row(rng.randbytes(rng.randint(0, 9)), key=RowKey(doc_id, record, n, "s")) for n in range(count)]
    return MemoryDataset([rows[start : start + 5] for start in range(0, len(rows), 5)])


def chosen(dataset: MemoryDataset, found: dict[int, list[int]]) -> list[tuple[RowKey, int]]:
    keys = []
    for ordinal, numbers in found.items():
        group = dataset.read(ordinal)
        keys += [(group.keys[row], int(group.raw_bytes[row])) for row in numbers]
    return keys


def test_a_sample_is_of_as_many_documents_as_there_are_before_it_has_a_second_piece_of_any() -> None:
    dataset = pieces_dataset()
    everything = chosen(dataset, sample(dataset, 0.5))
    held = {key.doc_id for key, _ in everything}
    assert len(held) >= 4
    rows = [
        (key, int(size))
        for ordinal in range(len(dataset))
        for key, size in zip(dataset.read(ordinal).keys, dataset.read(ordinal).raw_bytes, strict=True)
    ]
    assert everything == [(key, size) for key, size in rows if size and is_held_out(key, 0.5)]  # in stored order
    counts = Counter(key.doc_id for key, _ in everything)
    for count in (1, len(held), len(held) + 2, 3 * len(held)):
        found = Counter(key.doc_id for key, _ in chosen(dataset, sample(dataset, 0.5, count=count)))
        assert sum(found.values()) == min(count, len(everything))
        assert len(found) == min(count, len(held))
        most = max(found.values())
        assert all(found[doc_id] >= min(counts[doc_id], most - 1) for doc_id in held) or count < len(held)
    firsts = {key.piece for key, _ in chosen(dataset, sample(dataset, 0.5, count=len(held)))}
    assert firsts != {0}  # not only beginnings
    assert len(chosen(dataset, sample(dataset, None))) == sum(size > 0 for _, size in rows)


def test_a_sample_by_bytes_ends_where_it_has_them() -> None:
    dataset = pieces_dataset()
    for raw_bytes in (1, 10, 60):
        sizes = [size for _, size in chosen(dataset, sample(dataset, 0.5, raw_bytes=raw_bytes))]
        assert raw_bytes <= sum(sizes) < raw_bytes + 9
    assert len(chosen(dataset, sample(dataset, 0.5, raw_bytes=0))) == 1
    assert sample(MemoryDataset([[Row(b"")]]), None, count=3) == {}
