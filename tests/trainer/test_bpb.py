"""`evaluate bpb`: blocks, figures that hang on the document alone, an independent computation, what is refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from schemas.errors import UserError
from schemas.vocabulary import BOS, COMP_OPEN, RAW_OPEN
from tests.trainer.small_models import SEQUENCE, drawn, folder_of_model
from trainer.data.dataset import Dataset
from trainer.data.views import Mode
from trainer.evaluate import bpb
from trainer.evaluate.blocks import EMPTY, batch_of, blocks_of, comp_blocks_of
from trainer.evaluate.bpb import BpbOptions, code_length, evaluate
from trainer.evaluate.documents import Text, grouped, texts_of
from trainer.evaluate.intervals import ratio
from trainer.evaluate.yardsticks import ALONE, TOGETHER, sizes, together

CONTEXT = SEQUENCE


@pytest.fixture(scope="module")
def folder(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_model(datasets["neural"], tmp_path_factory.mktemp("bpb") / "model")


def found(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"documents": 6, "markov": (), **changes}
    return evaluate(BpbOptions(run=str(folder), out=str(out), json=True, **given))


# What the export says, once more: plain torch, one document's ids at a time, from the published formulas.


def plain_logits(folder: Path, ids: list[int]) -> Tensor:
    """Logits of head 0 [T, V] of the tensors and sizes in a Hugging Face folder."""
    config = json.loads((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    heads, window, chunk = config["num_attention_heads"], config["window_size"], config["chunk_size"]
    d = config["hidden_size"] // heads
    frequency = config["rope_theta"] ** (-torch.arange(0, d, 2) / d)

    def norm(x: Tensor, name: str) -> Tensor:
        gain = 1 + tensors[f"model.{name}.weight"]
        return gain * x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()

    def turned(x: Tensor, t: int) -> Tensor:
        one, two = x[: d // 2], x[d // 2 :]
        cos, sin = (t * frequency).cos(), (t * frequency).sin()
        return torch.cat([one * cos - two * sin, two * cos + one * sin])

    x = tensors["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        of = {
            name.removeprefix(f"model.layers.{layer}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        y = norm(x, f"layers.{layer}.input_layernorm")
        q, k, v = (y @ of[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        out = torch.zeros_like(y)
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            qs, ks = (torch.stack([turned(row, t) for t, row in enumerate(side[:, part])]) for side in (q, k))
            vs = v[:, part]
            mu, phi = (of[f"self_attn.adaptive_{name}"][0, h, 0, 0] for name in ("mu_k", "phi"))
            summaries = []
            for at in range(0, len(ids) // window * window, chunk):
                some, theirs = ks[at : at + chunk], vs[at : at + chunk]
                a = (some @ mu).softmax(0)
                b = ((some @ phi - some.square().sum(1) / 2) / math.sqrt(d)).softmax(0)
                summaries.append(((a @ some)[None], (b @ theirs)[None]))
            for i in range(len(ids)):
                start = i // window * window
                earlier = summaries[: start // chunk]
                keys = [ks[start : i + 1], *(key for key, _ in earlier)]
                values = [vs[start : i + 1], *(value for _, value in earlier)]
                share = (torch.cat(keys) @ qs[i] / math.sqrt(d)).softmax(0)
                out[i, part] = share @ torch.cat(values)
        x = x + out @ of["self_attn.o_proj.weight"].T
        y = norm(x, f"layers.{layer}.post_attention_layernorm")
        gate = y @ of["mlp.gate_proj.weight"].T
        x = x + (gate * gate.sigmoid() * (y @ of["mlp.up_proj.weight"].T)) @ of["mlp.down_proj.weight"].T
    return norm(x, "norm") @ tensors["lm_head.weight"][: config["vocab_size"]].T


def plain_bits(folder: Path, symbols: list[int], opener: int) -> float:
    """Bits of a view, 64 ids and their labels at a time, each block behind its opener."""
    bits, at = 0.0, 0
    while at < len(symbols):
        head = [BOS, opener] if at == 0 else [opener]
        ids = head + symbols[at : at + CONTEXT + 1 - len(head)]
        told = (-plain_logits(folder, ids[:-1]).log_softmax(1))[range(len(ids) - 1), ids[1:]]
        bits += float(told[len(head) - 1 :].double().sum()) / math.log(2)
        at += len(ids) - len(head)
    return bits


def test_figures_equal_an_independent_computation_through_the_export(
    folder: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    figures = found(folder, tmp_path, documents=1)
    texts = texts_of(Dataset(str(datasets["neural"])), 0.3, 1, ("raw", "comp"))
    size = sum(len(text.raw) for text in texts)
    raw = sum(plain_bits(folder, [64 + byte for byte in text.raw], RAW_OPEN) for text in texts)
    comp = sum(
        plain_bits(folder, [int(id_) for id_ in text.comp], COMP_OPEN) for text in texts if text.comp is not None
    )
    assert figures["raw_bytes"] == size
    assert figures["bits_per_byte"] == figures["all"]["raw"]["value"] == pytest.approx(raw / size, abs=1e-4)
    assert figures["all"]["comp"]["value"] == pytest.approx(comp / size, abs=1e-4)
    assert figures["all"]["symbols"] == sum(len(text.comp) for text in texts if text.comp is not None)


def test_any_batch_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    results = []
    for batch in (1, 3, 8, 64):
        found(folder, tmp_path / str(batch), batch=batch)
        results.append([path.read_bytes() for path in sorted((tmp_path / str(batch)).iterdir())])
    assert len(results[0]) == 2
    assert all(result == results[0] for result in results)


def test_a_document_alone_and_among_others_in_any_order_has_the_same_bits(
    folder: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    found(folder, tmp_path)
    (lines,) = tmp_path.glob("*.jsonl")
    kept = {line["key"]: line["item"] for line in map(json.loads, lines.read_text().splitlines())}
    assert len(kept) == 6
    texts = texts_of(Dataset(str(datasets["neural"])), 0.3, 6, ("raw", "comp"))
    model = drawn(Dataset(str(datasets["neural"])).vocabulary.size)
    for text in reversed(texts):
        assert code_length(model, blocks_of(text.raw, CONTEXT, True), CONTEXT) == kept[text.key]["raw"]
        assert text.comp is not None
        assert code_length(model, comp_blocks_of(text.comp, CONTEXT, True), CONTEXT) == kept[text.key]["comp"]


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(folder, tmp_path / "whole", batch=2)
    real, calls = bpb.code_length, 0

    def failing(*arguments: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 7:  # raw and comp of three documents are through; two are kept
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(bpb, "code_length", failing)
    with pytest.raises(KeyboardInterrupt):
        found(folder, tmp_path / "parts", batch=2)
    found(folder, tmp_path / "parts", batch=2)
    assert calls == 7 + 2 * (6 - 2)
    whole, parts = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("whole", "parts"))
    assert whole == parts
    found(folder, tmp_path / "parts", batch=2)
    assert calls == 7 + 2 * (6 - 2)


def test_groups_add_up_and_a_stride_gives_each_byte_more_context(folder: Path, tmp_path: Path) -> None:
    figures = found(folder, tmp_path, by="source", markov=(0, 1))
    rows, whole = figures["groups"], figures["all"]
    assert len(rows) == 6
    for name in ("documents", "raw_bytes", "symbols"):
        assert sum(row[name] for row in rows) == whole[name]
    weighted = sum(row["raw"]["value"] * row["raw_bytes"] for row in rows) / whole["raw_bytes"]
    assert weighted == pytest.approx(whole["raw"]["value"], abs=1e-5)
    assert whole["raw"]["low"] < whole["raw"]["value"] < whole["raw"]["high"]
    assert whole["markov"]["1"] < whole["markov"]["0"]
    assert whole["compressors"][TOGETHER] < whole["compressors"]["xz -6"]
    other = found(folder, tmp_path, stride=CONTEXT // 4)
    assert other["all"]["raw"]["value"] != whole["raw"]["value"]
    assert [row["group"] for row in other["groups"]] == ["py"]


@given(st.binary(min_size=1, max_size=200), st.integers(8, 40), st.data(), st.booleans())
def test_every_byte_counts_once_whatever_the_stride(
    raw: bytes, context: int, data: st.DataObject, opened: bool
) -> None:
    stride = data.draw(st.integers(1, context))
    blocks = blocks_of(raw, context, opened, stride)
    assert all(len(block) <= context + 1 for block in blocks)
    assert all(block.counted <= stride for block in blocks[1:])
    ids, _, _, labels, weights = batch_of([*blocks, EMPTY], context, 2)
    assert bytes((labels[..., 0][weights[..., 0] > 0] - 64).tolist()) == raw
    assert not weights[..., 1].any()
    first = RAW_OPEN if opened else BOS
    assert ids[:-1, 0].tolist() == [BOS, *[first] * (len(blocks) - 1)]
    # all blocks but the first are full of what comes before, as far as there is any
    told = blocks[0].counted
    for block in blocks[1:]:
        before = len(block) - 1 - block.counted
        assert before == min(told, context - stride)
        told += block.counted


def test_symbols_count_in_a_comp_view_and_nothing_else() -> None:
    comp = np.array([320, 70, 500], np.int32)  # 70 is an escape
    (block,) = comp_blocks_of(comp, 8, sentinels=True)
    assert block.ids.tolist() == [BOS, COMP_OPEN, 320, 70, 500]
    _, _, _, labels, weights = batch_of([block], 8, 1)
    assert labels[weights > 0].tolist() == [320, 70, 500]


@pytest.mark.parametrize("mode", [Mode.COMP_ONLY, Mode.BYTES])
def test_a_model_is_asked_about_the_views_that_it_knows(
    datasets: dict[str, Path], tmp_path: Path, mode: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of_model(datasets["neural"], tmp_path / "model", mode)
    figures = evaluate(BpbOptions(run=str(folder), documents=2, markov=()))
    known, other = ("comp", "raw") if mode is Mode.COMP_ONLY else ("raw", "comp")
    assert figures["view"] == known
    assert other not in figures["all"]
    out = capsys.readouterr().out
    assert f"{folder}: {figures['bits_per_byte']:.4f} bits per " in out
    assert "on 2 held-out documents\n" in out
    with pytest.raises(UserError, match=f"--views {other}: .* never shows it"):
        evaluate(BpbOptions(run=str(folder), views=(other,)))


def test_another_dataset_may_be_taken_whole_but_not_its_symbols(
    folder: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"of another proxy .* give --views raw"):
        found(folder, tmp_path, data=str(datasets["gzip"]))
    figures = found(
        folder,
        tmp_path,
        data=str(datasets["gzip"]),
        views=("raw",),
        all_documents=True,
        documents=99,
        markov=(1,),
        context=512,
    )  # fmt: skip
    assert figures["documents"] == 60
    assert figures["markov"] == {}  # they would be counted on the documents themselves
    same = found(folder, tmp_path, data=str(datasets["gzip"]), views=("raw",))
    assert same["all"]["raw"] == found(folder, tmp_path)["all"]["raw"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": 0}, "must be 1 or more"), ({"stride": 0}, "--stride is 0"), ({"markov": (3,)}, "orders 0 to 2"),
        ({"views": ("raw", "raw")}, "raw, comp or both"), ({"stride": 65}, "more than the context of 64"),
        ({"data": "nowhere"}, "no dataset there"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        found(folder, tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_an_interval_covers_what_it_should_and_is_the_same_each_time() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        sizes_, noise = generator.integers(1, 9, 60), generator.normal(2.0, 1.0, 60)
        interval = ratio(list(noise * sizes_), list(sizes_), [str(n) for n in range(60)])
        assert interval.low < interval.value < interval.high
        covered += interval.low < 2.0 < interval.high
    assert 0.88 < covered / 200 < 0.99
    assert ratio([1.0, 2.0, 4.0], [1, 1, 1], "abc") == ratio([1.0, 2.0, 4.0], [1, 1, 1], "abc")
    assert ratio([3.0], [2.0], ["a"]).cells() == ("1.5000", "-")


def test_pieces_of_a_document_are_drawn_together() -> None:
    generator = np.random.default_rng(0)
    covered = {"pieces": 0, "documents": 0}
    for _ in range(200):
        values = np.repeat(generator.normal(2.0, 1.0, 30), 8) + generator.normal(0.0, 0.1, 240)
        names = [str(n // 8) for n in range(240)]
        for which, documents in (("documents", names), ("pieces", [str(n) for n in range(240)])):
            interval = ratio(list(values), [1.0] * 240, documents)
            covered[which] += interval.low < 2.0 < interval.high
    assert covered["documents"] > 0.88 * 200
    assert covered["pieces"] < 0.7 * 200


def test_compressors_are_told_apart_and_together_is_less() -> None:
    raw = b"the same line again and again\n" * 40
    assert all(0 < size < len(raw) for size in sizes(raw).values())
    assert sizes(raw).keys() == ALONE.keys()
    assert together([raw] * 5) < 5 * sizes(raw)["xz -6"]


def test_small_groups_are_put_together() -> None:
    texts = [Text(key=str(n), doc_id=str(n), group=f"g{n % 6}", raw=b"x" * (1 + n % 6)) for n in range(12)]
    found = grouped(texts, 3)
    assert list(found) == ["g5", "g4", "(others)"]
    assert sum(map(len, found.values())) == 12
    assert list(grouped([dataclasses.replace(texts[0], group="")], 3)) == ["(none)"]
