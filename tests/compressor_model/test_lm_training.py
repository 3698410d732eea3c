"""Training of the byte LMs: resumed after a kill to the last bit, drawn by step, watched; refused where it differs."""

import itertools
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor_model import paper_training, progress, small_training, train
from compressor_model.artefact import Compressor
from compressor_model.fit import TRAINING, FitOptions, fit
from compressor_model.model import bits_per_byte
from compressor_model.network import ByteTransformer
from compressor_model.paper_training import SHORT_ROW, PaperOptions, loss_of, rows_at
from compressor_model.sizes import BEGIN
from compressor_model.small_training import SmallOptions
from compressor_model.text import Text
from compressor_model.transformer import TransformerByteLM
from schemas.draws import document_id
from schemas.errors import UserError

LMS: dict[str, SmallOptions | PaperOptions] = {
    "small": SmallOptions(rows=256, width=8, steps=12, batch=512, learning_rate=0.03),
    "paper": PaperOptions(
        layers=1,
        width=32,
        heads=2,
        hidden=64,
        row=64,
        context=16,
        steps=12,
        batch=512,
        learning_rate=0.01,
        device="cpu",
    ),
}


def documents() -> list[bytes]:
    rng = np.random.default_rng(0)
    words = [rng.integers(97, 123, 5, np.uint8).tobytes() for _ in range(50)]
    return [b" ".join(words[i] for i in rng.integers(0, 50, 400)) for _ in range(40)]


