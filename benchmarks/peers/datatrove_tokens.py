"""datatrove: its reader, its tokenizer block and its local executor; one task an input file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import main
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer


def run(files: list[Path], tokenizer: Path, out: Path, workers: int) -> None:
    """Tokenise; a task that completed in an earlier run is skipped."""
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(files[0].parent)),
            DocumentTokenizer(output_folder=str(out / "data"), tokenizer_name_or_path=str(tokenizer)),
        ],
        tasks=len(files),
        workers=workers,
        logging_dir=str(out / "logs"),
    ).run()


def read(out: Path) -> Iterator[np.ndarray]:
    """Ids of two bytes, cut at the ends that the index files hold."""
    for path in sorted((out / "data").glob("*.ds")):
        ends = np.fromfile(f"{path}.index", np.uint64).astype(np.int64)
        yield from np.split(np.fromfile(path, np.uint16), ends[:-1])


if __name__ == "__main__":
    main(run, read)
