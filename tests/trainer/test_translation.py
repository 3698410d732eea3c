"""`evaluate translation`: pairs as in training, wrong views that are wrong, bits and bytes by plain computations."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from tests.trainer.data_fixtures import MemoryDataset, Row
from tests.trainer.small_models import folder_of_model
from trainer.checkpoints.restore import restore
from trainer.data.dataset import Dataset
from trainer.data.packing import BatchWriter, Layout
from trainer.data.rendering import Rendering
from trainer.data.views import Mode, View
from trainer.evaluate import translation
from trainer.evaluate.documents import Text, texts_of
from trainer.evaluate.pairs import Pair, before_raw, distinct, others, pair_of, with_raw
from trainer.evaluate.translation import CONTEXTS, TranslationOptions, evaluate, figures_of
from trainer.inference.sampling import CHOICES


@pytest.fixture(scope="module")
def run(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_model(datasets["neural"], tmp_path_factory.mktemp("translation") / "model")


def found(run: Path, out: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"documents": 6, "max_bytes": 14, **changes}
    return evaluate(TranslationOptions(run=str(run), out=str(out), json=True, **given))


def items_in(out: Path) -> dict[str, dict[str, Any]]:
    (lines,) = out.glob("*.jsonl")
    return {line["key"]: line["item"] for line in map(json.loads, lines.read_text().splitlines())}


def made_pair(number: int, comp: list[int], raw: bytes = b"abc") -> Pair:
    return Pair(key=str(number), doc_id=str(number), group="py", raw=raw, comp=np.array(comp, np.int64), whole=True)


@pytest.mark.parametrize("sentinels", [True, False])
@pytest.mark.parametrize("view", [View.COMP_RAW, View.RAW])
def test_ids_are_those_that_packing_places(sentinels: bool, view: View) -> None:
    dataset = MemoryDataset([[Row(b"some raw bytes", [320, 330, 70, 340], [4, 5, 1, 4])]])
    document = dataset.read(0, ("raw", "comp", "spans")).document(0)
    layout = Layout(sequence=40, main_heads=1, raw_heads=0, sentinels=sentinels, pair_symbols=40)
    writer = BatchWriter(1, layout)
    writer.open_row()
    rendering = Rendering(document, view, sentinels=sentinels)
    assert writer.place(rendering, 0) == rendering.length
    writer.pad()
    placed = writer.finish().ids[0, : rendering.length]
    comp = None if view is View.RAW else np.array([320, 330, 70, 340])
    ids = with_raw(before_raw(comp, sentinels), b"some raw bytes")
    assert ids.tolist() == placed[: len(ids)].tolist()
    assert len(placed) - len(ids) == (2 if sentinels else 1)  # </raw> eos


def test_bits_and_bytes_equal_plain_computations_without_padding_or_cache(
    run: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    figures = found(run, tmp_path)
    items = items_in(tmp_path)
    assert len(items) == figures["documents"] == 6
    model = restore(str(run)).model
    texts = texts_of(Dataset(str(datasets["neural"])), 0.3, 6, ("raw", "comp", "spans"))
    pairs = {text.key: pair_of(text, 14, 32, sentinels=True) for text in texts}
    assert {key: pair and len(pair.raw) for key, pair in pairs.items()} == {k: i["bytes"] for k, i in items.items()}

    def logits(ids: list[int]) -> torch.Tensor:
        one = torch.tensor([ids])
        with torch.no_grad():
            hidden = model(one, torch.zeros_like(one), torch.arange(len(ids))[None])
            return model.lm_head(hidden)[0, :, 0]

    for key, pair in pairs.items():
        assert pair is not None
        other = pairs[items[key]["beside"]]
        assert other is not None
        assert other.comp.tobytes() != pair.comp.tobytes()
        for name, comp in zip(CONTEXTS, (pair.comp, other.comp, None), strict=True):
            before = before_raw(comp, sentinels=True)
            ids = [*before, *(64 + byte for byte in pair.raw)]
            told = logits(ids[:-1]).log_softmax(1)[range(len(before) - 1, len(ids) - 1), ids[len(before) :]]
            assert items[key][name] == pytest.approx(-float(told.double().sum()) / math.log(2), rel=1e-5)
    for key in list(items)[:2]:
        pair, made = pairs[key], b""
        assert pair is not None
        ids = before_raw(pair.comp, sentinels=True)
        while len(made) < len(pair.raw) + translation.SPARE:
            best = int(logits(ids)[-1, list(CHOICES)].argmax())
            if best > 255:
                break
            made += bytes([best])
            ids.append(64 + best)
        assert items[key]["text"] == made.decode(errors="replace")
        assert items[key]["exact"] == (made == pair.raw)
        assert figures["examples"][sorted(items).index(key)]["right"] == pair.raw.decode()


def test_any_batch_and_any_restart_give_the_same_bytes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for batch in (1, 3, 8, 64):
        found(run, tmp_path / str(batch), batch=batch)
        results.append([path.read_bytes() for path in sorted((tmp_path / str(batch)).iterdir())])
    assert all(result == results[0] for result in results)
    real, calls = translation.told, 0

    def failing(*arguments: Any, **named: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(translation, "told", failing)
    with pytest.raises(KeyboardInterrupt):
        found(run, tmp_path / "parts", batch=2)
    found(run, tmp_path / "parts", batch=2)
    assert calls == 6 + 6 - 4
    assert [path.read_bytes() for path in sorted((tmp_path / "parts").iterdir())] == results[0]


def test_only_the_first_are_written(run: Path, tmp_path: Path) -> None:
    whole, some = found(run, tmp_path / "a"), found(run, tmp_path / "b", written=2)
    assert (whole["all"]["written"], some["all"]["written"]) == (6, 2)
    assert some["all"]["gate"] == whole["all"]["gate"]
    assert some["examples"] == whole["examples"][:2]


def test_without_sentinels_and_spans_and_without_writing(
    datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder_of_model(datasets["bpe"], tmp_path / "bpe", Mode.NO_SENTINELS)
    figures = evaluate(TranslationOptions(run=str(run), documents=4, max_bytes=20, written=0))
    assert "exact" not in figures["all"]
    assert figures["examples"] == []
    assert not figures["aligned"]
    assert f"{run}: own minus other's comp view" in capsys.readouterr().out
    # gzip has no spans: whole documents, and these are too long for a pair
    run = folder_of_model(datasets["gzip"], tmp_path / "gzip")
    with pytest.raises(UserError, match="of 9 documents 0 have a beginning") as error:
        found(run, tmp_path, documents=9)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", [Mode.BYTES, Mode.COMP_ONLY])
def test_a_model_of_one_view_is_one_line(datasets: dict[str, Path], tmp_path: Path, mode: Mode) -> None:
    run = folder_of_model(datasets["neural"], tmp_path / "model", mode)
    with pytest.raises(UserError, match=f"MODE={mode} .* nothing to translate") as error:
        found(run, tmp_path)
    assert "\n" not in str(error.value)


def test_bad_options_and_other_proxies_are_one_line(run: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    for changes, message in (
        ({"documents": 1}, "needs another one"), ({"max_bytes": 0}, "1 or more"), ({"seed": -1}, "0 or more"),
        ({"written": -1}, "0 or more"),
        ({"data": str(datasets["bpe"])}, "of another proxy"), ({"max_bytes": 1}, "two are needed"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            found(run, tmp_path, **changes)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 80), st.integers(8, 90), st.booleans())
def test_a_pair_is_the_longest_beginning_that_both_views_can_be_cut_at(
    spans: list[int], most_bytes: int, most_ids: int, sentinels: bool
) -> None:
    spans[0] = max(1, spans[0])
    raw = bytes(range(sum(spans) % 256)) * 1 + bytes(sum(spans) - sum(spans) % 256)
    comp = np.arange(320, 320 + len(spans), dtype=np.int32)
    text = Text(key="a", doc_id="a", group="", raw=raw, comp=comp, spans=np.array(spans, np.uint16))
    fixed = 6 if sentinels else 2
    fitting = [
        end
        for end in range(1, len(spans) + 1)
        if (end == len(spans) or spans[end] > 0)
        and sum(spans[:end]) <= most_bytes
        and sum(spans[:end]) + end + fixed <= most_ids
    ]
    pair = pair_of(text, most_bytes, most_ids, sentinels=sentinels)
    if not fitting:
        assert pair is None
        return
    assert pair is not None
    assert len(pair.comp) == max(fitting)
    assert pair.raw == raw[: sum(spans[: max(fitting)])]
    assert pair.whole == (max(fitting) == len(spans) or not any(spans[max(fitting) :]))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=100), st.integers(0, 3), st.randoms())
def test_every_pair_gets_another_one_of_about_its_length(lengths: list[int], seed: int, rng: Any) -> None:
    pairs = [made_pair(n, [320] * length) for n, length in enumerate(lengths)]
    wrong = others(pairs, seed)
    assert sorted(pair.key for pair in wrong.values()) == sorted(pair.key for pair in pairs)
    assert all(wrong[pair.key].key != pair.key for pair in pairs)
    ranks = {key: rank for rank, key in enumerate(sorted(wrong, key=lambda key: (lengths[int(key)], key)))}
    assert all(abs(ranks[key] - ranks[other.key]) < 32 for key, other in wrong.items())
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert {key: pair.key for key, pair in others(shuffled, seed).items()} == {k: p.key for k, p in wrong.items()}


def test_another_piece_of_a_document_is_no_other_document() -> None:
    pairs = [replace(made_pair(n, [320 + n] * (1 + n % 5)), doc_id=f"{n % 40}") for n in range(160)]
    wrong = others(pairs, 0)
    assert all(wrong[pair.key].doc_id != pair.doc_id for pair in pairs)
    alone = [replace(pair, doc_id="a") for pair in pairs[:3]]  # there is nothing else
    assert all(others(alone, 0)[pair.key].key != pair.key for pair in alone)


def test_equal_symbols_are_no_wrong_view() -> None:
    assert [pair.key for pair in distinct([made_pair(0, [320]), made_pair(1, [320]), made_pair(2, [321])])] == [
        "0",
        "2",
    ]


def test_the_gate_is_passed_when_own_views_help_and_only_then() -> None:
    pairs = [made_pair(n, [320 + n], b"abcd") for n in range(20)]

    def figures(own: float, exact: bool, edits: int) -> dict[str, Any]:
        items = {
            pair.key: {
                "own": own + 0.01 * n, "other": 8.0, "none": 9.0, "exact": exact, "edits": edits, "characters": 4,
                "text": "abcd",
            }
            for n, pair in enumerate(pairs)
        }  # fmt: skip
        return figures_of(pairs, items, skipped=0, examples=2)

    good = figures(2.0, exact=True, edits=0)
    assert good["aligned"]
    assert good["all"]["gate"]["value"] == pytest.approx((2.095 - 8.0) / 4)
    assert good["all"]["gain"]["value"] == pytest.approx((2.095 - 9.0) / 4)
    assert good["all"]["exact"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert len(good["examples"]) == 2
    bad = figures(7.2, exact=False, edits=3)  # better by .2 bits a byte
    assert not bad["aligned"]
    assert bad["all"]["character_error"]["value"] == 0.75