def run_fit(
    folder: Path,
    lm: SmallOptions | PaperOptions,
    lines: list[str] | None = None,
    *,
    count: int = 40,
    afresh: bool = False,
) -> Compressor:
    return fit(
        ((document_id(document), document) for document in documents()[:count]),
        FitOptions(bits=(12,), lm=lm, distil_bytes=20_000),
        folder=folder,
        name="t",
        provenance={},
        report=([] if lines is None else lines).append,
        resumable=True,
        afresh=afresh,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Digests of the files of each LM's fit."""
    return {kind: run_fit(tmp_path_factory.mktemp(kind), lm).card["files"] for kind, lm in LMS.items()}


@pytest.fixture(params=["small", "paper"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fit_and_be_killed(folder: str, kind: str, where: str) -> None:
    """Called in a process of its own: saves at each step and is killed after step 7 or in the middle of save 6."""
    train.SAVE_SECONDS = 0.0
    update, rename = progress.TrainingProgress.update, Path.replace
    saves: list[Path] = []

    def update_or_die(self: progress.TrainingProgress, step: int, bits: float, held_out: float | None) -> None:
        update(self, step, bits, held_out)
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    def rename_or_die(self: Path, target: Path) -> Path:
        saves.append(self)
        if len(saves) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    if where == "at a step":
        progress.TrainingProgress.update = update_or_die  # type: ignore[method-assign]
    else:
        Path.replace = rename_or_die  # type: ignore[assignment]
    run_fit(Path(folder), LMS[kind])


@pytest.mark.parametrize(("where", "done"), [("at a step", 6), ("in a save", 5)])
def test_killed_and_resumed_is_undisturbed(
    kind: str, where: str, done: int, tmp_path: Path, undisturbed: dict[str, dict[str, str]]
) -> None:
    folder = tmp_path / "killed"
    program = f"import test_lm_training as t; t.fit_and_be_killed({str(folder)!r}, {kind!r}, {where!r})"
    paths = f"{Path.cwd()}{os.pathsep}{Path(__file__).parent}"
    threads = {name: str(torch.get_num_threads()) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **threads, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    lines: list[str] = []
    assert run_fit(folder, LMS[kind], lines).card["files"] == undisturbed[kind]
    assert f"  goes on after step {done} of 12" in lines
    assert not (folder / TRAINING).exists()


def stop_after(monkeypatch: pytest.MonkeyPatch, last: int, number: int) -> None:
    update = progress.TrainingProgress.update

    def update_and_signal(self: progress.TrainingProgress, step: int, bits: float, held_out: float | None) -> None:
        update(self, step, bits, held_out)
        if step == last:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(progress.TrainingProgress, "update", update_and_signal)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_saves_and_stops(
    kind: str,
    number: signal.Signals,
    raised: type[BaseException],
    tmp_path: Path,
    undisturbed: dict[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    lines: list[str] = []
    with monkeypatch.context() as patch:
        stop_after(patch, 4, number)
        with pytest.raises(raised):
            run_fit(tmp_path, LMS[kind], lines)
    assert "stopped after step 4; the same command goes on from there" in lines
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert run_fit(tmp_path, LMS[kind], lines).card["files"] == undisturbed[kind]
    assert "  goes on after step 4 of 12" in lines


@pytest.fixture
def stopped(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a training that was stopped after step 4."""
    with monkeypatch.context() as patch:
        stop_after(patch, 4, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run_fit(tmp_path, LMS[kind])
    return tmp_path


def test_other_options_or_text_are_refused_with_the_difference(kind: str, stopped: Path) -> None:
    with pytest.raises(UserError, match=r"\(learning_rate 0.0\d, now 0.5; steps 12, now 13\).*--afresh"):
        run_fit(stopped, replace(LMS[kind], steps=13, learning_rate=0.5))
    with pytest.raises(UserError, match=r"\(text \w{12}, now \w{12}\)"):
        run_fit(stopped, LMS[kind], count=39)
    other = LMS["paper" if kind == "small" else "small"]
    with pytest.raises(UserError, match=f"lm {kind}, now {other.kind}"):
        run_fit(stopped, other)


def test_afresh_begins_anew(kind: str, stopped: Path) -> None:
    lines: list[str] = []
    run_fit(stopped, replace(LMS[kind], steps=3), lines, afresh=True)
    assert not any("goes on" in line for line in lines)
    assert not (stopped / TRAINING).exists()


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_a_damaged_state_is_one_line(kind: str, stopped: Path, damage: str) -> None:
    file = stopped / TRAINING / "state.safetensors"
    data = file.read_bytes()
    file.write_bytes({"cut": data[: len(data) // 2], "foreign": b"\0" * 1000, "empty": b""}[damage])
    with pytest.raises(UserError, match=r"state\.safetensors: damaged; --afresh begins the training anew"):
        run_fit(stopped, LMS[kind])


def test_a_fit_that_is_not_resumable_leaves_nothing_but_the_compressor(tmp_path: Path) -> None:
    pairs = ((document_id(document), document) for document in documents())
    options = FitOptions(bits=(12,), lm=LMS["small"], distil_bytes=20_000)
    fit(pairs, options, folder=tmp_path / "c", name="t", provenance={}, report=print)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "card.json",
        "codebook-12.npz",
        "lm.npz",
        "seconds.json",
        "segments.npz",
    }


def test_a_loss_that_is_no_number_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss of step \d+ is (nan|inf); give a lower --learning-rate"):
        run_fit(tmp_path, replace(LMS["paper"], learning_rate=1e30))


def test_progress_says_steps_bits_speed_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines: list[str] = []
    watched = progress.TrainingProgress(lines.append, steps=1000, batch=5000, done=400)
    for step in range(401, 421):
        now[0] += 1.0
        watched.update(step, 8.0 - 0.1 * (step - 400), 6.5 if step == 420 else None)
    assert lines == [
        "  step 415 of 1,000: 7.200 bits per byte, 5 kB/s, 0:09:45 left",
        "  step 420 of 1,000: 6.950 bits per byte, 5 kB/s, 0:09:40 left; held out 6.500",
    ]


def test_held_out_text_is_tried_ten_times(kind: str, tmp_path: Path) -> None:
    lines: list[str] = []
    run_fit(tmp_path, replace(LMS[kind], steps=20), lines)
    tried = [re.match(r"  step (\d+) of 20: .*held out (\d\.\d+)", line) for line in lines]
    found = {int(match[1]): float(match[2]) for match in tried if match}
    assert list(found) == list(range(2, 21, 2))
    assert found[20] < found[2]


def test_batches_follow_from_seed_and_step() -> None:
    text = Text.of(documents())
    for module, options in ((small_training, LMS["small"]), (paper_training, LMS["paper"])):
        first, again = module.drawn(text, options, 3), module.drawn(text, options, 3)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        for other in (module.drawn(text, options, 4), module.drawn(text, replace(options, seed=1), 3)):
            assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    ("batch", "cut", "rows"), [(512, 0.25, (6, 4)), (512, 0.0, (8, 0)), (512, 1.0, (0, 16)), (100, 0.5, (1, 1))]
)
def test_a_share_of_a_step_is_short_rows(batch: int, cut: float, rows: tuple[int, int]) -> None:
    options = replace(LMS["paper"], batch=batch, cut_context=cut)
    assert isinstance(options, PaperOptions)
    long, short = paper_training.drawn(Text.of(documents()), options, 0)
    assert (len(long), len(short)) == rows
    assert len(long) * 64 + len(short) * SHORT_ROW <= batch


def test_rows_have_begin_at_documents_starts_and_where_a_short_row_begins() -> None:
    text = Text.of([b"abc", b"defg"])
    symbols, targets, starts = rows_at(text, np.array([1, 3]), 4, begin=False)
    assert symbols.tolist() == [[97, 98, BEGIN, 100], [BEGIN, 100, 101, 102]]
    assert targets.tolist() == [[98, 99, 100, 101], [100, 101, 102, 103]]
    assert starts.tolist() == [[0, 0, 3, 3], [3, 3, 3, 3]]
    assert rows_at(text, np.array([1]), 4, begin=True)[0].tolist() == [[BEGIN, 98, BEGIN, 100]]


def test_no_byte_is_predicted_from_another_document() -> None:
    options = LMS["paper"]
    assert isinstance(options, PaperOptions)
    network = ByteTransformer(options.sizes, seed=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
        text = Text.of([bytes(range(100)), bytes(range(50, 150))])
        whole = loss_of(network, text, np.array([80]), 64, begin=False)
        before = loss_of(network, text, np.array([80]), 20, begin=False)
        after = loss_of(network, Text.of([bytes(range(50, 150))]), np.array([0]), 44, begin=False)
    assert float(whole) == pytest.approx(float(before) + float(after), abs=1e-2)
    assert float(whole) != pytest.approx(float(before) * 64 / 20, abs=1)


def test_what_is_trained_is_what_is_run() -> None:
    options = LMS["paper"]
    assert isinstance(options, PaperOptions)
    text = Text.of(documents())
    held_out = Text.of([document[:64] for document in documents()[:20]])  # a row each
    trainee = paper_training.trainee(text, held_out, options)
    train.train(trainee, None, [].append)
    model = TransformerByteLM(options.sizes, paper_training.weights_of(trainee.module))
    assert trainee.held_out() == pytest.approx(bits_per_byte(model, held_out), abs=0.02)


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    rates = [train.cosine(step, 100, warm_up=10, last=0.1) for step in range(101)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert train.cosine(0, 5, warm_up=0, last=0.02) == 1
    assert not math.isnan(train.cosine(1, 1, warm_up=1, last=0.1))


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.resolve_device("auto") == train.resolve_device("cpu") == "cpu"
    with pytest.raises(UserError, match="--device cuda: no GPU is found"):
        train.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (train.resolve_device("auto"), train.resolve_device("cpu")) == ("cuda", "cpu")
