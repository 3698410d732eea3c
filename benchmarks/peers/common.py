"""What the drivers of other tools share: their command line, and what is counted of an output.

`TOOL.py run CORPUS TOKENIZER OUT WORKERS` turns the JSONL files of a folder into OUT/data, with all else beside it;
`TOOL.py read OUT` says what is in OUT/data, as one line of JSON.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np


def main(run: Callable[[list[Path], Path, Path, int], None], read: Callable[[Path], Iterable[np.ndarray]]) -> None:
    """Do what the command line says.

    Args:
        run: takes the corpus's files, the tokenizer, the output folder and the number of workers.
        read: gives the ids of each document that it finds in an output folder.
    """
    if sys.argv[1] == "read":
        print(json.dumps(counted(read(Path(sys.argv[2])))))
        return
    corpus, tokenizer, out = (Path(argument) for argument in sys.argv[2:5])
    run(sorted(corpus.glob("*.jsonl")), tokenizer, out, int(sys.argv[5]))


def counted(documents: Iterable[np.ndarray]) -> dict[str, int | str]:
    """Documents, ids, and a digest that does not depend on the documents' order."""
    digests, ids = [], 0
    for document in documents:
        ids += len(document)
        digests.append(hashlib.sha256(np.asarray(document, np.uint32).tobytes()).digest())
    return {"documents": len(digests), "ids": ids, "digest": hashlib.sha256(b"".join(sorted(digests))).hexdigest()}
