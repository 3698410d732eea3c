"""Draws are fixed by formula: golden values made by an independent plain program."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import draws

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "golden.json").read_text())


@pytest.mark.parametrize("expected", GOLDEN["draws"] + GOLDEN["purposes"], ids=lambda value: value["purpose"])
def test_draws_match_golden_values(expected: dict[str, object]) -> None:
    key = {name: expected[name] for name in ("seed", "epoch", "record", "piece", "source")}
    u64 = draws.draw_u64(expected["purpose"], doc_id=bytes.fromhex(expected["doc_id"]), **key)
    assert u64 == expected["u64"]
    assert draws.uniform(u64) == expected["u"]


def test_document_id_matches_golden_value() -> None:
    assert draws.document_id(GOLDEN["doc_id"]["raw"].encode()).hex() == GOLDEN["doc_id"]["hex"]


def test_split_ignores_everything_but_the_document() -> None:
    doc_id = bytes.fromhex(GOLDEN["doc_id"]["hex"])
    assert draws.split_uniform(doc_id) == GOLDEN["purposes"][0]["u"]
    assert draws.may_fit(doc_id)


def test_a_twentieth_of_documents_is_kept_from_fitting() -> None:
    held_out = sum(not draws.may_fit(draws.document_id(b"%d" % n)) for n in range(20_000))
    assert abs(held_out - 1000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_wrong_id_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 16"):
        draws.draw_u64("row", doc_id=b"short")


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_permutation_sorts_by_draw_then_ordinal(values: list[int]) -> None:
    order = draws.permutation(values)
    assert order.dtype == np.int64
    assert order.tolist() == sorted(range(len(values)), key=lambda n: (values[n], n))
