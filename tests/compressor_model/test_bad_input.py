"""Input that no compressor was made for: empty documents alone held out, folders in use, cards changed by hand."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor_model.artefact import CARD, PRETRAINED, Compressor, open_compressor
from compressor_model.fit import TRAINING, FitOptions, fit
from compressor_model.paper_training import PaperOptions
from compressor_model.small_training import SmallOptions
from compressor_model.text import Text
from compressor_model.training_state import State
from compressor_model.transformer import TransformerByteLM
from pipelines.proxies import compressors, neural
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.records import ReadOptions
from schemas.draws import document_id, may_fit
from schemas.errors import UserError

SMALL = SmallOptions(steps=2, rows=256, width=8, batch=64)
PAPER = PaperOptions(layers=1, width=16, heads=2, hidden=16, row=64, context=16, steps=1, batch=128, device="cpu")
TEXT = b"".join(b"line %d of a text\n" % n for n in range(5000))


def with_draw(to_fit: bool, raw: bytes) -> bytes:
    """The text with an ending that puts it on one side of the split."""
    return next(raw + b"%d" % n for n in range(1000) if may_fit(document_id(raw + b"%d" % n)) == to_fit)


def fit_of(folder: Path, lm: SmallOptions | PaperOptions, *empty: bytes, resumable: bool = False) -> Compressor:
    raw = with_draw(True, TEXT)
    return fit(
        [*((doc_id, b"") for doc_id in empty), (document_id(raw), raw)],
        FitOptions(bits=(12,), lm=lm, distil_bytes=1 << 16),
        folder=folder,
        name="t",
        provenance={},
        report=lambda line: None,
        resumable=resumable,
    )


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Compressor:
    return fit_of(tmp_path_factory.mktemp("paper"), PAPER)


@pytest.mark.parametrize("lm", [SMALL, PAPER])
def test_empty_documents_are_no_held_out_text(lm: SmallOptions | PaperOptions, tmp_path: Path) -> None:
    held_out = next(n.to_bytes(16) for n in range(1000) if not may_fit(n.to_bytes(16)))
    compressor = fit_of(tmp_path, lm, held_out)
    assert compressor.card["held_out_bytes"] == len(with_draw(True, TEXT))
    assert compressor.score(12) > 1


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    state = State(folder=folder / TRAINING, describes={})
    said: list[str] = []

    def second() -> None:
        with pytest.raises(UserError) as caught:
            fit_of(folder, SMALL, resumable=True)
        said.append(str(caught.value))

    with state.held():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert (folder / TRAINING).is_dir()
    assert said == [f"{folder / TRAINING}: another fit is training there; wait for it, or give another --out"]
    assert fit_of(folder, SMALL, resumable=True).bits == [12]
    assert not (folder / TRAINING).exists()


def test_an_out_that_cannot_be_a_folder_is_said_before_training(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=rf"--out {file}: cannot be written \(Not a directory\); give another"):
        fit_of(file, replace(SMALL, steps=1_000_000), resumable=True)


@pytest.mark.parametrize("change", [{"name": None}, {"lm_threshold": float("inf")}, {"lm_threshold": None}])
def test_a_card_changed_by_hand_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    card = {**json.loads((PRETRAINED / CARD).read_text()), **change}
    (tmp_path / CARD).write_text(json.dumps({key: value for key, value in card.items() if value is not None}))
    with pytest.raises(UserError, match="not a compressor's card"):
        open_compressor(tmp_path)


def test_an_lm_of_a_gpu_needs_one(paper: Compressor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"its byte LM is to run on a GPU \(device cuda\), and none is found here"):
        neural.load(str(paper.folder), {"bits": "12", "segmentation": "lm", "device": "cuda"})


def test_a_machine_that_fails_is_not_the_texts_fault(paper: Compressor, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = paper.lm()
    assert isinstance(lm, TransformerByteLM)

    def no_memory(symbols: object) -> None:
        raise torch.OutOfMemoryError("out of memory\nhere is a long report")

    monkeypatch.setattr(lm, "_network", no_memory)
    with pytest.raises(OSError, match=r"^byte LM on cpu: out of memory$"):
        lm.entropies(Text.of([b"text"]))


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damaged_weights_are_named(paper: Compressor, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(paper.folder, tmp_path / "c")
    file = folder / "lm.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    if damage != "gone":
        file.write_bytes(data if damage == "flipped" else data[:100])
    said = "cannot be read" if damage == "gone" else "damaged"
    with pytest.raises(UserError, match=rf"lm\.safetensors: {said}"):
        open_compressor(folder).lm()


def sampler_of(folder: Path) -> Sampler:
    return Sampler(list_corpus(str(folder)), ReadOptions())


def test_a_corpus_that_is_all_held_out_keeps_the_shipped_compressor(tmp_path: Path) -> None:
    raw = with_draw(False, b"\xe1\x88\xb4\xe1\x8a\x95 " * (2 << 20))
    (tmp_path / "one.txt").write_bytes(raw)
    lines: list[str] = []
    chosen = compressors.choose_compressor(ProxyOptions(), sampler_of(tmp_path), lines.append)
    assert chosen.folder == PRETRAINED
    assert "less than 64 KiB that is not held out, too small to fit a better one" in lines[0]


@pytest.mark.parametrize("compressor", ["auto", "pretrained"])
def test_the_range_coder_needs_no_codebook_of_its_bits(compressor: str, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(TEXT)
    options = ProxyOptions(coder="range", bits=13, compressor=compressor)
    assert compressors.choose_compressor(options, sampler_of(tmp_path), lambda line: None).folder == PRETRAINED


FORMS: dict[str, dict[str, str]] = {
    "segment": {},
    "packed, fuzzy": {"windows": "packed", "fuzz": "tail"},
    "equal-info": {"windows": "equal-info"},
    "by LM": {"segmentation": "lm"},
    "range": {"coder": "range"},
    "range by LM": {"coder": "range", "segmentation": "lm"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threshold", [None, -1, 1 << 20])
def test_any_bytes_are_one_symbol_a_byte_at_most(form: str, threshold: int | None) -> None:
    rng = np.random.default_rng(0)
    documents = [
        b"",
        rng.integers(0, 256, 20_000).astype(np.uint8).tobytes(),
        bytes(20_000),
        b"an endless line, " * 2000,
        "".join(map(chr, rng.integers(0x1200, 0x1380, 5000))).encode(),
        b"",
    ]
    query = FORMS[form] | ({} if threshold is None else {"threshold": str(threshold)})
    proxy = neural.load(str(PRETRAINED), query)
    batch = proxy.encode_batch(documents)
    assert (batch.counts <= [len(document) for document in documents]).all()
    assert (batch.counts[1:-1] > 0).all()
    assert not proxy.mismatches(documents, batch).any()
    if proxy.lossless:
        assert proxy.decode_batch(batch) == documents
