"""The page: both results of a folder, verdicts by their rules, nothing from outside, everything escaped."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.measure import fuzziness, page, results, stability
from pipelines.measure.fuzziness import FuzzinessOptions
from pipelines.measure.results import Count, FuzzinessOf, Interval, Stability, StabilityOf
from pipelines.measure.stability import StabilityOptions
from pipelines.measure.verdict import verdict
from pipelines.proxies.options import ProxyOptions
from schemas.errors import UserError

TOKENIZER = str(Path(__file__).parent.parent / "data" / "tokenizer.json")


def around(mean: float) -> Interval:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def stable(
    name: str, distance: float, *, median: float = 2, above: float | None = None, size: float = 2.5
) -> StabilityOf:
    kinds = ("deletion", "insertion", "substitution")
    return {
        "variant": name,
        "symbols": 1000,
        "bytes_per_symbol": around(size),
        "symbol_entropy": 9.0,
        "vocabulary": 65536,
        "vocabulary_used": 0.1,
        "distances": {kind: {"0.1": around(distance)} for kind in kinds},
        "floors": {"0.1": 0.2},
        "above_bpe": None if above is None else around(above),
        "resynchronisation": {"symbols": {"median": median, "mean": median, "p95": median}, "raw_bytes": None},
        "by_group": {},
        "by_source": {},
    }


def measured(*variants: StabilityOf) -> Stability:
    return {
        "version": results.VERSION, "measure": "stability", "corpus": "a <b> & c", "held_out": True, "seed": 0,
        "pieces": 10, "raw_bytes": 2500, "rates": ["0.1"], "main_rate": "0.1", "variants": list(variants),
        "left_out": {"bpe": "<too small>"},
    }  # fmt: skip


def fuzzy(colliding: int, alike: int, occurrences: int) -> FuzzinessOf:
    def count(unique: int) -> Count:
        return {"unique": unique, "occurrences": occurrences if unique else 0}

    return {
        "variant": "it", "lossless": False, "raw_bytes": 2500, "symbols": 1000, "dropped_bytes": 0, "chunks": 1000,
        "distinct_chunks": 100, "codes": 90, "shared_codes": colliding, "colliding": count(colliding),
        "alike": count(alike), "least_shared": 0.5 if colliding else None,
        "histogram": [count(colliding if n == 5 else 0) for n in range(10)],
        "differences": {"letters": count(colliding)},
        "examples": [{"usual": "'<i>'", "other": "'<script>'", "occurrences": 1, "shared": 0.5}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "level", "said"),
    [
        (stable("it", 0.35, above=-0.05), "promising", "More stable than BPE"),
        (stable("it", 0.42, above=0.0), "promising", "As stable as BPE"),
        (stable("it", 0.55, above=0.1), "open", "Less stable than BPE: 55% of the symbols"),
        (stable("it", 0.95, median=60, above=0.5), "unsuitable", "one edit changes 60% of a piece's symbols"),
        (stable("it", 0.12, above=-0.3, size=1.49), "doubtful", "Saves little: 12% of the symbols"),
        (stable("raw", 0.1), "reference", "The bytes themselves"),
    ],
)
def test_verdicts_follow_the_rules(one: StabilityOf, level: str, said: str) -> None:
    found = verdict(measured(one, stable("bpe", 0.41, size=1.2)), one, None)
    assert found.level == level
    assert said in found.text


def test_bpe_is_the_reference_and_its_absence_is_said() -> None:
    bpe, other = stable("bpe", 0.41), stable("it", 0.3)
    assert verdict(measured(bpe), bpe, None).level == "reference"
    assert "No BPE was measured" in verdict(measured(other), other, None).text


@pytest.mark.parametrize(
    ("found", "level", "said"),
    [
        (fuzzy(0, 0, 0), "promising", "Each code stands for one text"),
        (fuzzy(10, 9, 300), "promising", "Fuzzy as in the paper: 30.00%"),
        (fuzzy(10, 8, 10), "promising", "Seldom ambiguous: 1.00%"),
        (fuzzy(10, 8, 11), "doubtful", "Confuses different texts"),
    ],
)
def test_collisions_count_where_they_are_frequent_and_differ(found: FuzzinessOf, level: str, said: str) -> None:
    judged = verdict(None, None, found)
    assert judged.level == level
    assert said in judged.text
    open_one = stable("it", 0.55, above=0.1)
    beside = verdict(measured(open_one, stable("bpe", 0.41)), open_one, found)
    assert beside.level == ("open" if level == "promising" else "doubtful")
    bad = stable("it", 0.95, median=60, above=0.5)
    assert verdict(measured(bad, stable("bpe", 0.41)), bad, found).level == "unsuitable"


class Reader(HTMLParser):
    """Text and attributes of a page; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_escaped_and_needs_nothing_else(tmp_path: Path) -> None:
    page.write(tmp_path, measured(stable("it", 0.35, above=-0.05), stable("bpe", 0.41)))
    page.write(tmp_path, {
        "version": results.VERSION, "measure": "fuzziness", "corpus": "a <b> & c", "held_out": True,
        "documents": 3, "raw_bytes": 2500, "variants": [fuzzy(10, 8, 300)], "left_out": {},
    })  # fmt: skip
    text = (tmp_path / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert not reader.tags & {"script", "link", "img", "iframe", "b"}
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|@import|url\((?!["']?#)""", text)
    for said in ("Proxies on a <b> & c", "<too small>", "'<script>'", "Stability", "Fuzziness", "More stable than BPE"):
        assert said in reader.text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 4
    assert "currentColor" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html", "stability.json", "fuzziness.json", "fuzziness-lcp.svg",
        "stability-frontier.svg", "stability-edits.svg", "stability-reach.svg",
    }  # fmt: skip


def test_commands_update_one_page(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    shared = {"corpus": "pipelines", "variants": ("tokenizer", "raw"), "all_documents": True, "out": out}
    proxy = ProxyOptions(tokenizer=TOKENIZER)
    fuzziness.run(FuzzinessOptions(**shared, proxy=proxy, bytes=20_000))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "<h2>Fuzziness</h2>" in text
    assert "<h2>Stability</h2>" not in text
    stability.run(StabilityOptions(**shared, proxy=proxy, pieces=4))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "<h2>Fuzziness</h2>" in text
    assert "<h2>Stability</h2>" in text
    assert "Each code stands for one text." in text


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fuzziness.json").write_text('{"measure": "fuzziness", "version": 0}')
    with pytest.raises(UserError, match=r"fuzziness\.json: not a result"):
        page.write(tmp_path, measured(stable("it", 0.3)))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        stability.run(StabilityOptions(corpus="pipelines", out=str(tmp_path / "file"), all_documents=True))
