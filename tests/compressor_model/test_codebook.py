"""The codebook's file form: golden values, parents, and the shipped ones."""

import hashlib
import json
from pathlib import Path

import numpy as np
from interval_twin import random_frequencies, toy_frequencies

from compressor_model import codebook
from compressor_model.artefact import PRETRAINED, open_compressor

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "golden.json").read_text())["codebook"]


def test_toy_codebook_of_12_bits_matches_golden_values() -> None:
    strings = codebook.build(12, toy_frequencies).strings()
    expected = GOLDEN["12"]
    assert [string.hex() for string in strings[:24]] == expected["first"]
    assert [string.hex() for string in strings[-8:]] == expected["last"]
    assert max(strings, key=len).hex() == expected["longest"]
    assert sum(map(len, strings)) / len(strings) == expected["mean_length"]
    joined = b"".join(bytes([len(string)]) + string for string in strings)
    assert hashlib.sha256(joined).hexdigest() == expected["sha256_of_length_prefixed_strings"]


def test_golden_toy_codebook_of_9_bits_is_no_tree_and_ours_is() -> None:
    """With 9 bits the golden program takes 29 codewords from a byte that has 4, and its intervals overlap.

    Nothing smaller than 12 bits is offered; there, and wherever the largest can pay, both agree.
    """
    golden_first = [bytes.fromhex(string) for string in GOLDEN["9"]["first"]]
    assert golden_first != sorted(golden_first)
    strings = codebook.build(9, toy_frequencies).strings()
    assert strings == sorted(set(strings))
    assert {bytes([byte]) for byte in range(256)} <= set(strings)


def test_parents_are_the_strings_without_their_last_byte() -> None:
    book = codebook.build(12, random_frequencies(4, 4))
    strings = book.strings()
    for code, parent in enumerate(book.parents().tolist()):
        assert strings[code][:-1] == (strings[parent] if parent >= 0 else b"")


def test_shipped_codebooks_are_those_of_the_shipped_language_model() -> None:
    compressor = open_compressor(PRETRAINED)
    model = compressor.lm()
    for bits in compressor.bits:
        rebuilt = codebook.build(bits, model.next_frequencies)
        assert np.array_equal(rebuilt.depth, compressor.codebook(bits).depth)
        assert np.array_equal(rebuilt.last, compressor.codebook(bits).last)
