"""Which compressor or tokenizer a corpus gets."""

import random
import shutil
from pathlib import Path

import pytest

from compressor_model import fit
from compressor_model.artefact import PRETRAINED
from compressor_model.small_training import SmallOptions
from pipelines.proxies import cache as cache_module
from pipelines.proxies import compressors, prepare
from pipelines.proxies.compressors import choose_compressor
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.records import ReadOptions
from pipelines.storage import Folder
from pipelines.temporary import process_folder
from schemas.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sampler(folder: Path) -> Sampler:
    return Sampler(list_corpus(str(folder)), ReadOptions())


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Text that the shipped compressor codes badly: random upper-case letters in a few made-up words."""
    rng = random.Random(0)
    words = ["".join(rng.choices("QWXZKVJ", k=6)) for _ in range(300)]
    (tmp_path / "foreign").mkdir()
    for n in range(40):
        (tmp_path / "foreign" / f"{n}.txt").write_text("~".join(rng.choices(words, k=1000)))
    return tmp_path / "foreign"


def test_source_code_keeps_the_shipped_compressor() -> None:
    lines: list[str] = []
    chosen = choose_compressor(ProxyOptions(), sampler(Path("pipelines")), lines.append)
    assert chosen.folder == PRETRAINED
    assert "the shipped one codes this corpus at" in lines[0]


def test_a_small_foreign_corpus_keeps_it_and_says_so(foreign: Path) -> None:
    lines: list[str] = []
    assert choose_compressor(ProxyOptions(), sampler(foreign), lines.append).folder == PRETRAINED
    assert "smaller than 8 MiB, too small to fit" in lines[0]


def test_a_larger_foreign_corpus_gets_its_own_once(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressors, "SAMPLE_BYTES", 100_000)
    quick = fit.FitOptions(bits=(12,), lm=SmallOptions(steps=60, batch=2048, learning_rate=0.03))
    monkeypatch.setattr(compressors.fit, "FitOptions", lambda bits: quick)
    lines: list[str] = []
    options = ProxyOptions(bits=12)
    chosen = choose_compressor(options, sampler(foreign), lines.append)
    assert chosen.folder != PRETRAINED
    assert any("fitting one to the corpus" in line for line in lines)
    shipped_ratio = float(lines[0].split("at ")[1].split(" bytes")[0])
    assert chosen.score(12) > 1.2 * shipped_ratio
    again: list[str] = []
    assert choose_compressor(options, sampler(foreign), again.append).folder == chosen.folder
    assert any("fitted before" in line for line in again)


def test_pretrained_of_bits_that_are_not_shipped_is_refused() -> None:
    with pytest.raises(UserError, match=r"BITS=14 COMPRESSOR=pretrained: a compressor of \[12, 16\] bits is shipped"):
        choose_compressor(ProxyOptions(bits=14, compressor="pretrained"), sampler(Path("pipelines")), print)
    with pytest.raises(UserError, match="too small to fit one"):
        choose_compressor(ProxyOptions(bits=14), sampler(Path("pipelines")), print)


def test_given_folder_is_opened_or_refused(tmp_path: Path) -> None:
    shutil.copytree(PRETRAINED, tmp_path / "mine")
    options = ProxyOptions(compressor=str(tmp_path / "mine"))
    chosen = prepare.choose(options, sampler(Path("pipelines")), None, None, print)
    assert str(tmp_path / "mine") in chosen.proxy.uri
    installed = chosen.install(Folder(str(tmp_path / "out")))
    assert str(tmp_path / "out" / "meta/proxy") in installed.uri
    assert installed.fingerprint == chosen.proxy.fingerprint
    (tmp_path / "mine" / "segments.npz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"segments\.npz: damaged"):
        prepare.choose(options, sampler(Path("pipelines")), None, None, print)
    with pytest.raises(UserError, match=r"no card\.json there"):
        choose_compressor(ProxyOptions(compressor=str(tmp_path)), sampler(Path("pipelines")), print)


def test_where_there_can_be_no_cache_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    lines: list[str] = []
    path = cache_module.place("tokenizer", {})
    temp = cache_module.beside(path, lines.append)
    assert temp.parent == process_folder()  # which is deleted when the process ends, and locked until then
    assert lines[0].startswith(f"{tmp_path}/file/proxy-compression: no cache (")
    temp.write_bytes(b"x")
    assert cache_module.settle(temp, path) == temp


def test_a_tokenizer_below_a_question_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a?b.json"
    path.write_bytes(b"{}")
    with pytest.raises(UserError, match=r"a\?b\.json: a proxy's files cannot lie below a name with '\?'; rename it"):
        prepare.choose(ProxyOptions(proxy="bpe", tokenizer=str(path)), sampler(tmp_path), None, None, print)


def test_tokenizer_is_trained_on_the_corpus_once(cache: Path, tmp_path: Path) -> None:
    options = ProxyOptions(proxy="bpe", vocab_size=400)
    lines: list[str] = []
    first = prepare.choose(options, sampler(Path("schemas")), None, None, lines.append)
    second = prepare.choose(options, sampler(Path("schemas")), None, None, lines.append)
    assert first.proxy.fingerprint == second.proxy.fingerprint
    assert "training a BPE tokenizer" in lines[0]
    assert "trained before" in lines[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy": "zip"}, "PROXY=zip: unknown; there are neural, bpe, gzip, identity"),
        ({"coder": "huffman"}, "CODER=huffman"),
        ({"bits": 17}, "BITS=17: symbols have 12 to 16 bits"),
        ({"vocab_size": 3}, "--vocab-size 3"),
        ({"tokenizer": "/nowhere/t.json"}, "TOKENIZER=/nowhere/t.json: no such file"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ProxyOptions(**options)
