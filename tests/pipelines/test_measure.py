"""Stability: known answers on hand-made proxies, the order of the real ones, seeds, groups, options."""

import json
from pathlib import Path

import numpy as np
import pytest

from compressor_model.artefact import PRETRAINED
from pipelines import proxies
from pipelines.measure import fuzziness, stability, variants
from pipelines.measure.edits import characters
from pipelines.measure.fuzziness import FuzzinessOptions
from pipelines.measure.response import ENOUGH_PIECES, Edited, View, entropy, floor, measure, reach, views
from pipelines.measure.results import Stability, StabilityOf
from pipelines.measure.sample import Piece
from pipelines.measure.stability import StabilityOptions
from pipelines.measure.variants import VARIANTS, label, requested
from pipelines.proxies import Encoded, Proxy
from pipelines.proxies.base import U32
from pipelines.proxies.options import ProxyOptions
from schemas import command_line
from schemas.command_line import Command
from schemas.errors import UserError
from schemas.vocabulary import COMP_OFFSET, Vocabulary

TOKENIZER = str(Path(__file__).parent.parent / "data" / "tokenizer.json")
RATES = (0.01, 0.1)


class Blocks(Proxy):
    """Blocks of four bytes, counted from the document's start: one deletion shifts all that follow."""

    name = "blocks"
    fingerprint = "0" * 64
    vocabulary = Vocabulary(proxy="blocks", comp_symbols=1 << 31)

    def encode(self, raw: bytes) -> Encoded:
        blocks = [raw[at : at + 4] for at in range(0, len(raw), 4)]
        ids = np.array([COMP_OFFSET + int.from_bytes(block) % (1 << 31) for block in blocks], np.uint32)
        return Encoded(ids, np.array([len(block) for block in blocks], np.uint16))

    def decode(self, ids: U32) -> bytes:
        return b"".join((int(symbol) - COMP_OFFSET).to_bytes(4) for symbol in ids)


