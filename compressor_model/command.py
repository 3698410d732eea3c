"""The `fit` command: from the options of a command line to a compressor folder.

The packages meet here only: reading corpora is the pipeline's, models are this package's.
"""

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressor_model.artefact import open_compressor
from compressor_model.fit import FitOptions, fit, taken
from compressor_model.paper_training import PaperOptions
from compressor_model.small_training import SmallOptions
from pipelines.default_out import corpus_name
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.records import ReadOptions
from schemas.errors import UserError
from schemas.secrets import redacted

LMS: dict[str, type[SmallOptions] | type[PaperOptions]] = {"small": SmallOptions, "paper": PaperOptions}

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class FitCommand:
    """Fit a compressor to a corpus. The same command goes on with a training that was stopped.

    Attributes:
        corpus: as of `python -m pipelines preprocess`.
        out: folder to write; default data/compressor-<corpus>, with -paper for that LM.
        licence: of the text, recorded in the card.
        bits: codebooks to make, 12 to 16 bits each.
        field: key or column of the text in JSONL and Parquet; default text, content or raw.
        mean_segment: least mean segment in bytes; longer ones code more bytes a symbol and are less stable.
        context_bytes: of the entropy table, 2 to 4: bytes that a boundary depends on; fewer are more stable.
        text_bytes: at most this much training text is read.
        distil_bytes: at most this much of it fills the entropy table.
        lm: the byte LM: small (hashed contexts of 6 bytes, minutes on a CPU, exact integers) or paper (a Transformer
            of 40M parameters; wants a GPU).
        lm_from: a compressor folder: take its byte LM, train none, and distil it for this corpus.
        afresh: begin the training anew where one was stopped.
        steps: optimiser steps; small 3,000, paper 5,000.
        batch: bytes per step; small 16,384, paper 65,536.
        learning_rate: peak; small 0.01, paper 0.001.
        cut_context: share of a step's bytes that are trained on in a fresh context; 0.25.
        seed: of initialisation and draws; 0.
        rows: of small: hash rows per order, a power of two; 16,384.
        width: small: hidden units, at most 70; 64. paper: of the stream; 512.
        layers: of paper: 12.
        heads: of paper: of attention; 8.
        hidden: of paper: units of SwiGLU; 1,472.
        row: of paper: longest row in bytes, a power of two; 2,048.
        context: of paper: bytes that a later row of a document sees before its first new one; 256.
        device: of paper: auto (a GPU if there is one), cpu or cuda.
    """

    corpus: str = "stdlib"
    out: str | None = None
    licence: str = "not stated"
    bits: tuple[int, ...] = (12, 16)
    field: str | None = None
    mean_segment: float = FitOptions.mean_segment
    context_bytes: int = FitOptions.context_bytes
    text_bytes: int = FitOptions.text_bytes
    distil_bytes: int = FitOptions.distil_bytes
    lm: Literal["small", "paper"] = "small"
    lm_from: str | None = None
    afresh: bool = False
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    cut_context: float | None = None
    seed: int | None = None
    rows: int | None = None
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    hidden: int | None = None
    row: int | None = None
    context: int | None = None
    device: Device | None = None

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> FitOptions:
        """What is fitted.

        Raises:
            UserError: an option is out of range, or is of the other LM.
        """
        kind = LMS[self.lm]
        of_lms = {field.name for lm in LMS.values() for field in dataclasses.fields(lm)}
        given = {name: getattr(self, name) for name in of_lms if getattr(self, name) is not None}
        of_this = {field.name for field in dataclasses.fields(kind)}
        for name in sorted(given):
            option = "--" + name.replace("_", "-")
            if self.lm_from is not None and name != "device":
                raise UserError(f"{option}: --lm-from takes an LM as it is; leave one of them out")
            if self.lm_from is None and name not in of_this:
                raise UserError(f"{option}: the {self.lm} byte LM has no such option; leave it out or change --lm")
        return FitOptions(
            bits=self.bits,
            mean_segment=self.mean_segment,
            context_bytes=self.context_bytes,
            text_bytes=self.text_bytes,
            distil_bytes=self.distil_bytes,
            lm=kind() if self.lm_from is not None else kind(**given),
        )


def run(command: FitCommand) -> None:
    """Fit and say where the result is.

    Raises:
        UserError: no corpus, too little text, or the folder cannot be written.
    """
    corpus = list_corpus(command.corpus)
    name = corpus_name(command.corpus)
    source = None if command.lm_from is None else open_compressor(command.lm_from)
    kind = command.lm if source is None else source.lm_kind
    folder = Path(command.out or f"data/compressor-{name}{'-paper' if kind == 'paper' else ''}")
    lm = None if source is None else taken(source, command.device or "auto")
    result = fit(
        ((document.doc_id, document.raw) for document in Sampler(corpus, ReadOptions(field=command.field)).documents()),
        command.options(),
        folder=folder,
        name=name,
        provenance={
            "command": redacted(shlex.join(["python", "-m", "compressor_model", *sys.argv[1:]])),
            "corpus": {
                "spec": redacted(command.corpus),
                "files": len(corpus.inputs),
                "bytes": corpus.listed_bytes,
                "listing_digest": corpus.listing_digest,
                "python": sys.version.split()[0] if command.corpus in ("stdlib", "site-packages") else None,
            },
            "licence": command.licence,
        },
        report=_say,
        lm=lm,
        resumable=True,
        afresh=command.afresh,
    )
    _say(f"{folder}: {', '.join(f'{bits} bits {result.score(bits)} bytes a symbol' for bits in result.bits)}")
    _say(f"use it: make preprocess COMPRESSOR={folder}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
