"""Fitting: from documents to a folder that another process can trust."""

import json
from pathlib import Path

import numpy as np
import pytest

from compressor_model import __main__ as command_line
from compressor_model import artefact
from compressor_model.artefact import CARD, PRETRAINED, Compressor, open_compressor
from compressor_model.encoder import coder
from compressor_model.fit import FitOptions, _split, bytes_per_symbol, fit
from compressor_model.model import MAX_WIDTH, ORDERS
from compressor_model.text import Text
from compressor_model.train import TrainOptions, _quantise, bits_per_byte, train_small
from schemas.draws import document_id, may_fit
from schemas.errors import UserError

DOCUMENTS = [path.read_bytes() for path in sorted(Path().glob("*/*.py")) if path.stat().st_size > 500]
QUICK = TrainOptions(rows=1 << 10, width=16, steps=40, batch=2048, learning_rate=0.03)


def run_fit(folder: Path, **options: object) -> Compressor:
    settings = FitOptions(bits=(12,), train=QUICK, **options)
    provenance = {"command": "test", "licence": "Apache-2.0"}
    documents = ((document_id(document), document) for document in DOCUMENTS)
    return fit(documents, settings, folder=folder, name="t", provenance=provenance, report=lambda line: None)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Compressor:
    return run_fit(tmp_path_factory.mktemp("fitted"))


def test_the_same_text_and_seed_give_the_same_files(fitted: Compressor, tmp_path: Path) -> None:
    assert run_fit(tmp_path).card["files"] == fitted.card["files"]


def test_the_card_says_where_it_comes_from(fitted: Compressor) -> None:
    card = json.loads((fitted.folder / CARD).read_text())
    assert (card["licence"], card["options"]["steps"]) == ("Apache-2.0", 40)
    held_out = [document for document in DOCUMENTS if not may_fit(document_id(document))]
    assert card["held_out_bytes"] == sum(map(len, held_out)) or not held_out
    assert card["options"]["text_bytes"] == sum(map(len, DOCUMENTS)) - sum(map(len, held_out))
    assert 1 < fitted.score(12) < 4


def test_it_reads_back_and_codes_losslessly(fitted: Compressor) -> None:
    again = open_compressor(fitted.folder)
    text = Text.of(DOCUMENTS[:3])
    built = coder(again.codebook(12), again.segments())
    ids, _, _ = built.encode(text.data, np.array([0, len(text.data)]))
    assert built.decode(ids) == text.data.tobytes()
    assert bytes_per_symbol(built, text) > 1.2


def test_training_lowers_the_loss_and_longer_segments_code_more(fitted: Compressor, tmp_path: Path) -> None:
    assert bits_per_byte(fitted.lm(), Text.of(DOCUMENTS[:2])) < 5.5
    assert run_fit(tmp_path, mean_segment=5.0).segments().threshold > fitted.segments().threshold


@pytest.mark.parametrize("name", ["lm.npz", "segments.npz", "codebook-12.npz"])
def test_a_flipped_byte_is_noticed_and_named(tmp_path: Path, fitted: Compressor, name: str) -> None:
    for file in fitted.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 3] ^= 4
    (tmp_path / name).write_bytes(data)
    damaged = open_compressor(tmp_path)
    with pytest.raises(UserError, match=f"{name}: damaged"):
        (damaged.lm(), damaged.segments(), damaged.codebook(12))


def test_missing_bits_say_what_there_is(fitted: Compressor) -> None:
    with pytest.raises(UserError, match=r"no codebook of 14 bits \(there are: \[12\]\)"):
        fitted.codebook(14)


@pytest.mark.parametrize("card", ["", "{}", "[]", '{"kind": "tokenizer", "files": {}}'])
def test_foreign_card_is_refused(tmp_path: Path, card: str) -> None:
    (tmp_path / CARD).write_text(card)
    with pytest.raises(UserError, match="not a compressor's card"):
        open_compressor(tmp_path)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(UserError, match="65,536 are needed"):
        train_small(Text.of([b"short"]), QUICK)


def test_pieces_of_a_held_out_document_are_held_out() -> None:
    held_out = next(n for n in range(1000) if not may_fit(document_id(b"%d" % n)))
    fitted_on = next(n for n in range(1000) if may_fit(document_id(b"%d" % n)))
    pieces = [
        (document_id(b"%d" % n), b"piece %d of %d" % (piece, n)) for n in (held_out, fitted_on) for piece in range(50)
    ]
    train, scored = _split(pieces, 1 << 20)
    assert scored.data.tobytes() == b"".join(raw for _, raw in pieces[:50])
    assert train.data.tobytes() == b"".join(raw for _, raw in pieces[50:])


def save_again(folder: Path, fitted: Compressor, name: str) -> None:
    books = {12: fitted.codebook(12)}
    scores = {12: {"bytes_per_symbol": fitted.score(12)}}
    artefact.save(
        folder, name=name, lm=fitted.lm(), segments=fitted.segments(), codebooks=books, scores=scores, provenance={}
    )


def test_a_save_that_fails_leaves_the_earlier_compressor(
    tmp_path: Path, fitted: Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_again(tmp_path / "c", fitted, "earlier")

    def fail(self: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        save_again(tmp_path / "c", fitted, "later")
    earlier = open_compressor(tmp_path / "c")
    assert earlier.name == "earlier"
    (earlier.lm(), earlier.segments(), earlier.codebook(12))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_save_that_fails_between_files_leaves_no_card(
    tmp_path: Path, fitted: Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_again(tmp_path / "c", fitted, "earlier")
    replace = Path.replace

    def fail_late(self: Path, target: Path) -> Path:
        if self.name == "segments.npz":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_late)
    with pytest.raises(KeyboardInterrupt):
        save_again(tmp_path / "c", fitted, "later")
    with pytest.raises(UserError, match=r"no card\.json there"):
        open_compressor(tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", 128),
        ("rows", 1000),
        ("width", 0),
        ("width", MAX_WIDTH + 1),
        ("steps", 0),
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("cut_context", -0.1),
        ("cut_context", 1.5),
        ("seed", -1),
    ],
)
def test_bad_training_options_name_themselves(name: str, value: float, capsys: pytest.CaptureFixture[str]) -> None:
    option = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=option):
        TrainOptions(**{name: value})
    assert command_line.main(["fit", option, str(value)]) in (1, 2)
    assert option in capsys.readouterr().err


def test_the_widest_model_is_exact_whatever_was_learnt() -> None:
    embeddings = np.ones((ORDERS, 256, MAX_WIDTH), np.float32)
    output = np.ones((256, MAX_WIDTH), np.float32)
    hidden_bias, output_bias = np.full(MAX_WIDTH, 1e6, np.float32), np.full(256, 1e6, np.float32)
    model = _quantise(embeddings, hidden_bias, output, output_bias)
    assert int(model.output_bias.max()) >= 1 << 20


@pytest.mark.parametrize("options", [{"bits": (11,)}, {"bits": ()}, {"mean_segment": 0.5}])
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        FitOptions(**options)


def test_shipped_compressor_is_small_and_good() -> None:
    shipped = open_compressor(PRETRAINED)
    assert sum(file.stat().st_size for file in PRETRAINED.iterdir()) < 8e6
    assert shipped.bits == [12, 16]
    assert shipped.score(16) >= 2.6
    assert shipped.card["licence"].startswith("PSF-2.0")
