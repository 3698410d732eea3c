"""What docs/coding.md proves, on arbitrary language models and on the shipped one."""

import math
import re
from bisect import bisect_left
from functools import cache
from itertools import pairwise
from pathlib import Path

import constriction
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interval_twin import IntervalTwin, random_frequencies, tied_frequencies, toy_frequencies

from compressor_model import codebook, encoder
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.encoder import CodebookCoder, Windows
from compressor_model.segment import LMSegmenter, Segmenter, TableSegmenter
from compressor_model.small import ORDERS

PAGE = (Path(__file__).parents[2] / "docs" / "coding.md").read_text()
COMPRESSOR = open_compressor(PRETRAINED)
MODEL = COMPRESSOR.lm()
SEGMENTER = TableSegmenter(COMPRESSOR.segments())
SOURCE = Path(encoder.__file__).read_bytes()
FORMS: list[tuple[Windows, bool]] = [
    ("segment", False),
    ("segment", True),
    ("packed", False),
    ("packed", True),
    ("equal-info", False),
]


class Book:
    """A codebook, its twin and its strings; a class of its own so that a failing test does not print them."""

    def __init__(self, bits: int, frequencies: codebook.Frequencies) -> None:
        self.bits = bits
        self.twin = IntervalTwin(bits, frequencies)
        self.codebook = codebook.build(bits, frequencies)
        self.strings = self.codebook.strings()
        self.known = {b"", *self.strings}
        self.coders = {form: encoder.coder(self.codebook, *form) for form in FORMS}


# Flat and sharp models (at few bits most bytes must be given a codeword), one of ties, one of a byte, the shipped one.
BOOKS: dict[str, tuple[int, codebook.Frequencies]] = {
    "flat-9": (9, random_frequencies(1, 0.3)),
    "sharp-9": (9, random_frequencies(2, 3.0)),
    "sharp-10": (10, random_frequencies(3, 8.0)),
    "flat-11": (11, random_frequencies(4, 0.5)),
    "middle-12": (12, random_frequencies(5, 2.0)),
    "sharp-12": (12, random_frequencies(6, 8.0)),
    "sharp-13": (13, random_frequencies(7, 5.0)),
    "tied-9": (9, tied_frequencies),
    "toy-12": (12, toy_frequencies),
    **{f"shipped-{bits}": (bits, MODEL.next_frequencies) for bits in COMPRESSOR.bits},
}


@cache
def book_of(name: str) -> Book:
    return Book(*BOOKS[name])


@pytest.fixture(scope="module", params=BOOKS)
def book(request: pytest.FixtureRequest) -> Book:
    return book_of(request.param)


@st.composite
def likely_documents(draw: st.DrawFn, book: Book, most: int = 30) -> bytes:
    """Strings of the codebook end to end, with any bytes in between: windows as long as real ones."""
    codes = draw(st.lists(st.integers(0, len(book.strings) - 1), max_size=most))
    return b"".join(book.strings[code] for code in codes) + draw(st.binary(max_size=20))


def marks_of(segmenter: Segmenter, document: bytes) -> np.ndarray:
    return segmenter.marks(np.frombuffer(document, np.uint8), np.array([0, len(document)], np.int64))


def encode(coder: CodebookCoder, document: bytes, marks: np.ndarray | None = None) -> tuple[list[int], list[int]]:
    data = np.frombuffer(document, np.uint8)
    offsets = np.array([0, len(data)], np.int64)
    codes, spans, _ = coder.encode(data, offsets, marks_of(SEGMENTER, document) if marks is None else marks)
    return codes.tolist(), spans.tolist()


# --- the tree


def test_codebook_is_the_tree_of_the_big_integer_coder(book: Book) -> None:
    nodes = book.twin.nodes
    assert nodes == book.strings
    assert [book.twin.interval(node)[0] for node in nodes] == list(range(1 << book.bits))


def test_nodes_are_as_many_as_codewords_sorted_and_prefix_closed(book: Book) -> None:
    strings = book.strings
    assert len(strings) == 1 << book.bits
    assert all(a < b for a, b in pairwise(strings))
    assert all(string[:-1] in book.known for string in strings)
    assert {bytes([byte]) for byte in range(256)} <= book.known


def test_an_interval_is_the_codewords_whose_strings_begin_with_the_nodes(book: Book) -> None:
    """Low from the integers, the interval's end from the sorted list: the two know nothing of each other."""
    for node in book.strings:
        low, size = book.twin.interval(node)
        assert book.strings[low] == node
        after = next_prefix(node)
        assert low + size == (bisect_left(book.strings, after) if after else len(book.strings))


