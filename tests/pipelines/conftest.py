"""Small datasets, made once a session and shared: `make_dataset` gives their folders, `copy_of` copies to damage."""

import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.plan import Unit
from pipelines.reading.records import ReadOptions
from pipelines.runners.running import RunnerOptions

TOKENIZER = Path(__file__).parent.parent / "data" / "tokenizer.json"

MakeDataset = Callable[..., Path]


def write_small_corpus(folder: Path) -> Path:
    """Python-like text, JSONL and bytes: duplicates, empty, long and invalid documents among them; 6 rejects."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    words = [f"name_{n} = value[{n}]\n" for n in range(50)] + ["def f(self):\n", "    return None\n", "\n", "é→中\n"]
    for n in range(30):
        (folder / f"text{n:03d}.py").write_text("".join(rng.choices(words, k=rng.randint(0, 150))))
    shutil.copy(folder / "text001.py", folder / "copy.py")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "long.txt").write_text("".join(rng.choices(words, k=900)))  # cut by max_document_bytes
    (folder / "bytes.bin").write_bytes(bytes(range(256)) * 12)
    lines = [json.dumps({"text": "".join(rng.choices(words, k=40)), "lang": rng.choice("ab")}) for _ in range(30)]
    bad = ['{"text": 1}', "[]", "{", '{"other": ""}', '{"text": "\\ud800"}', '{"text": null}']
    with gzip.open(folder / "some.jsonl.gz", "wt") as file:
        file.write("\n".join(lines[:15] + bad + lines[15:]))
    return folder


def run_here(work: Callable[[Unit], object], units: list[Unit], *_: object) -> None:
    for unit in units:
        work(unit)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No runner and no processes in `preprocess`: a dataset takes a moment, and patches reach its workers."""
    monkeypatch.setattr("pipelines.runners.beam.run", run_here)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="session")
def make_dataset(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeDataset:
    """`make_dataset(proxy="bpe", read={...}, **options)`: the folder of a dataset that no test may change."""
    made: dict[str, Path] = {}

    def make(proxy: str = "bpe", *, read: dict[str, Any] | None = None, **options: Any) -> Path:
        key = repr((proxy, read, sorted(options.items())))
        if key not in made:
            out = tmp_path_factory.mktemp(proxy) / "data"
            settings = {"unit_bytes": 30_000, "row_group_bytes": 4096, "max_reject_fraction": 0.5, **options}
            given: dict[str, Any] = {
                "neural": {"compressor": "pretrained"},
                "bpe": {"tokenizer": str(TOKENIZER)},
            }.get(proxy, {})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("pipelines.runners.beam.run", run_here)
                preprocess(
                    PreprocessOptions(
                        **{"corpus": str(small_corpus), **settings},
                        out=str(out),
                        proxy=ProxyOptions(proxy=proxy, **given),
                        read=ReadOptions(**{"max_document_bytes": 5000, **(read or {})}),
                        runner=RunnerOptions(workers=1),
                        quiet=True,
                    )
                )
            made[key] = out
        return made[key]

    return make


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """`copy_of(folder)`: a copy that the test may damage."""

    def copy(folder: Path) -> Path:
        return shutil.copytree(folder, tmp_path / "copy")

    return copy
