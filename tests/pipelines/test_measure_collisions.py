"""Collisions: known answers on hand-made codes, and none where a proxy is lossless."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import proxies
from pipelines.measure import collisions
from pipelines.measure.collisions import (
    DIFFERENCES,
    Uses,
    common_prefix,
    difference,
    fuzziness_of,
    least_shared,
    uses_of,
)
from pipelines.proxies import Encoded, EncodedBatch, Proxy
from pipelines.proxies.base import U32
from schemas.vocabulary import COMP_OFFSET, Vocabulary

TOKENIZER = Path(__file__).parent.parent / "data" / "tokenizer.json"


class Shortened(Proxy):
    """Blocks of five bytes, coded by their first four: the fifth is dropped."""

    name = "shortened"
    fingerprint = "0" * 64
    vocabulary = Vocabulary(proxy="shortened", comp_symbols=1 << 31)
    lossless = False

    def encode(self, raw: bytes) -> Encoded:
        blocks = [raw[at : at + 5] for at in range(0, len(raw), 5)]
        ids = [COMP_OFFSET + int.from_bytes(block[:4]) % (1 << 31) for block in blocks]
        spans = np.array([len(block) for block in blocks], np.uint16)
        return Encoded(np.array(ids, np.uint32), spans, dropped_bytes=int((spans == 5).sum()))

    def decode(self, ids: U32) -> bytes:
        raise ValueError("not lossless")


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        (b"x", b"x\n", "newline only"),
        (b"x\r\n", b"x\n", "newline only"),
        (b"x ", b"x\t", "spaces and tabs"),
        (b"x:\n    ", b"x:\n", "spaces and tabs"),  # the newline is shared
        (b"x:", b"x:\n    ", "newline and indentation"),
        (b"re", b"return", "letters"),
        (b"12", b"13", "digits"),
        (b"f(", b"f_", "punctuation"),
        (b"a1", b"ab", "other"),
        (b"a b", b"a", "other"),
        ("é".encode(), "è".encode(), "other"),
    ],
)
def test_what_differs_is_named(one: bytes, other: bytes, what: str) -> None:
    assert difference(one, other) == difference(other, one) == what
    assert what in DIFFERENCES


@given(st.binary(max_size=12), st.binary(max_size=12), st.binary(max_size=12))
def test_the_common_prefix_is_the_longest(shared: bytes, one: bytes, other: bytes) -> None:
    left, right = shared + one, shared + other
    length = common_prefix(left, right)
    assert left[:length] == right[:length]
    assert length >= len(shared)
    assert length == min(len(left), len(right)) or left[length] != right[length]


@given(st.sets(st.text("ab", min_size=1, max_size=6).map(str.encode), min_size=2, max_size=12))
def test_the_least_of_all_pairs_is_found_without_all_pairs(chunks: set[bytes]) -> None:
    pairs = itertools.combinations(sorted(chunks), 2)
    assert least_shared(list(chunks)) == min(common_prefix(a, b) / max(len(a), len(b)) for a, b in pairs)


def test_hand_counted_collisions() -> None:
    uses: Uses = Counter({
        (b"1", b"alone"): 7,
        (b"2", b"abcd"): 5, (b"2", b"abcde"): 3, (b"2", b"ax"): 1,  # 4/5 and 1/4 of the usual one
        (b"3", b"y"): 2, (b"3", b"x"): 2,  # as frequent: the first in byte order is the usual one
    })  # fmt: skip
    found = collisions.collisions(uses)
    assert found["chunks"] == 20
    assert (found["distinct_chunks"], found["codes"], found["shared_codes"]) == (6, 3, 2)
    assert found["colliding"] == {"unique": 3, "occurrences": 6}
    assert found["alike"] == {"unique": 1, "occurrences": 3}
    assert found["least_shared"] == 0  # x and y; in the other code it is a / abcde
    bins = {index: count for index, count in enumerate(found["histogram"]) if count["unique"]}
    assert bins == {
        8: {"unique": 1, "occurrences": 3},
        2: {"unique": 1, "occurrences": 1},
        0: {"unique": 1, "occurrences": 2},
    }
    assert found["differences"]["letters"] == {"unique": 3, "occurrences": 6}
    assert found["examples"][0] == {"usual": "'abcd'", "other": "'abcde'", "occurrences": 3, "shared": 0.8}
    assert found["examples"][1]["other"] == "'y'"


def test_symbols_without_bytes_belong_to_the_code_before_them() -> None:
    batch = EncodedBatch(
        ids=np.array([1, 2, 1, 3, 1], np.uint32),
        spans=np.array([3, 0, 2, 1, 3], np.uint16),
        counts=np.array([3, 2], np.int64),
    )
    uses = uses_of([b"abcde", b"fghi"], batch)
    code = [np.array(ids, "<u4").tobytes() for ids in ([1, 2], [1], [3])]
    assert uses == {(code[0], b"abc"): 1, (code[1], b"de"): 1, (code[2], b"f"): 1, (code[1], b"ghi"): 1}


def test_a_proxy_that_drops_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collisions, "BATCH_BYTES", 8)  # a batch for each document
    found = fuzziness_of("shortened", Shortened(), [b"abcd1abcd1abcd2", b"abcd\n", b"wxyz"])
    assert found is not None
    assert (found["raw_bytes"], found["symbols"], found["dropped_bytes"]) == (24, 5, 4)
    assert not found["lossless"]
    assert (found["chunks"], found["codes"], found["shared_codes"]) == (5, 2, 1)
    assert found["colliding"] == found["alike"] == {"unique": 2, "occurrences": 2}
    assert found["least_shared"] == 0.8
    assert found["differences"]["digits"] == {"unique": 1, "occurrences": 1}  # 2 for 1
    assert found["differences"]["other"] == {"unique": 1, "occurrences": 1}  # a newline for 1


def test_a_lossless_tokenizer_has_none_on_any_bytes() -> None:
    documents = [Path(__file__).read_bytes(), bytes(range(256)) * 4, "naïve 中文\n".encode() * 9]
    found = fuzziness_of("bpe", proxies.load(f"bpe:{TOKENIZER}"), documents)
    assert found is not None
    assert found["chunks"] == found["symbols"] > 500
    assert found["shared_codes"] == 0
    assert found["codes"] >= found["distinct_chunks"] > 256  # an escaped byte and its token are two codes of one text
    assert found["colliding"] == {"unique": 0, "occurrences": 0}
    assert found["least_shared"] is None
    assert found["dropped_bytes"] == 0


@pytest.mark.parametrize("name", ["gzip", "identity"])
def test_without_spans_there_is_nothing_to_compare(name: str) -> None:
    assert fuzziness_of(name, proxies.load(f"{name}:"), [b"some text"]) is None
