"""The same symbols for every document whatever runs the job: workers, batches, threads, runners; large LM and small."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from compressor_model import cli as compressor_command
from compressor_model.artefact import open_compressor

SOURCES = ("pipelines", "compressor_model", "schemas")

FORMS = {
    "codebook": [],
    "packed-tail": ["--windows", "packed", "--fuzz", "tail"],
    "lm": ["--segmentation", "lm"],
    "range-lm": ["--segmentation", "lm", "--coder", "range"],
}

Views = dict[tuple[str, str], tuple[list[int], list[int]]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred KB of code and documents, in files of very different sizes."""
    folder = tmp_path_factory.mktemp("corpus")
    for source in SOURCES:
        for path in sorted(Path(source).rglob("*.py")):
            (folder / f"{source}-{path.name}").write_bytes(path.read_bytes())
    for number, size in enumerate((1, 2, 40, 700, 5000)):
        (folder / f"random{number}.bin").write_bytes(bytes((7 * n * n + n // 3) % 256 for n in range(size)))
    return folder


@pytest.fixture(scope="module")
def paper(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressor with a tiny Transformer."""
    folder = tmp_path_factory.mktemp("fitted") / "paper"
    arguments = (
        f"fit --corpus {corpus} --out {folder} --lm paper --layers 2 --width 32 --heads 2 --hidden 64 --row 256 "
        "--context 64 --steps 30 --batch 2048 --bits 12 --distil-bytes 100000"
    )
    assert compressor_command.run(arguments.split()) == 0
    assert open_compressor(folder).lm_kind == "paper"
    return folder


def views(corpus: Path, out: Path, options: list[str], threads: int = 1) -> Views:
    """Preprocess in a process of its own, and each document's symbols and spans."""
    command = [sys.executable, "-m", "pipelines", "preprocess", "--corpus", str(corpus), "--out", str(out), "--quiet"]
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))}
    subprocess.run([*command, *options], check=True, env=environment, capture_output=True)
    found = {}
    for path in sorted(out.glob("*.parquet")):
        for row in pq.read_table(path, columns=["doc_id", "source", "comp", "spans"]).to_pylist():
            found[row["doc_id"], row["source"]] = (row["comp"], row["spans"])
    assert len(found) > 40
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("form", "lm"),
    [("codebook", "small"), ("packed-tail", "small"), ("lm", "small"), ("lm", "paper"), ("range-lm", "paper")],
)
def test_same_symbols_whatever_runs_the_job(corpus: Path, paper: Path, tmp_path: Path, form: str, lm: str) -> None:
    options = [*FORMS[form], "--bits", "12", "--unit-bytes", "50000"]
    options += ["--compressor", "pretrained" if lm == "small" else str(paper)]
    first = views(corpus, tmp_path / "one", [*options, "--workers", "1"])
    runs = {
        "two": (["--workers", "2"], 1),
        "four": (["--workers", "4"], 1),
        "threads": (["--workers", "1"], 2),
        "batches-of-one": (["--row-group-bytes", "1"], 1),
        "large-batches": (["--row-group-bytes", str(1 << 20), "--unit-bytes", str(1 << 20)], 1),
        "dask": (["--runner", "dask"], 1),
    }
    for name, (more, threads) in runs.items():
        kept = options[:-4] + options[-2:] if "--unit-bytes" in more else options
        assert views(corpus, tmp_path / name, [*kept, *more], threads) == first, name
