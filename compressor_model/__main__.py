"""`python -m compressor_model fit`: train a byte LM on a corpus and distil a compressor from it."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from compressor_model.fit import FitOptions, fit
from compressor_model.train import TrainOptions
from schemas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FitCommand:
    """Fit a compressor to a corpus (minutes on two cores).

    Attributes:
        corpus: as of `python -m pipelines preprocess`.
        out: folder to write; default data/compressor-<corpus>.
        licence: of the text, recorded in the card.
        bits: codebooks to make, 12 to 16 bits each.
        fit: see FitOptions.
        train: of the byte LM.
    """

    corpus: str = "stdlib"
    out: str | None = None
    licence: str = "not stated"
    bits: tuple[int, ...] = (12, 16)
    mean_segment: float = FitOptions.mean_segment
    text_bytes: int = FitOptions.text_bytes
    distil_bytes: int = FitOptions.distil_bytes
    train: Annotated[TrainOptions, tyro.conf.arg(name="")] = field(default_factory=TrainOptions)


def run(command: FitCommand, arguments: list[str]) -> None:
    """Fit and say where the result is."""
    # The packages meet here only: reading corpora is the pipeline's, models are this package's.
    from pipelines.corpus import list_corpus
    from pipelines.proxies.prepare import Sampler
    from pipelines.records import ReadOptions

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
        ((document.doc_id, document.raw) for document in Sampler(corpus, ReadOptions()).documents()),
        options,
        folder=folder,
        name=name,
        provenance={
            "command": shlex.join(["python", "-m", "compressor_model", *arguments]),
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


def main(arguments: list[str]) -> int:
    """The command line; exit status as of `python -m pipelines`."""
    if not arguments or arguments[0] != "fit":
        _say("usage: python -m compressor_model fit [options]   (--help after the command)")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        command = tyro.cli(
            FitCommand, args=arguments[1:], prog="python -m compressor_model fit", config=(tyro.conf.OmitArgPrefixes,)
        )
        run(command, arguments)
    except UserError as error:
        _say(f"fit: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; a compressor is written whole or not at all")
        return 130
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
