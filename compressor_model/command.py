"""The `fit` command: from the options of a command line to a compressor folder.

The packages meet here only: reading corpora is the pipeline's, models are this package's.
"""

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from compressor_model.fit import FitOptions, fit
from compressor_model.train import TrainOptions
from pipelines.corpus import list_corpus
from pipelines.proxies.prepare import Sampler
from pipelines.records import ReadOptions


@dataclass(frozen=True, kw_only=True)
class FitCommand:
    """Fit a compressor to a corpus (minutes on two cores).

    Attributes:
        corpus: as of `python -m pipelines preprocess`.
        out: folder to write; default data/compressor-<corpus>.
        licence: of the text, recorded in the card.
        bits: codebooks to make, 12 to 16 bits each.
        field: key or column of the text in JSONL and Parquet; default text, content or raw.
        mean_segment: least mean segment in bytes; longer ones code more bytes a symbol and are less stable.
        text_bytes: at most this much training text is read.
        distil_bytes: at most this much of it fills the entropy table.
        train: of the byte LM.
    """

    corpus: str = "stdlib"
    out: str | None = None
    licence: str = "not stated"
    bits: tuple[int, ...] = (12, 16)
    field: str | None = None
    mean_segment: float = FitOptions.mean_segment
    text_bytes: int = FitOptions.text_bytes
    distil_bytes: int = FitOptions.distil_bytes
    train: Annotated[TrainOptions, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainOptions)


def run(command: FitCommand) -> None:
    """Fit and say where the result is.

    Raises:
        UserError: no corpus, too little text, or the folder cannot be written.
    """
    options = FitOptions(
        bits=command.bits,
        mean_segment=command.mean_segment,
        text_bytes=command.text_bytes,
        distil_bytes=command.distil_bytes,
        train=command.train,
    )
    corpus = list_corpus(command.corpus)
    name = command.corpus.rstrip("/").rsplit("/", 1)[-1] or "corpus"
    folder = Path(command.out or f"data/compressor-{name}")
    result = fit(
        ((document.doc_id, document.raw) for document in Sampler(corpus, ReadOptions(field=command.field)).documents()),
        options,
        folder=folder,
        name=name,
        provenance={
            "command": shlex.join(["python", "-m", "compressor_model", *sys.argv[1:]]),
            "corpus": {
                "spec": command.corpus,
                "files": len(corpus.inputs),
                "bytes": corpus.listed_bytes,
                "listing_digest": corpus.listing_digest,
                "python": sys.version.split()[0] if command.corpus in ("stdlib", "site-packages") else None,
            },
            "licence": command.licence,
        },
        report=_say,
    )
    _say(f"{folder}: {', '.join(f'{bits} bits {result.score(bits)} bytes a symbol' for bits in result.bits)}")
    _say(f"use it: make preprocess COMPRESSOR={folder}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