def next_prefix(string: bytes) -> bytes:
    """The least string that is greater than all with this prefix; empty if there is none."""
    kept = string.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(BOOKS)), st.data())
def test_intervals_are_nested_or_disjoint(name: str, data: st.DataObject) -> None:
    book = book_of(name)
    code = st.integers(0, len(book.strings) - 1).map(book.strings.__getitem__)
    a, b = data.draw(st.tuples(code, st.one_of(code, st.binary(min_size=1, max_size=4))))
    (low_a, size_a), (low_b, size_b) = book.twin.interval(a), book.twin.interval(b)
    assert (size_b > 0) == (b in book.known)
    if size_b == 0:
        return
    shared = set(range(low_a, low_a + size_a)) & set(range(low_b, low_b + size_b))
    if a.startswith(b) or b.startswith(a):
        assert len(shared) == min(size_a, size_b)
        assert a == b or low_a != low_b  # the shorter one's own codeword is not the longer one's
    else:
        assert not shared


@settings(max_examples=200, deadline=None)
@given(
    codewords=st.integers(0, 65536),
    seed=st.integers(0, 255),
    sharpness=st.sampled_from([0.3, 1.0, 4.0, 9.0]),
    is_root=st.booleans(),
)
@example(codewords=256, seed=0, sharpness=9.0, is_root=True)
@example(codewords=257, seed=0, sharpness=9.0, is_root=True)
def test_weights_are_shares_within_one_codeword(codewords: int, seed: int, sharpness: float, is_root: bool) -> None:
    codewords = max(codewords, 256) if is_root else codewords
    frequencies = random_frequencies(seed, sharpness)([b""])
    weights = codebook.child_weights(np.array([codewords], np.int64), frequencies, is_root=is_root)[0].tolist()
    exact = [codewords * share for share in frequencies[0].tolist()]  # in 2^-16 codewords
    assert sum(weights) == codewords
    assert all(w << 16 < x + 65536 for w, x in zip(weights, exact, strict=True))
    if is_root:
        assert min(weights) >= 1
    else:
        assert all(w << 16 > x - 65536 for w, x in zip(weights, exact, strict=True))


def test_the_deepest_tree_is_that_of_the_most_lopsided_model() -> None:
    """The bound of the page, and how near to it a tree comes: a byte of all the weight there can be."""
    row = np.ones((1, 256), np.uint32)
    row[0, 32] = 65536 - 255
    bound, size = 0, (1 << 16) + 1
    while size > 1:
        size = min(size - 1, ((size - 1) * 65281 >> 16) + 1)
        bound += 1
    depth = int(codebook.build(16, lambda strings: np.repeat(row, len(strings), axis=0)).depth.max())
    assert depth <= bound
    assert f"{bound:,}" in PAGE
    assert f"{depth:,}" in PAGE


# --- coded length


def test_coded_length_of_every_node_is_within_the_stated_bound(book: Book) -> None:
    """V P - S < R < V P + 1 for each node, and for each child that is none: all in integers."""
    twin, strings = book.twin, book.strings
    size_of = {string: twin.interval(string)[1] for string in strings}
    children: dict[bytes, list[int]] = {}
    for string in strings:
        children.setdefault(string[:-1], []).append(string[-1])
    path = {b"": (1, 0)}  # P and S of inner nodes, in units of 2^(-16 k)
    inner = sorted(children, key=len)
    for at in range(0, len(inner), 4096):
        part = inner[at : at + 4096]
        for node, row in zip(part, twin.frequencies(part).tolist(), strict=True):
            product, slack = path[node]
            one = 1 << 16 * (len(node) + 1)
            for byte in children[node]:
                # S_1 = 1 + c, S_k = p_k (S_(k-1) + 1) + 1
                paid = twin.payments[node[0] if node else byte]
                lost = row[byte] * (slack + (one >> 16)) + one if node else (1 + paid) * one
                exact = product * row[byte] << twin.bits
                assert exact - lost < size_of[node + bytes([byte])] * one < exact + one
                assert lost <= (2 * len(node) + 1 + paid) * one
                if node + bytes([byte]) in children:
                    path[node + bytes([byte])] = product * row[byte], lost
            share = max((row[byte] for byte in set(range(256)) - set(children[node])), default=0)
            assert (product * share << twin.bits) < share * (slack + (one >> 16)) + one


