"""The vocabulary layout and its metadata form."""

import pytest

from schemas import vocabulary
from schemas.errors import UserError
from schemas.vocabulary import BYTES, Vocabulary


def test_sizes_are_those_of_the_published_models() -> None:
    assert BYTES.size == 320
    assert Vocabulary(proxy="gzip", comp_symbols=256).size == 576
    assert Vocabulary(proxy="neural", comp_symbols=1 << 16).size == 65_856
    assert Vocabulary(proxy="bpe", comp_symbols=96_640).size == 96_960


def test_specials_bytes_and_comp_symbols_do_not_overlap() -> None:
    assert max(vocabulary.SPECIAL_NAMES) < vocabulary.BYTE_OFFSET
    assert vocabulary.BYTE_OFFSET + 256 == vocabulary.COMP_OFFSET


def test_metadata_round_trips() -> None:
    value = Vocabulary(proxy="neural", comp_symbols=4096)
    assert Vocabulary.from_json(value.to_json()) == value


def test_metadata_whose_size_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="size 9 is not"):
        Vocabulary.from_json({"proxy": "gzip", "comp_symbols": 256, "size": 9})


def test_negative_size_is_refused() -> None:
    with pytest.raises(UserError, match="comp_symbols is -1"):
        Vocabulary(proxy="gzip", comp_symbols=-1)
