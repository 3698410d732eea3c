"""The compiled coder against a plain loop over the table's definition and the list of strings."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compressor_model import encoder, segment
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.segment import TABLE_BITS, UNSEEN, EntropyTable
from compressor_model.text import Text

COMPRESSOR = open_compressor(PRETRAINED)
TABLE = COMPRESSOR.segments()


class Coded:
    """A coder with its strings; a class of its own so that a failing test does not print 65,536 of them."""

    def __init__(self, coder: encoder.CodebookCoder, strings: list[bytes]) -> None:
        self.coder, self.strings = coder, strings
        self.codes = {string: code for code, string in enumerate(strings)}


@pytest.fixture(scope="module", params=COMPRESSOR.bits)
def coded(request: pytest.FixtureRequest) -> Coded:
    book = COMPRESSOR.codebook(request.param)
    return Coded(encoder.coder(book, TABLE), book.strings())


def plain_entropy(table: EntropyTable, data: bytes, at: int) -> int:
    """Entropy before byte `at`, by definition."""
    value, h = table.fallback, 0
    for k in range(3):
        h = (257 * h + (data[at - 1 - k] if at > k else 0) + 1) % 2**64
        slot = (h * 0x9E3779B97F4A7C15 % 2**64) >> (64 - TABLE_BITS)
        if table.tables[k][slot] != UNSEEN:
            value = int(table.tables[k][slot])
    return value


def plain_encode(table: EntropyTable, codes: dict[bytes, int], data: bytes) -> tuple[list[int], list[int]]:
    """Walk from boundary to boundary or to a missing child."""
    ids, spans, window = [], [], b""
    for at in range(len(data)):
        starts = at == 0 or plain_entropy(table, data, at) > table.threshold
        if window and (starts or window + data[at : at + 1] not in codes):
            ids.append(codes[window])
            spans.append(len(window))
            window = b""
        window += data[at : at + 1]
    if window:
        ids.append(codes[window])
        spans.append(len(window))
    return ids, spans


def encode(coder: encoder.CodebookCoder, documents: list[bytes]):
    offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    return coder.encode(np.frombuffer(b"".join(documents), np.uint8), offsets)


SOURCE = (segment.__doc__ or "").encode() + b"\n\ndef f(x: int) -> str:\n    return '%d' % x\n" * 3


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.text(max_size=100).map(str.encode),
            st.integers(0, len(SOURCE)).map(lambda at: SOURCE[at : at + 300]),
        ),
        min_size=1,
        max_size=5,
    )
)
@example([b""])
@example([b"", b"\x00", b"", bytes(range(256)), b"a" * 3000, b"tail\0\0\0", b"    " * 100])
def test_compiled_coder_equals_the_plain_loop(coded: Coded, documents: list[bytes]) -> None:
    coder, codes = coded.coder, coded.codes
    ids, spans, counts = encode(coder, documents)
    at = 0
    for document, count in zip(documents, counts.tolist(), strict=True):
        expected_ids, expected_spans = plain_encode(TABLE, codes, document)
        assert ids[at : at + count].tolist() == expected_ids
        assert spans[at : at + count].tolist() == expected_spans
        at += count
    assert at == len(ids)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=2000))
def test_decoding_inverts_encoding(coded: Coded, data: bytes) -> None:
    coder, strings = coded.coder, coded.strings
    ids, spans, _ = encode(coder, [data])
    assert coder.decode(ids) == data == b"".join(strings[code] for code in ids)
    assert spans.tolist() == [len(strings[code]) for code in ids]


@given(st.lists(st.integers(0, 4095), max_size=50))
@settings(max_examples=30, deadline=None)
def test_any_codewords_decode_to_their_strings(coded: Coded, codes: list[int]) -> None:
    coder, strings = coded.coder, coded.strings
    assert coder.decode(np.array(codes, np.uint32)) == b"".join(strings[code] for code in codes)


def test_segments_are_the_same_three_bytes_after_an_edit() -> None:
    before = SOURCE
    after = SOURCE[:100] + b"#" + SOURCE[101:]
    marks = [segment.boundaries(TABLE, Text.of([text]).data, Text.of([text]).start) for text in (before, after)]
    different = np.flatnonzero(marks[0] != marks[1])
    assert ((different > 100) & (different <= 103)).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_table_entropies_are_their_definition(documents: list[bytes]) -> None:
    text = Text.of(documents)
    values = segment.entropies(TABLE, text.data, text.start)
    expected = [plain_entropy(TABLE, document, at) for document in documents for at in range(len(document))]
    assert values.tolist() == expected


def test_threshold_gives_at_least_the_wanted_mean_segment() -> None:
    values = np.repeat(np.arange(10, dtype=np.uint8), 100)
    assert segment.threshold_for(values, 2.0) == 4  # half of the positions are above
    assert segment.threshold_for(values, 2.1) == 5
    assert segment.threshold_for(values, 1000.0) == 9
    assert segment.threshold_for(np.full(100, 7, np.uint8), 2.9) == 7  # repetitive text: one segment, not 100