def test_with_16_bits_no_byte_pays() -> None:
    """Each share of 2^16 is a whole codeword."""
    for seed in range(20):
        frequencies = random_frequencies(seed, 6.0)([b""])
        weights = codebook.child_weights(np.array([1 << 16], np.int64), frequencies, is_root=True)
        assert np.array_equal(weights, frequencies)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(BOOKS)), st.data())
def test_windows_that_die_hold_the_information_they_should(name: str, data: st.DataObject) -> None:
    """A window of k bytes and the byte that ended it hold more than bits - log2(2 k + 1 + c) bits."""
    book = book_of(name)
    document = data.draw(likely_documents(book))
    _, spans = encode(book.coders["equal-info", False], document)
    at = 0
    for span in spans[:-1]:
        walked = document[at : at + span + 1]
        shares = [book.twin.shares(walked[:k])[walked[k]] for k in range(len(walked))]
        information = sum(16 - math.log2(share) for share in shares)
        assert information > book.bits - math.log2(2 * span + 1 + book.twin.payments[walked[0]]) - 1e-9
        at += span


# --- documents


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(BOOKS)), st.data())
def test_the_walk_sends_the_arithmetic_coders_low(name: str, data: st.DataObject) -> None:
    book = book_of(name)
    document = data.draw(likely_documents(book))
    codes, spans = encode(book.coders["equal-info", False], document)
    expected = book.twin.windows(document)
    assert codes == [low for low, _ in expected]
    assert spans == [len(window) for _, window in expected]


@pytest.mark.parametrize("windows", ["segment", "packed", "equal-info"])
def test_constriction_codes_the_same_windows_in_the_same_bits(book: Book, windows: Windows) -> None:
    """The weights as categorical models: constriction spends `bits` bits a window, and gives the documents back."""
    rng = np.random.default_rng(0)
    document = b"".join(book.strings[code] for code in rng.integers(0, len(book.strings), 250)) + bytes(range(256))
    marks = (rng.random(len(document)) < 0.2).astype(np.uint8)
    codes, _ = encode(book.coders[windows, False], document, marks)
    models: dict[bytes, constriction.stream.model.Categorical] = {}

    def shares(node: bytes) -> np.ndarray:
        # no window is empty: at the root the end has no weight, and a window costs `bits` bits to the last one
        weights = book.twin.weights(node)
        return np.array([1 if node else 0, *weights]) / (sum(weights) + (1 if node else 0))

    def model(node: bytes) -> constriction.stream.model.Categorical:
        if node not in models:
            models[node] = constriction.stream.model.Categorical(shares(node), perfect=False)
        return models[node]

    coder = constriction.stream.queue.RangeEncoder()
    ideal, coded = 0.0, 0
    for code in codes:
        string = book.strings[code]
        for at in range(len(string) + 1):
            node = string[:at]
            if book.twin.interval(node)[1] == 1:
                break  # only the end is left
            symbol = 0 if at == len(string) else string[at] + 1
            coder.encode(symbol, model(node))
            ideal -= math.log2(shares(node)[symbol])
            coded += 1
    assert ideal == pytest.approx(book.bits * len(codes))
    words = coder.get_compressed()
    assert ideal - 1 <= 32 * len(words) <= ideal + 32 + 0.01 * coded

    decoder = constriction.stream.queue.RangeDecoder(words)
    decoded = b""
    for code in codes:
        node = b""
        while book.twin.interval(node)[1] != 1 and (symbol := int(decoder.decode(model(node)))):
            node += bytes([symbol - 1])
        assert book.twin.interval(node)[0] == code
        decoded += node
    assert decoded == document


HARD_BYTES = st.one_of(
    st.binary(max_size=400),
    st.lists(st.sampled_from([b"\0", b"\xff", b"\n", b" "]), max_size=200).map(b"".join),
    st.builds(lambda byte, count: bytes([byte]) * count, st.integers(0, 255), st.integers(1, 3000)),
    st.just(bytes(range(256)) * 2),
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(BOOKS)), st.sampled_from(FORMS), HARD_BYTES, st.integers(0, 9))
def test_any_bytes_are_coded_in_no_more_symbols_than_bytes(
    name: str, form: tuple[Windows, bool], document: bytes, seed: int
) -> None:
    book = book_of(name)
    marks = (np.random.default_rng(seed).random(len(document)) < 0.1).astype(np.uint8)
    codes, spans = encode(book.coders[form], document, marks)
    assert sum(spans) == len(document)
    assert len(codes) <= len(document)
    at = 0
    for code, span in zip(codes, spans, strict=True):
        string = book.strings[code]
        assert document[at : at + span].startswith(string)
        assert len(string) <= span <= len(string) + len(string) // 4 * form[1]
        at += span
    if not form[1]:
        assert book.coders[form].decode(np.array(codes, np.uint32)) == document


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(BOOKS)), st.sampled_from([form for form in FORMS if not form[1]]), st.data())
def test_different_documents_have_different_symbols(name: str, form: tuple[Windows, bool], data: st.DataObject) -> None:
    """Also where one document is nearly the other; and symbols that begin others are of bytes that begin theirs."""
    book = book_of(name)
    a = data.draw(likely_documents(book, most=10))
    at, gone, new = data.draw(st.tuples(st.integers(0, len(a)), st.integers(0, 2), st.binary(max_size=2)))
    b = a[:at] + new + a[at + gone :]
    codes_a, codes_b = (encode(book.coders[form], document)[0] for document in (a, b))
    assert (codes_a == codes_b) == (a == b)
    if codes_b[: len(codes_a)] == codes_a:
        assert b.startswith(a)
    if codes_a[: len(codes_b)] == codes_b:
        assert a.startswith(b)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMS), st.data())
