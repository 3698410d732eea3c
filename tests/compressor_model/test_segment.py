"""Entropy segmentation: the compiled tables against their definition, distillation, thresholds, the LM's own."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compressor_model import segment
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.segment import TABLE_BITS, UNSEEN, EntropyTable, LMSegmenter, Segmenter, TableSegmenter
from compressor_model.text import I64, U8, Text

COMPRESSOR = open_compressor(PRETRAINED)
SOURCE = (segment.__doc__ or "").encode() + b"\n\ndef f(x: int) -> str:\n    return '%d' % x\n" * 3
DOCUMENTS = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.text("ab \n", max_size=60).map(str.encode),
        st.integers(0, len(SOURCE)).map(lambda at: SOURCE[at : at + 100]),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module", params=[2, 3, 4])
def table(request: pytest.FixtureRequest) -> EntropyTable:
    """Tables of random entropies, half of them unseen."""
    rng = np.random.default_rng(request.param)
    tables = rng.integers(0, 128, (request.param, 1 << TABLE_BITS), np.uint8)
    tables[rng.random(tables.shape) < 0.5] = UNSEEN
    return EntropyTable(tables=tables, fallback=7, threshold=60)


def slot(data: bytes, at: int, order: int) -> int:
    """Where the last `order` bytes before `at` are in their table."""
    h = 0
    for k in range(order):
        h = (257 * h + (data[at - 1 - k] if at > k else 0) + 1) % 2**64
    return (h * 0x9E3779B97F4A7C15 % 2**64) >> (64 - TABLE_BITS)


def plain_entropy(table: EntropyTable, data: bytes, at: int) -> int:
    """Entropy before byte `at`, by the longest context that was seen."""
    value = table.fallback
    for order, row in enumerate(table.tables, 1):
        found = int(row[slot(data, at, order)])
        value = value if found == UNSEEN else found
    return value


def laid_out(documents: list[bytes]) -> tuple[U8, I64]:
    return np.frombuffer(b"".join(documents), np.uint8), np.cumsum([0, *map(len, documents)]).astype(np.int64)


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS)
@example([b""])
@example([b"", b"\x00", b"", b"\xff" * 5, b""])
def test_table_entropies_are_their_definition(table: EntropyTable, documents: list[bytes]) -> None:
    values = TableSegmenter(table).entropies(*laid_out(documents))
    assert values.dtype == np.uint8
    assert values.tolist() == [
        plain_entropy(table, document, at) for document in documents for at in range(len(document))
    ]


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS, st.sampled_from([-1, 0, 7, 60, 127, 255, 1000]))
@example([b"", b"a", b""], 255)
def test_marks_are_first_bytes_and_entropies_above_the_threshold(
    table: EntropyTable, documents: list[bytes], threshold: int
) -> None:
    segmenter: Segmenter = TableSegmenter(table, threshold)
    marks = segmenter.marks(*laid_out(documents))
    assert marks.dtype == np.uint8
    assert marks.tolist() == [
        int(at == 0 or plain_entropy(table, document, at) > threshold)
        for document in documents
        for at in range(len(document))
    ]
    assert segmenter.threshold == threshold
    assert TableSegmenter(table).threshold == table.threshold


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=100), st.integers(0, 99), st.integers(1, 255))
def test_entropies_are_the_same_a_context_after_an_edit(table: EntropyTable, data: bytes, at: int, by: int) -> None:
    at %= len(data)
    edited = data[:at] + bytes([data[at] ^ by]) + data[at + 1 :]
    before, after = (TableSegmenter(table).entropies(*laid_out([document])) for document in (data, edited))
    different = np.flatnonzero(before != after)
    assert ((different > at) & (different <= at + len(table.tables))).all()


@pytest.mark.parametrize("shape", [(1, 1 << TABLE_BITS), (5, 1 << TABLE_BITS), (3, 1 << 10)])
def test_tables_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="shape"):
        EntropyTable(tables=np.zeros(shape, np.uint8), fallback=0, threshold=0)


class Surprise:
    """A byte LM whose entropies are easy to tell: they follow from the byte before and the place in the document."""

    def entropies(self, text: Text) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
        before = np.concatenate([[0], text.data[:-1]]).astype(np.int64)
        return (before * 7 % 2048 + (np.arange(len(text.data)) - text.start) % 5 * 100).astype(np.uint16)


@pytest.mark.parametrize("context_bytes", [2, 3, 4])
def test_distilled_tables_are_the_means_of_each_context(context_bytes: int) -> None:
    documents = [SOURCE, b"", SOURCE[50:], bytes(range(256)) * 2]
    text = Text.of(documents)
    values = Surprise().entropies(text).tolist()
    table = segment.distil(Surprise().entropies(text), text, 2.9, context_bytes)
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    places = [(document, at) for document in documents for at in range(len(document))]
    for value, (document, at) in zip(values, places, strict=True):
        for order in range(1, context_bytes + 1):
            seen[order - 1, slot(document, at, order)].append(value)
    expected = np.full((context_bytes, 1 << TABLE_BITS), UNSEEN, np.uint8)
    for where, group in seen.items():
        if len(group) >= 3:
            expected[where] = min(round(sum(group) / len(group) / 16), UNSEEN - 1)
    assert (table.tables != UNSEEN).sum() > 100
    assert np.array_equal(table.tables, expected)
    assert table.fallback == round(sum(values) / len(values) / 16)
    entropies = TableSegmenter(table).entropies(*laid_out(documents))
    assert (entropies > table.threshold).sum() * 2.9 <= len(entropies)
    assert (entropies > table.threshold - 1).sum() * 2.9 > len(entropies)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_threshold_gives_at_least_the_wanted_mean_segment(dtype: type[np.uint8 | np.uint16]) -> None:
    values = np.repeat(np.arange(10, dtype=dtype), 100)
    assert segment.threshold_for(values, 2.0) == 4  # half of the positions are above
    assert segment.threshold_for(values, 2.1) == 5
    assert segment.threshold_for(values, 1000.0) == 9
    assert segment.threshold_for(np.full(100, 7, dtype), 2.9) == 7  # repetitive text: one segment, not 100


def test_threshold_of_wide_values() -> None:
    assert segment.threshold_for(np.array([2048, 65535, 300, 0], np.uint16), 4.0) == 2048
    assert segment.threshold_for(np.tile(np.arange(1 << 11, dtype=np.uint16), 1 << 10), 2.0) == 1023  # several blocks


@pytest.fixture(scope="module")
def by_lm() -> LMSegmenter:
    return LMSegmenter(COMPRESSOR.lm(), 512)


def test_lm_segments_do_not_depend_on_the_batch(by_lm: LMSegmenter) -> None:
    documents = [SOURCE[at : at + 150] for at in range(0, len(SOURCE), 60)] + [b"", b"x", b"\0" * 50, SOURCE]
    together = by_lm.entropies(*laid_out(documents))
    assert together.dtype == np.uint16
    for size in (1, 7):
        batches = [documents[at : at + size] for at in range(0, len(documents), size)]
        apart = [by_lm.entropies(*laid_out(batch)) for batch in batches]
        assert np.array_equal(np.concatenate(apart), together)
        marks = np.concatenate([by_lm.marks(*laid_out(batch)) for batch in batches])
        assert np.array_equal(marks, by_lm.marks(*laid_out(documents)))


def test_lm_marks_follow_its_entropies(by_lm: LMSegmenter) -> None:
    data, offsets = laid_out([SOURCE, b"", SOURCE[:30]])
    expected = by_lm.entropies(data, offsets) > 512
    expected[[0, len(SOURCE)]] = True
    assert np.array_equal(by_lm.marks(data, offsets), expected.astype(np.uint8))
    assert 0.05 < expected.mean() < 0.9
    assert replace(by_lm, threshold=-1).marks(data, offsets).all()
    assert replace(by_lm, threshold=1 << 16).marks(data, offsets).sum() == 2
