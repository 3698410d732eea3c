"""Stability: the same pieces for every proxy, the right order of proxies, seeded."""

from pathlib import Path

import pytest

from pipelines import proxies
from pipelines.measure import StabilityOptions, measure, stability
from pipelines.proxies.prepare import ProxyOptions
from schemas.errors import UserError

TOKENIZER = str(Path(__file__).parent.parent / "data" / "tokenizer.json")


@pytest.fixture(scope="module")
def pieces() -> list[str]:
    return [path.read_text()[:3000] for path in sorted(Path("pipelines").glob("*.py"))[:12]]


def test_neural_is_stable_and_gzip_is_not(pieces: list[str]) -> None:
    options = StabilityOptions()
    found = {name: measure(name, proxies.load(f"{name}:"), pieces, options) for name in ("gzip", "identity")}
    found["neural"] = measure("neural", proxies.load(ProxyPath.neural), pieces, options)
    assert found["neural"].distances["0.1"] < 0.5 < 0.9 < found["gzip"].distances["0.1"]
    # raw bytes change exactly where they were deleted
    assert found["identity"].distances["0.1"] == pytest.approx(0.1, abs=0.01)
    assert found["identity"].floors["0.1"] == pytest.approx(0.1)
    for result in found.values():
        assert result.distances["0.01"] < result.distances["0.1"]


class ProxyPath:
    from compressor_model.artefact import PRETRAINED

    neural = f"neural:{PRETRAINED}?coder=codebook&bits=16"


def test_it_is_seeded_and_says_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    options = StabilityOptions(
        corpus="pipelines", proxy=ProxyOptions(proxy="bpe", tokenizer=TOKENIZER), compare=("gzip",),
        all_documents=True, pieces=5, json=True,
    )  # fmt: skip
    first = stability(options)
    assert [result.proxy for result in first] == [f"bpe {TOKENIZER}", "gzip"]
    assert first == stability(options)
    assert '"bytes_per_symbol"' in capsys.readouterr().out


def test_no_held_out_document_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(UserError, match="--all-documents"):
        stability(StabilityOptions(corpus=str(tmp_path), proxy=ProxyOptions(proxy="gzip")))