def test_only_the_last_symbol_of_a_document_depends_on_what_follows(
    form: tuple[Windows, bool], data: st.DataObject
) -> None:
    coder = book_of("shipped-12").coders[form]
    start, first, more = data.draw(st.tuples(st.integers(0, len(SOURCE) - 1), st.integers(1, 200), st.integers(1, 200)))
    document = SOURCE[start : start + first]
    codes, spans = encode(coder, document)
    longer = document + data.draw(st.one_of(st.binary(max_size=40), st.just(SOURCE[start + first :][:more])))
    assert list(zip(*encode(coder, longer), strict=True))[: len(codes) - 1] == list(zip(codes, spans, strict=True))[:-1]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FORMS[:4]),
    st.sampled_from([(SEGMENTER, len(SEGMENTER.table.tables)), (LMSegmenter(MODEL, 400), ORDERS)]),
    st.integers(1, len(SOURCE) - 400),
    st.binary(max_size=4),
    st.binary(max_size=4),
)
def test_an_edit_changes_no_window_of_a_segment_or_line_that_starts_later(
    form: tuple[Windows, bool], by: tuple[Segmenter, int], at: int, old: bytes, new: bytes
) -> None:
    """From the first segment, packed: the first line, that starts K bytes or more behind an edit, all is as before."""
    segmenter, context = by
    before, after = SOURCE[max(0, at - 200) : at], SOURCE[at : at + 400]
    marks = np.flatnonzero(marks_of(segmenter, before + old + after)) - len(before) - len(old)
    lines = [match.end() for match in re.finditer(rb"\n[ \t\r\n]*", after)]
    starts = [start for start in (lines if form[0] == "packed" else marks.tolist()) if start >= context]
    behind = starts[0] if starts else len(after)

    def tail(document: bytes) -> list[tuple[int, int]]:
        codes, spans = encode(book_of("shipped-12").coders[form], document, marks_of(segmenter, document))
        ends = np.cumsum(spans) - len(document) + len(after)
        return [(c, s) for c, s, end in zip(codes, spans, ends.tolist(), strict=True) if end - s >= behind]

    assert sum(span for _, span in tail(before + old + after)) == len(after) - behind
    assert tail(before + old + after) == tail(before + new + after)


# --- the page


def example_frequencies(strings: list[bytes]) -> np.ndarray:
    row = np.full(256, 64, np.uint32)
    row[ord("a")], row[ord("b")] = 32896, 16384
    return np.repeat(row[None, :], len(strings), axis=0)


def test_the_pages_example_is_what_the_code_makes() -> None:
    rows = re.findall(r"^\| (?:root|`(\w+)`) \| (-?\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == ["", "a", "aa", "aaa", "aaab"]
    book = codebook.build(9, example_frequencies)
    strings = book.strings()
    for string, *numbers in rows:
        low, size, of_a, of_b, of_others = map(int, numbers)
        node = string.encode()
        inside = [s for s in strings if s.startswith(node)]
        if node:
            assert (low, size) == (strings.index(node), len(inside))
        assert of_a == sum(s.startswith(node + b"a") for s in inside)
        assert of_b == sum(s.startswith(node + b"b") for s in inside)
        assert of_others == len(inside) - of_a - of_b - (1 if node else 0)
    codes, spans = encode(encoder.coder(book, "equal-info"), b"aaabz")
    assert f"`aaabz` is sent as {codes[0]}, {codes[1]}" in " ".join(PAGE.split())
    assert spans == [4, 1]
