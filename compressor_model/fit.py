"""From documents to a compressor folder: train the byte LM, distil the entropy table, enumerate codebooks, score.

Minutes on two cores with the `small` LM; the `paper` LM wants a GPU. Only documents whose split draw allows it are
fitted on; the rest is what scores are taken on. With `small`, the same documents, options, machine and torch build
give the same compressor, however often the training was stopped; `paper` on a CPU too, on a GPU nearly.
"""

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from compressor_model import artefact, codebook, encoder, paper_training, segment, small_training, train
from compressor_model.artefact import Compressor
from compressor_model.model import ByteLM, bits_per_byte
from compressor_model.paper_training import PaperOptions
from compressor_model.progress import Report
from compressor_model.small import SmallByteLM
from compressor_model.small_training import SmallOptions
from compressor_model.text import Text
from compressor_model.training_state import State, text_digest
from compressor_model.transformer import TransformerByteLM
from schemas.draws import may_fit
from schemas.errors import UserError
from schemas.machine import processor

HELD_OUT_BYTES = 4 << 20
"""Scores are taken on at most this much held-out text."""

TRAINING = "training"
"""Folder of the training's state in the compressor's; gone when the fit is done."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a compressor is fitted.

    Attributes:
        bits: codebooks to make, 12..16 bits each.
        mean_segment: least mean segment in bytes; longer ones code more bytes a symbol and are less stable.
        context_bytes: of the entropy table, 2..4: bytes that a boundary depends on; fewer are more stable.
        text_bytes: at most this much training text is read.
        distil_bytes: at most this much of it fills the entropy table.
        lm: which byte LM, and how it is trained.
    """

    bits: tuple[int, ...] = (12, 16)
    mean_segment: float = 3.3
    context_bytes: int = 2
    text_bytes: int = 32 << 20
    distil_bytes: int = 8 << 20
    lm: SmallOptions | PaperOptions = field(default_factory=SmallOptions)

    def __post_init__(self) -> None:
        if not self.bits or any(not 12 <= bits <= codebook.MAX_BITS for bits in self.bits):
            raise UserError(f"--bits {self.bits}: codebooks have 12 to 16 bits")
        if not 1 < self.mean_segment <= 64:
            raise UserError(f"--mean-segment {self.mean_segment}: give more than 1 and at most 64 bytes")
        if not segment.MIN_CONTEXT <= self.context_bytes <= segment.MAX_CONTEXT:
            raise UserError(
                f"--context-bytes {self.context_bytes}: give {segment.MIN_CONTEXT} to {segment.MAX_CONTEXT}"
            )
        for name in ("text_bytes", "distil_bytes"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainedLM:
    """A byte LM, how it was trained, and the seconds that took."""

    model: SmallByteLM | TransformerByteLM
    provenance: dict[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What is made from a byte LM: table, threshold of `lm` segmentation, codebooks and their scores by bits."""

    table: segment.EntropyTable
    lm_threshold: int
    codebooks: dict[int, codebook.Codebook]
    scores: dict[int, dict[str, float]]
    seconds: dict[str, float]


def fit(
    documents: Iterable[tuple[bytes, bytes]],
    options: FitOptions,
    *,
    folder: Path,
    name: str,
    provenance: dict[str, Any],
    report: Report,
    lm: TrainedLM | None = None,
    resumable: bool = False,
    afresh: bool = False,
) -> Compressor:
    """Fit a compressor and write it.

    Args:
        documents: (doc_id, raw) in the order they are to be taken; reading stops at `text_bytes`. Of a piece the
            doc_id of its document, so that no piece of a held-out document is fitted on.
        options: see `FitOptions`.
        folder: where to write.
        name: of the compressor.
        provenance: command, corpus and licence, for the card.
        report: progress.
        lm: a trained byte LM to distil, see `taken`; default: one is trained.
        resumable: keep the training's state in the folder while it runs, and go on from one that lies there.
        afresh: go on from none.

    Raises:
        UserError: too little text, or the folder holds another training's state or is another fit's at this moment.
    """
    text, held_out = _split(documents, options.text_bytes)
    train.check_text(text)
    lm_options = options.lm
    if isinstance(lm_options, PaperOptions):
        lm_options = replace(lm_options, device=train.resolve_device(lm_options.device))
    state = None
    if lm is None and resumable:
        describes = {"lm": lm_options.kind, **asdict(lm_options), "text": text_digest(text)}
        state = State(folder=folder / TRAINING, describes=describes, afresh=afresh)
    with state.held() if state is not None else nullcontext():
        if lm is None:
            lm = trained(text, held_out, lm_options, state, report)
        made = distilled(lm.model, text, held_out, options, report)
        compressor = artefact.save(
            folder,
            name=name,
            lm=lm.model,
            lm_provenance=lm.provenance,
            lm_threshold=made.lm_threshold,
            segments=made.table,
            codebooks=made.codebooks,
            scores=made.scores,
            provenance={
                **provenance,
                "options": {
                    "mean_segment": options.mean_segment,
                    "context_bytes": options.context_bytes,
                    "text_bytes": len(text.data),
                    "distil_bytes": min(options.distil_bytes, len(text.data)),
                },
                "held_out_bytes": len(held_out.data),
            },
            seconds={"training": lm.seconds, **made.seconds},
        )
        if state is not None:
            state.remove()
    return compressor


def taken(compressor: Compressor, device: str) -> TrainedLM:
    """A compressor's byte LM, to be distilled anew.

    Args:
        compressor: where it is.
        device: auto, cpu or cuda, of a `paper` one.

    Raises:
        UserError: it is damaged, or there is no GPU where one is asked for.
    """
    kind, card = compressor.lm_kind, compressor.card
    origin = {"name": compressor.name, "sha256": card["files"][artefact.LM_FILES[kind]]}
    return TrainedLM(
        model=compressor.lm(train.resolve_device(device) if kind == "paper" else "cpu"),
        provenance={**card["lm"], "from": card["lm"].get("from", origin)},
        seconds=0.0,
    )


def trained(
    text: Text, held_out: Text, options: SmallOptions | PaperOptions, state: State | None, report: Report
) -> TrainedLM:
    """Train a byte LM.

    Args:
        text: to train on, at least 64 KiB.
        held_out: to try it on, not empty.
        options: of which LM, and how.
        state: see `train.train`.
        report: progress.

    Raises:
        UserError: as `train.train` and the LM's `trainee`.
    """
    import torch

    report(f"training the {options.kind} byte LM on {len(text.data) / 1e6:.1f} MB, {options.steps:,} steps")
    model: SmallByteLM | TransformerByteLM
    if isinstance(options, SmallOptions):
        trainee = small_training.trainee(text, held_out, options)
        seconds = train.train(trainee, state, report)
        model = small_training.finished(trainee.module, options)
    else:
        trainee = paper_training.trainee(text, held_out, options)
        seconds = train.train(trainee, state, report)
        model = TransformerByteLM(options.sizes, paper_training.weights_of(trainee.module), trainee.device)
    bits = bits_per_byte(model, held_out)
    report(f"the {options.kind} byte LM has {bits:.3f} held-out bits per byte")
    return TrainedLM(
        model=model,
        provenance={
            "bits_per_byte": round(bits, 4),
            "options": asdict(options),
            "text_bytes": len(text.data),
            "text_sha256": text_digest(text),
            "torch": str(torch.__version__),
            "device": _device_name(trainee.device),
            "processor": processor(),
            "threads": torch.get_num_threads(),
        },
        seconds=seconds,
    )


def _device_name(device: str) -> str:
    """What decides how training rounds, besides torch's build, the number of threads and the processor's maker."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.backends.cpu.get_cpu_capability()}"


def distilled(model: ByteLM, text: Text, held_out: Text, options: FitOptions, report: Report) -> Distilled:
    """Make and score what coders need of a byte LM; arguments as of `trained` and `fit`."""
    begin = time.monotonic()
    distil_text = text.first(options.distil_bytes)
    report(f"distilling its entropies over {len(distil_text.data) / 1e6:.1f} MB")
    entropies = model.entropies(distil_text)
    table = segment.distil(entropies, distil_text, options.mean_segment, options.context_bytes)
    threshold = segment.threshold_for(entropies, options.mean_segment)
    after_table = time.monotonic()
    scores, books = {}, {}
    for bits in options.bits:
        books[bits] = codebook.build(bits, model.next_frequencies)
        ratio = bytes_per_symbol(encoder.coder(books[bits]), segment.TableSegmenter(table), held_out)
        scores[bits] = {"bytes_per_symbol": round(ratio, 4), "longest_string": int(books[bits].depth.max())}
        report(f"codebook of {bits} bits: {scores[bits]['bytes_per_symbol']} held-out bytes per symbol")
    seconds = {"distilling": after_table - begin, "codebooks": time.monotonic() - after_table}
    return Distilled(table=table, lm_threshold=threshold, codebooks=books, scores=scores, seconds=seconds)


def bytes_per_symbol(coder: encoder.CodebookCoder, segmenter: segment.Segmenter, text: Text) -> float:
    """Raw bytes per codeword over the documents of a text."""
    ids, _, _ = coder.encode(text.data, text.offsets, segmenter.marks(text.data, text.offsets))
    return len(text.data) / max(len(ids), 1)


def _split(documents: Iterable[tuple[bytes, bytes]], limit: int) -> tuple[Text, Text]:
    """Training and held-out text; where nothing is held out, the training text stands for it in scores."""
    train: list[bytes] = []
    held_out: list[bytes] = []
    size = held = 0
    for doc_id, raw in documents:
        if not raw:  # nothing could be scored on empty documents alone
            continue
        if may_fit(doc_id):
            train.append(raw[: limit - size])
            size += len(train[-1])
        elif held < HELD_OUT_BYTES:
            held_out.append(raw[: HELD_OUT_BYTES - held])
            held += len(held_out[-1])
        if size >= limit:
            break
    return Text.of(train), Text.of(held_out or train)
