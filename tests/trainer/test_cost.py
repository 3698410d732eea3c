"""`evaluate cost`: what is measured is what is meant; how long it took is nobody's business here."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import UserError
from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_OPEN
from tests.trainer.small_models import drawn, folder_of_model
from trainer.data.views import Mode
from trainer.evaluate import cost, timing
from trainer.evaluate.cost import CostOptions, evaluate, with_heads
from trainer.evaluate.timing import cache_bytes, time_bytes, time_symbols, weight_bytes
from trainer.inference.decoding import Generator
from trainer.model.cache import Cache
from trainer.model.evabyte import EvaByte


@pytest.fixture(scope="module")
def folder(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_model(datasets["neural"], tmp_path_factory.mktemp("cost") / "model", heads=4)


@pytest.fixture(scope="module")
def symbols(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_model(datasets["neural"], tmp_path_factory.mktemp("cost") / "comp", Mode.COMP_ONLY, heads=1)


def found(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "prompt_bytes": (20, 90), "max_bytes": 24, "rounds": 2, "documents": 2, "heads": (1, 2, 4, 8), **changes,
    }  # fmt: skip
    return evaluate(CostOptions(run=str(folder), out=str(out), json=True, **given))


def logits(model: EvaByte, ids: list[int]) -> torch.Tensor:
    one = torch.tensor([ids])
    with torch.no_grad():
        hidden = model(one, torch.zeros_like(one), torch.arange(len(ids))[None])
        return model.lm_head(hidden)[0, -1, 0]


def test_every_model_writes_the_same_text_from_the_same_prompts(folder: Path, symbols: Path, tmp_path: Path) -> None:
    figures = found(folder, tmp_path, beside=str(symbols))
    names = ["bytes, plain", "bytes, 2 heads", "bytes, 4 heads", "symbols"]
    assert [(row["prompt_bytes"], row["model"]) for row in figures["rows"]] == [
        (size, name) for size in (20, 90) for name in names
    ]
    assert figures["bytes_per_symbol"] > 1
    assert str(symbols) in figures["symbols_from"]
    for row in figures["rows"]:
        seconds = row["seconds"]
        for spread in (seconds["first"], seconds["per_byte"]):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        assert seconds["bytes_per_second"] == pytest.approx(1 / seconds["per_byte"]["median"], rel=1e-3)
        if row["model"] == "bytes, plain":
            assert row["bytes_per_pass"] == 1
        if row["model"] == "symbols":
            assert row["bytes_per_pass"] == figures["bytes_per_symbol"]
    (group,) = figures["acceptance"]
    assert (group["group"], group["documents"]) == ("py", 2)
    assert list(group["bytes_per_pass"]) == ["1", "2", "4"]
    assert group["bytes_per_pass"]["1"] in (1, None)  # a text may end at once
    (path,) = tmp_path.glob("cost-*.json")
    assert json.loads(path.read_bytes())["figures"] == figures


def test_what_is_measured_is_kept_and_the_rest_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, sizes = cost._measure, []

    def stopping(subjects: Any, size: int, options: CostOptions) -> list[dict[str, Any]]:
        sizes.append(size)
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return real(subjects, size, options)

    monkeypatch.setattr(cost, "_measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        found(folder, tmp_path)
    figures = found(folder, tmp_path)
    assert sizes == [20, 90, 90]
    assert found(folder, tmp_path) == figures  # the very same times: nothing is measured again
    assert sizes == [20, 90, 90]
    assert figures["bytes_per_symbol"] is None
    assert all(row["model"].startswith("bytes") for row in figures["rows"])
    capsys.readouterr()
    evaluate(
        CostOptions(
            run=str(folder), out=str(tmp_path), prompt_bytes=(20, 90), max_bytes=24, rounds=2, documents=2,
        )
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "bytes, 4 heads" in out
    assert "bytes a pass, by number of heads" in out


def test_a_trunk_of_random_weights_stands_for_a_model_of_symbols(folder: Path, tmp_path: Path) -> None:
    figures = found(
        folder, tmp_path, vocabulary=1000, bytes_per_symbol=3.0, prompt_bytes=(30,), heads=(1,), documents=0
    )
    plain, random = figures["rows"]
    assert figures["symbols_from"] == "random weights, V 1,000"
    assert random["bytes_per_pass"] == 3
    assert figures["acceptance"] == []
    config = drawn(1000).config
    trunk = plain["weight_bytes"] - 4 * 2 * config.dim * (320 + 4096)  # an embedding and one head
    assert random["weight_bytes"] == trunk + 4 * 2 * config.dim * 1000


def test_fewer_heads_are_the_same_model_that_never_ends() -> None:
    model = drawn(400, main_heads=2, raw_heads=3)
    prompt = b"some text, longer than a window or two of sixteen"
    with torch.no_grad():
        model.lm_head.weight[2] = 50 * model.lm_head.weight[100]  # it would like to end
    for count in (1, 2, 4):
        fewer = with_heads(model, count, endless=False)
        assert fewer.config.main_heads + fewer.config.raw_heads == count
        result = Generator(fewer, nodes=None if count > 1 else 1).generate([prompt], max_bytes=40)[0]
        assert result.data == Generator(model).generate([prompt], max_bytes=40)[0].data
        endless = Generator(with_heads(model, count, endless=True)).generate([prompt], max_bytes=40)[0]
        assert (len(endless.data), endless.ended) == (40, "length")
        assert fewer.embed_tokens.weight.data_ptr() == model.embed_tokens.weight.data_ptr()


def test_symbols_are_the_likeliest_that_are_no_special_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(400)
    ids, written = [BOS, COMP_OPEN, *range(330, 370)], []
    real = timing._likeliest
    monkeypatch.setattr(timing, "_likeliest", lambda *of: written.append(real(*of)) or written[-1])
    taken = time_symbols(model, ids, 30)
    assert (taken.made, taken.passes, len(written)) == (29, 29, 30)
    for symbol in written:
        scores = logits(model, ids)
        scores[:BYTE_OFFSET] = -torch.inf
        assert symbol == int(scores.argmax())
        ids.append(symbol)


def test_a_timing_counts_what_is_made_after_the_first() -> None:
    model = with_heads(drawn(320), 3, endless=True)
    taken = time_bytes(Generator(model), b"a prompt", 50)
    assert taken.made == 49
    assert 49 / 3 <= taken.passes <= 49
    assert taken.peak_bytes is None or taken.peak_bytes >= 0


def test_sizes_are_those_of_the_tensors() -> None:
    model = drawn(400)
    cache = Cache(model, nodes=5)
    cache.prefill(0, torch.arange(64, 64 + 37))
    assert cache_bytes(model, 37, 5) == cache._kv.nbytes
    assert weight_bytes(model) == 4 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "1 or more"), ({"max_bytes": 1}, "16 or more"), ({"prompt_bytes": ()}, "one number or more"),
        ({"vocabulary": 500}, "belong together"), ({"vocabulary": 320, "bytes_per_symbol": 2.0}, "more than the 320"),
        ({"vocabulary": 500, "bytes_per_symbol": 0.0}, "more than 0"),
        ({"beside": "a", "vocabulary": 500, "bytes_per_symbol": 2.0}, "give one of them"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        found(folder, tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_runs_that_cannot_be_compared_are_one_line(
    folder: Path, symbols: Path, datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, changes, message in (
        (symbols, {}, "cannot write bytes; give it as --beside"),
        (folder, {"beside": str(folder)}, "expected comp-only"),
        (folder, {"beside": str(symbols), "data": str(datasets["bpe"])}, "of another proxy"),
    ):
        with pytest.raises(UserError, match=message):
            found(run, tmp_path, **changes)
    real = cost.restore

    def wider(run: str) -> Any:
        restored = real(run)
        if run == str(symbols):
            restored.model.config = dataclasses.replace(restored.model.config, ffn=64)
        return restored

    monkeypatch.setattr(cost, "restore", wider)
    with pytest.raises(UserError, match="another trunk: ffn is 64, 48 in --run"):
        found(folder, tmp_path, beside=str(symbols))
