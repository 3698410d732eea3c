"""Stability and fuzziness in a report: read from a folder of `measure`, or measured now on a small sample."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressor_model.artefact import CARD, PRETRAINED
from pipelines.dataset import Dataset
from pipelines.measure import fuzziness, results, stability
from pipelines.measure.fuzziness import FuzzinessOptions
from pipelines.measure.results import Fuzziness, Stability
from pipelines.measure.stability import StabilityOptions
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.prepare import PROXY_FOLDER, trained_tokenizer
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.records import ReadOptions
from pipelines.report.at_hand import form_of
from pipelines.report.documents import Row
from pipelines.report.privacy import cleaned, shown
from schemas.errors import UserError
from schemas.files import sha256

PIECES = 60
PIECE_CHARACTERS = 2048
FUZZINESS_BYTES = 1 << 20
"""A sample that takes seconds a proxy; `measure` itself takes several times as much."""

NEURAL = ("codebook", "codebook-fuzzy", "range")

Say = Callable[[str], None]


def read(folder: str) -> tuple[Stability | None, Fuzziness | None]:
    """The results in a folder.

    Raises:
        UserError: there is none, or a damaged one.
    """
    stable: Stability | None = results.read(Path(folder), "stability")
    fuzzy: Fuzziness | None = results.read(Path(folder), "fuzziness")
    if stable is None and fuzzy is None:
        raise UserError(
            f"--measure {folder}: no stability.json or fuzziness.json there; make them with make measure OUT={folder}"
        )
    return stable, fuzzy


def tokenizer_of(data: Dataset, say: Say) -> str:
    """A BPE tokenizer trained on the dataset's text, with as many tokens as its proxy has symbols, 32,768 at most.

    Raises:
        UserError: too little text.
    """
    return str(trained_tokenizer(_proxy(data, None, None), Sampler(list_corpus(data.folder.url), ReadOptions()), say))


def measure(
    data: Dataset, rows: Sequence[Row], *, tokenizer: str | None, compressor: str | None, say: Say
) -> tuple[Stability, Fuzziness]:
    """Measure on the dataset's own text, held-out documents if there are such.

    Args:
        data: the dataset.
        rows: a sample of it, see `documents`.
        tokenizer: a tokenizers JSON file; default one trained on the dataset, see `tokenizer_of`.
        compressor: of the neural forms; default the dataset's own, else the shipped one.
        say: called with a line for people.

    Raises:
        UserError: no text, or no proxy that can be measured.
    """
    proxy = _proxy(data, tokenizer, compressor)
    common: dict[str, Any] = {
        "corpus": data.folder.url,
        "proxy": proxy,
        "variants": (*NEURAL, "tokenizer" if tokenizer else "bpe", "gzip", "raw"),
        "all_documents": not any(row.held_out and len(row.raw) >= 64 for row in rows),
    }
    say("measuring stability")
    stable = stability.measured(StabilityOptions(**common, pieces=PIECES, piece_characters=PIECE_CHARACTERS))
    say("measuring fuzziness")
    fuzzy = fuzziness.measured(
        FuzzinessOptions(**{**common, "variants": common["variants"][:-2]}, bytes=FUZZINESS_BYTES)
    )
    return stable, fuzzy


def _proxy(data: Dataset, tokenizer: str | None, compressor: str | None) -> ProxyOptions:
    described = data.manifest.dataset["proxy"]
    options = ProxyOptions(compressor=compressor or "pretrained", tokenizer=tokenizer)
    bits = form_of(described).get("bits", "")
    if not re.fullmatch("1[2-6]", bits):  # of another proxy, or nothing that there is
        return options
    if compressor is None and described["files"].get(CARD) != sha256(PRETRAINED / CARD):
        compressor = data.folder.locate(PROXY_FOLDER)
    size = min(1 << int(bits), options.vocab_size)
    return replace(options, compressor=compressor or "pretrained", bits=int(bits), vocab_size=size)


def without_places(found: Stability | Fuzziness, given: Collection[str]) -> None:
    """Shorten the paths in a result, but those given; see `privacy`."""
    found["corpus"] = shown(found["corpus"], given)
    found["left_out"] = cleaned(found["left_out"], given)
