"""Where `preprocess` writes unless it is told: one rule for the program and the Makefile.

`python -m pipelines.default_out CORPUS PROXY [CODER] [BITS]` prints it, in 30 ms.
"""

import re
import sys

_SUFFIX = re.compile(r"(\.(jsonl|ndjson|parquet|txt))?(\.(gz|zst|xz))?$")


def default_out(corpus: str, proxy: str, coder: str = "codebook", bits: int = 16) -> str:
    """data/<corpus>-<proxy>, with -range and -<bits>b appended where those are not the default.

    <corpus> is the last part of the path without its data suffix, every run of other characters than letters,
    digits, dot and dash as one underscore.
    """
    last = _SUFFIX.sub("", corpus.rstrip("/").rsplit("/", 1)[-1])
    name = f"{re.sub(r'[^a-zA-Z0-9.-]+', '_', last).strip('._') or 'corpus'}-{proxy}"
    if proxy == "neural":
        name += "-range" if coder == "range" else ""
        name += "" if bits == 16 else f"-{bits}b"
    return f"data/{name}"


if __name__ == "__main__":
    corpus, proxy, coder, bits = (*sys.argv[1:], "", "")[:4]
    sys.stdout.write(default_out(corpus, proxy, coder or "codebook", int(bits or 16)) + "\n")