def pieces_of(texts: list[bytes]) -> list[Piece]:
    return [Piece(characters(text), n.to_bytes(16), ".py", "lib") for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def edited() -> Edited:
    texts = [path.read_bytes()[:3000] for path in sorted(Path("pipelines").glob("*.py"))[:12]]
    return Edited.of(pieces_of(texts), RATES, seed=0)


def figures(proxy: Proxy, edited: Edited) -> StabilityOf:
    return measure("it", proxy, edited, RATES, seed=0)[0]


def test_bytes_change_exactly_where_they_are_edited(edited: Edited) -> None:
    found, distances = measure("raw", proxies.load("identity:"), edited, RATES, seed=0)
    lost = [
        1 - len(after) / len(before)
        for before, after in zip(edited.before, edited.after["deletion", "0.1"], strict=True)
    ]
    assert distances == pytest.approx(lost)
    assert found["floors"] == {"0.01": pytest.approx(0.01), "0.1": pytest.approx(0.1)}
    assert found["bytes_per_symbol"] == {"mean": 1, "low": 1, "high": 1}
    once = {"median": 1, "mean": 1, "p95": 1}
    assert found["resynchronisation"] == {"symbols": once, "raw_bytes": once}
    assert found["vocabulary"] == 256
    assert found["vocabulary_used"] == round(len(set(b"".join(edited.before))) / 256, 6)


def test_fixed_blocks_never_find_back(edited: Edited) -> None:
    rng = np.random.default_rng(0)
    text = rng.permutation(256).astype(np.uint8).tobytes()[:200]  # no byte twice, so no two blocks are alike
    for place in (0, 6, 103, 199):
        before, after = views(Blocks(), [text, text[:place] + text[place + 1 :]])
        from_block = place // 4
        assert reach(before, after) == (50 - from_block, 200 - 4 * from_block)
    found = figures(Blocks(), edited)
    # after a deletion three of four blocks are cut elsewhere, until as many are lost as a block has
    assert 0.6 < found["distances"]["deletion"]["0.01"]["mean"] < 0.75
    assert found["distances"]["deletion"]["0.1"]["mean"] > found["floors"]["0.1"] == pytest.approx(1 - 0.9**4, abs=1e-3)
    # a substitution moves nothing: only the block it falls into
    assert found["distances"]["substitution"]["0.01"]["mean"] == pytest.approx(1 - 0.99**4, abs=0.005)


def test_reach_counts_the_larger_view_and_no_symbol_twice() -> None:
    spans = np.ones(4, np.int64)
    assert reach(View([1, 2, 3, 4], spans), View([1, 2, 3, 4], spans)) == (0, 0)
    assert reach(View([7, 7, 7, 7], spans), View([7, 7, 7], spans[:3])) == (1, 1)
    assert reach(View([1, 2, 3, 4], None), View([1, 9, 9, 9, 4], None)) == (3, None)
    assert reach(View([], spans[:0]), View([5], np.array([2]))) == (1, 2)


def test_entropy_and_floor_by_hand() -> None:
    assert entropy([8]) == 0
    assert entropy([1, 1, 2]) == pytest.approx(1.5)
    assert entropy([]) == 0
    two = [View([1, 2], np.array([1, 3]))]
    assert floor(two, np.array([4]), 0.5) == pytest.approx((0.5 + 0.875) / 2)
    assert floor([View([1, 2], None)], np.array([4]), 0.5) == pytest.approx(0.75)


def test_neural_is_stable_and_gzip_is_not(edited: Edited) -> None:
    neural = figures(proxies.load(f"neural:{PRETRAINED}?coder=codebook&bits=16"), edited)
    gzip = figures(proxies.load("gzip:"), edited)
    assert neural["distances"]["deletion"]["0.1"]["mean"] < 0.5 < 0.9 < gzip["distances"]["deletion"]["0.1"]["mean"]
    assert neural["bytes_per_symbol"]["mean"] > 2
    assert neural["resynchronisation"]["symbols"]["p95"] < 10
    assert gzip["resynchronisation"]["symbols"]["median"] > 100
    assert gzip["resynchronisation"]["raw_bytes"] is None
    for one in (neural, gzip):
        for by_rate in one["distances"].values():
            assert by_rate["0.01"]["mean"] < by_rate["0.1"]["mean"]
            assert by_rate["0.1"]["low"] < by_rate["0.1"]["mean"] < by_rate["0.1"]["high"]


def test_edits_of_a_document_do_not_depend_on_the_others() -> None:
    texts = [b"some text of one document, and more of it\n" * 9, b"another one\n" * 20]
    first, second = pieces_of(texts)
    both, alone = Edited.of([first, second], RATES, seed=3), Edited.of([second], RATES, seed=3)
    for key, after in alone.after.items():
        assert both.after[key][1:] == after
    assert {kind: after[1:] for kind, after in both.once.items()} == alone.once
    assert Edited.of([second], RATES, seed=4).after != alone.after


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python and prose in two folders, one file elsewhere, bytes, an empty file, a copy."""
    folder = tmp_path_factory.mktemp("measured")
    words = ["value = other[0]\n", "def f(self):\n", "    return None\n", "naïve ", "中文", "# text\n"]
    rng = np.random.default_rng(0)
    for n in range(ENOUGH_PIECES):
        for name in (f"code/{n}.py", f"notes/{n}.md"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("".join(rng.choice(words, 40).tolist()))
    (folder / "lone.txt").write_text("a line that stands alone\n" * 20)
    (folder / "noise.bin").write_bytes(rng.integers(0, 256, 600).astype(np.uint8).tobytes())
    (folder / "empty.md").write_bytes(b"")
    (folder / "copy.py").write_bytes((folder / "code" / "0.py").read_bytes())
    return folder


def run(corpus: Path, *names: str, out: Path | None = None, **options: int) -> Stability:
    return stability.run(
        StabilityOptions(
            corpus=str(corpus), variants=names, all_documents=True, json=True, out=out and str(out),
            proxy=ProxyOptions(tokenizer=TOKENIZER), **options,
        )
    )  # fmt: skip


def test_groups_sources_and_the_comparison_with_a_tokenizer(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(corpus, "tokenizer", "gzip")
    assert result == json.loads(capsys.readouterr().out)
    assert result["pieces"] == 2 * ENOUGH_PIECES + 2  # the copy is the same document, the empty one has nothing
    tokenizer, gzip = result["variants"]
    assert (tokenizer["variant"], gzip["variant"]) == ("tokenizer", "gzip")
    assert {key: part["pieces"] for key, part in gzip["by_group"].items()} == {"md": ENOUGH_PIECES, "py": ENOUGH_PIECES}
    assert list(gzip["by_source"]) == ["code", "notes"]
    assert tokenizer["above_bpe"] is None
    assert gzip["above_bpe"] is not None
    assert gzip["above_bpe"]["low"] > 0
    pair = [one["distances"]["deletion"]["0.1"]["mean"] for one in (gzip, tokenizer)]
    assert gzip["above_bpe"]["mean"] == pytest.approx(pair[0] - pair[1], abs=1e-5)


def test_the_same_seed_writes_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        run(corpus, "tokenizer", "gzip", "raw", out=tmp_path / name, pieces=8, seed=seed)
        fuzziness.run(
            FuzzinessOptions(
                corpus=str(corpus), variants=("tokenizer",), all_documents=True, out=str(tmp_path / name),
                proxy=ProxyOptions(tokenizer=TOKENIZER),
            )
        )  # fmt: skip
    one, again, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "again", "other")
    )
    assert one == again
    assert set(one) >= {"stability.json", "fuzziness.json", "stability-frontier.svg", "index.html"}
    assert one["stability.json"] != other["stability.json"]
    assert str(tmp_path).encode() not in b"".join(one.values()).replace(str(corpus).encode(), b"")


def test_what_cannot_be_built_is_listed_unless_it_is_all(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text("{}")
    options = StabilityOptions(
        corpus=str(corpus), variants=("tokenizer", "raw"), all_documents=True, json=True,
        proxy=ProxyOptions(tokenizer=str(tmp_path / "bad.json")), pieces=3,
    )  # fmt: skip
    result = stability.run(options)
    assert [one["variant"] for one in result["variants"]] == ["raw"]
    assert "bad.json" in result["left_out"]["tokenizer"]
    assert "tokenizer: left out" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"bad\.json"):
        stability.run(StabilityOptions(corpus=str(corpus), all_documents=True, proxy=ProxyOptions(
            proxy="bpe", tokenizer=str(tmp_path / "bad.json"))))  # fmt: skip
    with pytest.raises(UserError, match="gzip: its symbols cover no definite bytes"):
        fuzziness.run(FuzzinessOptions(corpus=str(corpus), all_documents=True, variants=("gzip", "raw")))


def test_every_short_name_is_what_it_says() -> None:
    options = ProxyOptions(tokenizer=TOKENIZER, bits=12)
    for name in VARIANTS:
        assert label(variants.named(name, options)) == name
        assert variants.named(name, options).bits == 12


def test_which_proxies_are_measured() -> None:
    assert requested((), ProxyOptions()) == [name for name in VARIANTS if name != "tokenizer"]
    assert requested((), ProxyOptions(tokenizer=TOKENIZER, bits=12)) == list(VARIANTS)
    assert requested((), ProxyOptions(coder="range")) == ["range"]
    assert requested((), ProxyOptions(proxy="bpe", tokenizer=TOKENIZER)) == ["tokenizer"]
    assert requested(("raw", "chosen", "raw"), ProxyOptions(proxy="gzip")) == ["raw", "gzip"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rates", "0"], "--rates"),
        (["--rates", "0.1", "1.5"], "--rates"),
        (["--rates", "nan"], "--rates"),
        (["--pieces", "0"], "--pieces"),
        (["--piece-characters", "10"], "--piece-characters"),
        (["--seed", "-1"], "--seed"),
        (["--variants", "gizp"], "--variants gizp: unknown"),
        (["--variants", "tokenizer"], "--tokenizer FILE"),
        (["--proxy", "nothing"], "PROXY=nothing"),
    ],
)
def test_bad_options_are_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = {"stability": Command("pipelines.measure.stability", "StabilityOptions", "run", "")}
    assert command_line.run("pipelines", commands, ["stability", *arguments]) == command_line.BAD_OPTIONS
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_bad_bytes_are_named() -> None:
    with pytest.raises(UserError, match="--bytes 0"):
        FuzzinessOptions(bytes=0)


def test_a_corpus_without_text_is_said(tmp_path: Path) -> None:
    gzip = ProxyOptions(proxy="gzip")
    with pytest.raises(UserError, match="no files"):
        stability.run(StabilityOptions(corpus=str(tmp_path), proxy=gzip))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(UserError, match="--all-documents"):
        stability.run(StabilityOptions(corpus=str(tmp_path), proxy=gzip))
    with pytest.raises(UserError, match="no document of 64 bytes or more"):
        stability.run(StabilityOptions(corpus=str(tmp_path), proxy=gzip, all_documents=True))
    (tmp_path / "short.txt").write_bytes(b"")
    with pytest.raises(UserError, match="no document with text"):
        fuzziness.run(FuzzinessOptions(corpus=str(tmp_path), all_documents=True))


def test_bytes_bound_the_sample(corpus: Path) -> None:
    result = fuzziness.run(
        FuzzinessOptions(
            corpus=str(corpus), variants=("tokenizer",), all_documents=True, json=True, bytes=1500,
            proxy=ProxyOptions(tokenizer=TOKENIZER),
        )
    )  # fmt: skip
    assert result["raw_bytes"] == result["variants"][0]["raw_bytes"] == 1500
