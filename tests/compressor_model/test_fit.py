"""Fitting: from documents to a folder that another process can trust."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from compressor_model import artefact, codebook
from compressor_model import cli as command_line
from compressor_model.artefact import CARD, PRETRAINED, Compressor, open_compressor
from compressor_model.command import LMS, FitCommand
from compressor_model.encoder import coder
from compressor_model.fit import FitOptions, _split, bytes_per_symbol, fit, taken
from compressor_model.model import bits_per_byte
from compressor_model.paper_training import PaperOptions
from compressor_model.segment import TableSegmenter
from compressor_model.small import MAX_WIDTH
from compressor_model.small_training import SmallOptions
from compressor_model.text import Text
from compressor_model.transformer import TransformerByteLM
from schemas.draws import document_id, may_fit
from schemas.errors import UserError

DOCUMENTS = [path.read_bytes() for path in sorted(Path().glob("*/*.py")) if path.stat().st_size > 500]
QUICK = SmallOptions(rows=1 << 10, width=16, steps=40, batch=2048, learning_rate=0.03)
QUICK_PAPER = PaperOptions(
    layers=1, width=32, heads=2, hidden=64, row=128, context=16, steps=30, batch=1024, learning_rate=0.01, device="cpu"
)


def run_fit(folder: Path, lm_from: Compressor | None = None, **options: object) -> Compressor:
    settings = FitOptions(**{"bits": (12,), "lm": QUICK, **options})
    provenance = {"command": "test", "licence": "Apache-2.0"}
    documents = ((document_id(document), document) for document in DOCUMENTS)
    return fit(
        documents,
        settings,
        folder=folder,
        name="t",
        provenance=provenance,
        report=lambda line: None,
        lm=None if lm_from is None else taken(lm_from, "auto"),
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Compressor:
    return run_fit(tmp_path_factory.mktemp("fitted"))


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Compressor:
    return run_fit(tmp_path_factory.mktemp("paper"), lm=QUICK_PAPER, distil_bytes=50_000)


def test_the_same_text_and_seed_give_the_same_card_and_files(fitted: Compressor, tmp_path: Path) -> None:
    assert run_fit(tmp_path).card == fitted.card


def test_a_paper_compressor_reads_back_as_it_was(paper: Compressor, tmp_path: Path) -> None:
    again = open_compressor(paper.folder)
    assert (again.lm_kind, again.card["lm"]["sizes"]["row"]) == ("paper", 128)
    lm = again.lm()
    assert isinstance(lm, TransformerByteLM)
    assert bits_per_byte(lm, Text.of(DOCUMENTS[:1])) < 7.5
    books = {12: codebook.build(12, lm.next_frequencies)}
    assert np.array_equal(books[12].depth, again.codebook(12).depth)
    assert again.files_for("codebook", 12, "table") == ["segments.npz", "codebook-12.npz"]
    assert again.files_for("codebook", 12, "lm") == ["codebook-12.npz", "lm.safetensors"]
    assert again.files_for("range", 12, "table") == ["segments.npz", "lm.safetensors"]


def test_an_lm_is_taken_from_a_folder_and_distilled_anew(paper: Compressor, tmp_path: Path) -> None:
    taken = run_fit(tmp_path, lm_from=paper, context_bytes=4, distil_bytes=50_000)
    assert taken.card["files"]["lm.safetensors"] == paper.card["files"]["lm.safetensors"]
    assert taken.card["files"]["codebook-12.npz"] == paper.card["files"]["codebook-12.npz"]
    assert (len(taken.segments().tables), len(paper.segments().tables)) == (4, 2)
    lm = taken.card["lm"]
    assert lm["from"] == {"name": "t", "sha256": paper.card["files"]["lm.safetensors"]}
    assert {**lm, "from": None} == {**paper.card["lm"], "from": None}


def test_the_lm_threshold_gives_the_mean_segment(fitted: Compressor) -> None:
    text = Text.of([document for document in DOCUMENTS if may_fit(document_id(document))])
    entropies = fitted.lm().entropies(text)
    assert len(text.data) < FitOptions.distil_bytes  # what the threshold is set over
    for threshold, long_enough in ((fitted.lm_threshold, True), (fitted.lm_threshold - 1, False)):
        assert (len(text.data) >= 3.3 * (entropies > threshold).sum()) is np.bool_(long_enough)


def test_the_card_says_where_it_comes_from(fitted: Compressor) -> None:
    card = json.loads((fitted.folder / CARD).read_text())
    assert (card["version"], card["licence"]) == (1, "Apache-2.0")
    assert (card["lm"]["kind"], card["lm"]["options"]["steps"], card["lm"]["device"][:3]) == ("small", 40, "cpu")
    assert set(json.loads((fitted.folder / "seconds.json").read_text())) == {"training", "distilling", "codebooks"}
    held_out = [document for document in DOCUMENTS if not may_fit(document_id(document))]
    assert card["held_out_bytes"] == sum(map(len, held_out)) or not held_out
    assert card["options"]["text_bytes"] == sum(map(len, DOCUMENTS)) - sum(map(len, held_out))
    assert 1 < fitted.score(12) < 4


def test_it_reads_back_and_codes_losslessly(fitted: Compressor) -> None:
    again = open_compressor(fitted.folder)
    text = Text.of(DOCUMENTS[:3])
    built, segmenter = coder(again.codebook(12)), TableSegmenter(again.segments())
    ids, _, _ = built.encode(text.data, text.offsets, segmenter.marks(text.data, text.offsets))
    assert built.decode(ids) == text.data.tobytes()
    assert bytes_per_symbol(built, segmenter, text) > 1.2


def test_training_lowers_the_loss_and_longer_segments_code_more(fitted: Compressor, tmp_path: Path) -> None:
    assert bits_per_byte(fitted.lm(), Text.of(DOCUMENTS[:2])) < 5.5
    assert run_fit(tmp_path, mean_segment=5.0).segments().threshold > fitted.segments().threshold


def copied(compressor: Compressor, folder: Path) -> Path:
    for file in compressor.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("name", ["lm.npz", "segments.npz", "codebook-12.npz"])
def test_a_flipped_byte_is_noticed_and_named(tmp_path: Path, fitted: Compressor, name: str) -> None:
    data = bytearray((copied(fitted, tmp_path) / name).read_bytes())
    data[len(data) // 3] ^= 4
    (tmp_path / name).write_bytes(data)
    damaged = open_compressor(tmp_path)
    with pytest.raises(UserError, match=f"{name}: damaged"):
        (damaged.lm(), damaged.segments(), damaged.codebook(12))


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


TREE = np.ones(4096, np.uint16)
FOREIGN = {
    "not arrays": ("segments.npz", b"plain text"),
    "cut short": ("lm.npz", npz(embeddings=np.zeros(9))[:50]),
    "one array": ("codebook-12.npz", npz(depth=TREE)),
    "other types": ("codebook-12.npz", npz(depth=TREE.astype(np.int64), last=np.zeros(4096, np.uint8))),
    "other length": ("codebook-12.npz", npz(depth=TREE[:9], last=np.zeros(9, np.uint8))),
    "no tree": ("codebook-12.npz", npz(depth=TREE, last=np.zeros(4096, np.uint8))),
    "other table": ("segments.npz", npz(tables=np.zeros((3, 9), np.uint8), fallback_threshold=np.zeros(2, int))),
    "flat table": ("segments.npz", npz(tables=np.zeros(9, np.uint8), fallback_threshold=np.zeros(2, int))),
    "float table": ("segments.npz", npz(tables=np.zeros((3, 1 << 20)), fallback_threshold=np.zeros(2, int))),
    "one number": ("segments.npz", npz(tables=np.zeros((3, 1 << 20), np.uint8), fallback_threshold=np.zeros(1, int))),
    "another LM": ("lm.npz", npz(embeddings=np.zeros((6, 256, 8), np.int8), logit_scale=5)),
    "an array too many": ("lm.npz", npz(logit_scale=5, extra=np.zeros(3))),
    "pickle": ("lm.npz", npz(logit_scale=np.array([{}], object))),
    "no weights": ("lm.safetensors", b"plain text"),
    "other weights": ("lm.safetensors", safetensors.numpy.save({"embedding.weight": np.zeros((2, 2), np.float32)})),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_file_with_the_right_digest_is_one_line(
    tmp_path: Path, fitted: Compressor, paper: Compressor, what: str
) -> None:
    name, data = FOREIGN[what]
    copied(paper if name == "lm.safetensors" else fitted, tmp_path)
    (tmp_path / name).write_bytes(data)
    card = json.loads((tmp_path / CARD).read_text())
    card["files"][name] = hashlib.sha256(data).hexdigest()
    (tmp_path / CARD).write_text(json.dumps(card))
    foreign = open_compressor(tmp_path)
    read = {"lm": foreign.lm, "segments": foreign.segments, "codebook-12": lambda: foreign.codebook(12)}
    with pytest.raises(UserError, match=f"{name}: foreign"):
        read[name.partition(".")[0]]()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": None}, "before compressors had a version; fit it again"),
        ({"version": 2}, "version 2 of a compressor, and this program reads 1"),
        ({"lm": {"kind": "large"}}, "not a compressor's card"),
        ({"lm": None}, "not a compressor's card"),
        ({"lm_threshold": "high"}, "not a compressor's card"),
        ({"scores": {"12": {}}}, "not a compressor's card"),
        ({"files": []}, "not a compressor's card"),
    ],
)
def test_another_card_is_refused(tmp_path: Path, fitted: Compressor, change: dict[str, object], says: str) -> None:
    (tmp_path / CARD).write_text(json.dumps({**fitted.card, **change}))
    with pytest.raises(UserError, match=says):
        open_compressor(tmp_path)


def test_missing_bits_say_what_there_is(fitted: Compressor) -> None:
    with pytest.raises(UserError, match=r"no codebook of 14 bits \(there are: \[12\]\)"):
        fitted.codebook(14)


@pytest.mark.parametrize("card", ["", "{}", "[]", '{"kind": "tokenizer", "files": {}}'])
def test_foreign_card_is_refused(tmp_path: Path, card: str) -> None:
    (tmp_path / CARD).write_text(card)
    with pytest.raises(UserError, match="not a compressor's card"):
        open_compressor(tmp_path)


@pytest.mark.parametrize("lm", [QUICK, QUICK_PAPER])
def test_too_little_text_is_refused(lm: SmallOptions | PaperOptions, tmp_path: Path) -> None:
    options, documents = FitOptions(lm=lm), [(document_id(b"short"), b"short")]
    for folder in (None, PRETRAINED):
        trained = None if folder is None else taken(open_compressor(folder), "cpu")
        with pytest.raises(UserError, match="65,536 are needed"):
            fit(
                documents,
                options,
                folder=tmp_path,
                name="t",
                provenance={},
                report=print,
                resumable=True,
                lm=trained,
            )
    assert not any(tmp_path.iterdir())


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
    artefact.save(
        folder,
        name=name,
        lm=fitted.lm(),
        lm_provenance={},
        lm_threshold=1,
        segments=fitted.segments(),
        codebooks={12: fitted.codebook(12)},
        scores={12: {"bytes_per_symbol": fitted.score(12)}},
        provenance={},
        seconds={},
    )


def test_a_folder_holds_one_lm(tmp_path: Path, fitted: Compressor, paper: Compressor) -> None:
    save_again(tmp_path, paper, "earlier")
    save_again(tmp_path, fitted, "later")
    assert [path.name for path in tmp_path.glob("lm.*")] == ["lm.npz"]


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


COMMON = [
    ("steps", 0),
    ("batch", 0),
    ("learning_rate", 0.0),
    ("learning_rate", float("nan")),
    ("cut_context", -0.1),
    ("cut_context", 1.5),
    ("seed", -1),
]
BAD = [
    *(("small", name, value) for name, value in COMMON),
    ("small", "rows", 128),
    ("small", "rows", 1000),
    ("small", "width", 0),
    ("small", "width", MAX_WIDTH + 1),
    *(("paper", name, value) for name, value in COMMON),
    ("paper", "batch", 2047),
    ("paper", "layers", 0),
    ("paper", "width", 100),
    ("paper", "hidden", 0),
    ("paper", "row", 100),
    ("paper", "context", 2048),
    ("paper", "device", "tpu"),
]


@pytest.mark.parametrize(("lm", "name", "value"), BAD)
def test_bad_training_options_name_themselves(
    lm: str, name: str, value: float | str, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=option):
        LMS[lm](**{name: value})
    assert command_line.run(["fit", "--lm", lm, option, str(value)]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--layers", "2"], "--layers: the small byte LM has no such option"),
        (["--lm", "paper", "--rows", "1024"], "--rows: the paper byte LM has no such option"),
        (["--lm-from", "folder", "--steps", "9"], "--steps: --lm-from takes an LM as it is"),
        (["--context-bytes", "5"], "--context-bytes 5: give 2 to 4"),
        (["--text-bytes", "0"], "--text-bytes 0: give at least 1"),
        (["--lm", "huge"], "huge"),
    ],
)
def test_options_that_do_not_go_together_say_so(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.run(["fit", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_an_option_that_is_given_is_the_lms() -> None:
    options = FitCommand(lm="paper", layers=3, width=64, device="cpu").options().lm
    assert options == PaperOptions(layers=3, width=64, device="cpu")
    assert FitCommand(width=32, seed=5).options().lm == SmallOptions(width=32, seed=5)


def test_help_says_the_defaults_of_both() -> None:
    said = FitCommand.__doc__ or ""
    for name in ("steps", "batch", "learning_rate", "cut_context", "rows", "width", "layers", "heads", "hidden", "row"):
        line = next(line for line in said.splitlines() if line.strip().startswith(f"{name}:"))
        for options in (SmallOptions(), PaperOptions()):
            value = getattr(options, name, None)
            assert value is None or f"{value:,}" in line


@pytest.mark.parametrize("options", [{"bits": (11,)}, {"bits": ()}, {"mean_segment": 0.5}, {"context_bytes": 1}])
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        FitOptions(**options)


def test_shipped_compressor_is_small_and_good() -> None:
    shipped = open_compressor(PRETRAINED)
    assert sum(file.stat().st_size for file in PRETRAINED.iterdir()) < 8e6
    assert shipped.bits == [12, 16]
    assert shipped.score(16) >= 2.6
    assert shipped.card["licence"].startswith("PSF-2.0")
