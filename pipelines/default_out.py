"""Where `preprocess` writes unless it is told: one rule for the program and the Makefile.

`python -m pipelines.default_out CORPUS PROXY [CODER BITS SEGMENTATION WINDOWS FUZZ]` prints it, in 30 ms.
"""

import re
import sys
from collections.abc import Sequence

_SUFFIX = re.compile(r"(\.(jsonl|ndjson|parquet|txt|toml))?(\.(gz|zst|xz))?$")

_DEFAULT_FORM = ("codebook", "16", "table", "segment", "none")


def default_out(corpus: str, proxy: str, form: Sequence[str] = ()) -> str:
    """data/<corpus>-<proxy>, and what of the form is not the default, as in data/text-neural-range-12b.

    Args:
        corpus: as given to preprocess.
        proxy: its name.
        form: of the neural proxy: coder, bits, segmentation, windows, fuzz; empty or missing ones are the default.
    """
    name = f"{corpus_name(corpus)}-{proxy}"
    if proxy == "neural":
        padded = [*form, *[""] * (len(_DEFAULT_FORM) - len(form))]
        for value, default in zip(padded, _DEFAULT_FORM, strict=True):
            if value and value != default:
                name += f"-{value}b" if value.isdigit() else f"-{value}"
    return f"data/{name}"


def corpus_name(corpus: str) -> str:
    """The last part of a path without its data suffix, what is no letter, digit, dot or dash as one underscore.

    The query of a URL, which may hold a signature, is no part of it.
    """
    if "://" in corpus:
        corpus = corpus.partition("?")[0]
    last = _SUFFIX.sub("", corpus.rstrip("/").rsplit("/", 1)[-1])
    return re.sub(r"[^a-zA-Z0-9.-]+", "_", last).strip("._") or "corpus"


if __name__ == "__main__":
    corpus, proxy, *form = sys.argv[1:]
    sys.stdout.write(default_out(corpus, proxy, form) + "\n")
