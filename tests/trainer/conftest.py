"""Datasets of a small corpus under every proxy, for tests that train."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.runners.running import RunnerOptions

TOKENIZER = str(Path(__file__).parent.parent / "data" / "tokenizer.json")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower on more, and results of one run are compared to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small corpus under each proxy."""
    corpus = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = [f"name_{n} = value[{n}]\n" for n in range(40)] + ["def f(self):\n", "    return None\n"]
    for n in range(60):
        (corpus / f"{n}.py").write_text("".join(rng.choices(words, k=rng.randint(20, 120))))
    found = {}
    for name, options in {
        "neural": {"bits": 12, "compressor": "pretrained"},
        "bpe": {"tokenizer": TOKENIZER},
        "gzip": {},
        "identity": {},
    }.items():
        found[name] = tmp_path_factory.mktemp(name) / "out"
        preprocess(
            PreprocessOptions(
                corpus=str(corpus), out=str(found[name]), proxy=ProxyOptions(proxy=name, **options),
                runner=RunnerOptions(workers=1), quiet=True, row_group_bytes=4096,
            )
        )  # fmt: skip
    return found
