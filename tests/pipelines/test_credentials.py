"""What a signed URL lets in reaches neither a compressor's card nor the name of a dataset."""

from pathlib import Path
from typing import Any

import fsspec
import pytest

from compressor_model import command
from pipelines.default_out import corpus_name, default_out
from pipelines.proxies import compressors
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.records import ReadOptions

SIGNATURE = "0123456789abcdef0123456789abcdef"
SIGNED = f"memory://signed/a.txt?X-Amz-Signature={SIGNATURE}"


class _FittedError(Exception):
    pass


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What fitting is given; it fits nothing."""
    seen: dict[str, Any] = {}

    def fit(*_: object, **options: Any) -> None:
        seen.update(options)
        raise _FittedError

    monkeypatch.setattr(compressors.fit, "fit", fit)
    monkeypatch.setattr(command, "fit", fit)
    fsspec.filesystem("memory").pipe(f"/signed/a.txt?X-Amz-Signature={SIGNATURE}", b"text")
    return seen


def test_the_card_of_a_compressor_fitted_to_a_corpus(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(_FittedError):
        compressors.fitted_compressor(12, Sampler(list_corpus(SIGNED), ReadOptions()), lambda _: None)
    assert given["provenance"]["corpus"]["spec"] == "memory://signed/a.txt?X-Amz-Signature=***"
    assert SIGNATURE not in repr(given)


def test_the_card_of_a_compressor_fitted_by_command(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor_model.command.sys.argv", ["program", "fit", "--corpus", SIGNED])
    with pytest.raises(_FittedError):
        command.run(command.FitCommand(corpus=SIGNED))
    assert given["provenance"]["corpus"]["spec"] == "memory://signed/a.txt?X-Amz-Signature=***"
    assert "--corpus" in given["provenance"]["command"]
    assert given["folder"] == Path("data/compressor-a")
    assert SIGNATURE not in repr(given)


def test_the_default_name_of_a_dataset() -> None:
    assert corpus_name(f"https://host/b/lines.jsonl.gz?X-Amz-Signature={SIGNATURE}&a=b/c") == "lines"
    assert default_out(f"https://host/a.txt?sig={SIGNATURE}", "bpe") == "data/a-bpe"
    assert corpus_name("folder/what?") == "what"
