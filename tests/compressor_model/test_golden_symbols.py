"""Golden symbols: a change here is a change of what is written, for datasets that exist.

`golden_symbols_toy.json` is of fixed formulas and changes only with the coding. `golden_symbols_shipped.json` and the
neural part of `golden_symbols.json` are of the shipped compressor. After it is retrained:

    python tests/compressor_model/test_golden_symbols.py shipped
"""

import json
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interval_twin import quantised

from compressor_model import codebook, encoder
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.encoder import Windows
from compressor_model.range_coder import RangeCoder, cut
from compressor_model.segment import TABLE_BITS, UNSEEN, EntropyTable, LMSegmenter, Segmenter, TableSegmenter

DATA = Path(__file__).parent.parent / "data"
TOY, SHIPPED, PROXIES = (DATA / f"golden_symbols{suffix}.json" for suffix in ("_toy", "_shipped", ""))
COMMAND = "python tests/compressor_model/test_golden_symbols.py shipped"

FORMS: dict[str, tuple[Windows, bool]] = {
    "segment": ("segment", False),
    "segment, tail": ("segment", True),
    "packed": ("packed", False),
    "packed, tail": ("packed", True),
    "equal-info": ("equal-info", False),
}

CODE = b'''def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    if not values:
        raise ValueError("no values")

    total = 0.0
    for value in values:
        total += value
    return total / len(values)


class Counter(dict):
\tdef add(self, key, n=1):\r
\r
\t\tself[key] = self.get(key, 0) + n   # -----------------------------------------------
'''

PROSE = b"""It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in
want of a wife. However little known the feelings or views of such a man may be on his first entering a
neighbourhood, this truth is so well fixed in the minds of the surrounding families, that he is considered as the
rightful property of some one or other of their daughters.

"My dear Mr. Bennet," said his lady to him one day, "have you heard that Netherfield Park is let at last?"
"""

DOCUMENTS: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"x",
    "code": CODE,
    "prose": PROSE,
    "other scripts": "Ночь, улица, фонарь.\n床前明月光,疑是地上霜。\nपानी पीजिए। ١٢٣ مرحبا 👩‍👧 naïve café\n".encode(),
    "binary": bytes(range(256)) + bytes(40) + b"\xff" * 40 + b"\x7fELF\x02\x01\x01\0\0\0\0\0",
    "blanks and rules": b" " * 100 + b"\n" * 30 + b"\t\t\r\n" * 8 + b"#" * 120 + b"\n",
}


@cache
def toy_weights(context: bytes) -> list[int]:
    """1 + 2000 times how often each byte follows these in the code and the prose above."""
    size = len(context)
    follows = [
        text[at + size] for text in (CODE, PROSE) for at in range(len(text) - size) if text[at:].startswith(context)
    ]
    return [1 + 2000 * follows.count(byte) for byte in range(256)]


def toy_frequencies(strings: Sequence[bytes]) -> np.ndarray:
    """A model of the last two bytes, of fewer where there are fewer."""
    return quantised(np.array([toy_weights(string[-2:]) for string in strings]))


def toy_table() -> EntropyTable:
    """Entropies by no text but by formula: most contexts of three bytes and some of two are unseen."""
    slots = np.arange(1 << TABLE_BITS, dtype=np.int64)
    tables = np.stack([slots * 37 % 97, slots * 11 % 89, slots * 29 % 101])
    unseen = np.stack([slots < 0, slots % 4 == 0, slots % 3 > 0])
    return EntropyTable(tables=np.where(unseen, UNSEEN, tables).astype(np.uint8), fallback=50, threshold=72)


def coded(books: dict[int, codebook.Codebook], segmenters: dict[str, Segmenter]) -> dict[str, Any]:
    """By document and what codes it: codewords and spans."""
    offsets = np.cumsum([0, *map(len, DOCUMENTS.values())]).astype(np.int64)
    data = np.frombuffer(b"".join(DOCUMENTS.values()), np.uint8)
    result: dict[str, Any] = {name: {} for name in DOCUMENTS}
    for bits, book in books.items():
        for by, segmenter in segmenters.items():
            marks = segmenter.marks(data, offsets)
            for form, (windows, fuzz) in FORMS.items():
                codes, spans, counts = encoder.coder(book, windows, fuzz).encode(data, offsets, marks)
                at = 0
                for name, count in zip(DOCUMENTS, counts.tolist(), strict=True):
                    parts = (codes[at : at + count].tolist(), spans[at : at + count].tolist())
                    result[name][f"{bits} bits, {by}, {form}"] = list(parts)
                    at += count
    return result


@cache
def toy() -> dict[str, Any]:
    return coded(
        {bits: codebook.build(bits, toy_frequencies) for bits in (9, 12)}, {"table": TableSegmenter(toy_table())}
    )


@cache
def shipped() -> dict[str, Any]:
    """Of the `range` coder the symbols of each segment."""
    compressor = open_compressor(PRETRAINED)
    model = compressor.lm()
    segmenters: dict[str, Segmenter] = {
        "table": TableSegmenter(compressor.segments()),
        "lm": LMSegmenter(model, compressor.card["lm_threshold"]),
    }
    result = coded({bits: compressor.codebook(bits) for bits in compressor.bits}, segmenters)
    for name, document in DOCUMENTS.items():
        marks = segmenters["table"].marks(np.frombuffer(document, np.uint8), np.array([0, len(document)], np.int64))
        first = [*cut(marks.view(bool)).tolist(), len(document)]
        segments = [document[a:b] for a, b in pairwise(first)]
        result[name]["16 bits, table, range"] = [part.tolist() for part in RangeCoder(model, 16).encode(segments)]
    return {"files": compressor.card["files"], **result}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_toy_compressor_writes_the_golden_symbols(name: str) -> None:
    assert toy()[name] == json.loads(TOY.read_text())[name]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_shipped_compressor_writes_the_golden_symbols(name: str) -> None:
    expected = json.loads(SHIPPED.read_text())
    assert shipped()["files"] == expected["files"], f"another compressor is shipped: {COMMAND}"
    assert shipped()[name] == expected[name]


@pytest.mark.parametrize("golden", [TOY, SHIPPED], ids=lambda path: path.stem)
def test_golden_symbols_tell_the_forms_apart(golden: Path) -> None:
    expected = json.loads(golden.read_text())["code"]
    forms = [str(expected[f"12 bits, table, {form}"]) for form in FORMS]
    assert len(set(forms)) == len(forms)


def write(path: Path, content: dict[str, dict[str, Any]]) -> None:
    """One list a line, so that a difference can be read."""

    def line(key: str, value: object) -> str:
        return json.dumps(key, ensure_ascii=False) + ":" + json.dumps(value, separators=(",", ":"))

    parts = (
        json.dumps(name) + ":{\n" + ",\n".join(line(*item) for item in values.items()) + "\n}"
        for name, values in content.items()
    )
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    print(f"wrote {path}")  # noqa: T201


if __name__ == "__main__":
    what = sys.argv[1:]
    if what == ["toy"]:
        write(TOY, toy())
    elif what == ["shipped"]:
        from pipelines import proxies

        write(SHIPPED, shipped())
        symbols = json.loads(PROXIES.read_text())
        for name in [name for name in symbols if name.startswith("neural-")]:
            _, coder, bits = name.split("-")
            proxy = proxies.load(f"neural:{PRETRAINED}?coder={coder}&bits={bits}")
            symbols[name] = {text: proxy.encode(text.encode()).ids.tolist() for text in symbols[name]}
        write(PROXIES, symbols)
    else:
        sys.exit(f"usage: {COMMAND} (or toy)")
