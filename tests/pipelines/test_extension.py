"""A proxy that an installed package registers goes through the whole job, in worker processes, and through training."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from packages import leave_package

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.runners.running import RunnerOptions
from trainer.checkpoints.restore import restore
from trainer.config import TrainOptions
from trainer.evaluate.bpb import BpbOptions, evaluate
from trainer.run_log import METRICS
from trainer.trainer import Trainer

MODULE = '''
import numpy as np
from pipelines.proxies import Encoded, Proxy
from schemas.vocabulary import COMP_OFFSET, Vocabulary

class Pairs(Proxy):
    """Two bytes a symbol; refuses documents with a NUL, and spoils those with a DEL."""
    name = "pairs"
    fingerprint = "pairs-1"
    vocabulary = Vocabulary(proxy="pairs", comp_symbols=65536)

    def __init__(self, uri):
        self.uri = uri

    def encode(self, raw):
        if b"\\0" in raw:
            raise RuntimeError("no NUL,\\nplease")
        padded = np.frombuffer(raw + b"\\0" * (len(raw) % 2), ">u2").astype(np.uint32)
        spans = np.full(len(padded), 2, np.uint16)
        if len(raw) % 2:
            spans[-1] = 1
        return Encoded(padded + COMP_OFFSET + (b"\\x7f" in raw), spans)

    def decode(self, ids):
        return (ids - COMP_OFFSET).astype(">u2").tobytes().rstrip(b"\\0")
'''


RUNS_MODULE = '''
import itertools
import numpy as np
from pipelines.proxies import Encoded, Proxy
from schemas.vocabulary import COMP_OFFSET, Vocabulary

class Runs(Proxy):
    """One or two equal bytes a symbol."""
    name = "runs"
    fingerprint = "runs-1"
    vocabulary = Vocabulary(proxy="runs", comp_symbols=512)

    def __init__(self, uri):
        self.uri = uri

    def encode(self, raw):
        runs = [(byte, len(list(same))) for byte, same in itertools.groupby(raw)]
        pairs = [(byte, min(2, n - at)) for byte, n in runs for at in range(0, n, 2)]
        symbols = [byte + 256 * (n - 1) for byte, n in pairs]
        return Encoded(np.array(symbols, np.uint32) + COMP_OFFSET, np.array([n for _, n in pairs], np.uint16))

    def decode(self, ids):
        return b"".join(bytes([s % 256]) * (s // 256 + 1) for s in (ids - COMP_OFFSET).tolist())
'''


def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    """Install a package whose entry point is the proxy `name`, as pip would leave it."""
    package = tmp_path / "package"
    entry_point = f"{name} = {name}_proxy:{name.capitalize()}"
    leave_package(package, f"{name}-proxy", f"[proxy_compression.proxies]\n{entry_point}\n")
    (package / f"{name}_proxy.py").write_text(module)
    monkeypatch.syspath_prepend(str(package))


def test_registered_proxy_is_used_and_its_failures_are_single_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, monkeypatch, "pairs", MODULE)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    documents = {f"{n}.txt": f"document {n}".encode() for n in range(20)}
    documents |= {"nul.txt": b"with \0 inside", "del.txt": b"with \x7f inside"}
    for name, raw in documents.items():
        (corpus / name).write_bytes(raw)
    out = tmp_path / "out"
    manifest = preprocess(
        PreprocessOptions(
            corpus=str(corpus),
            out=str(out),
            proxy=ProxyOptions(proxy="pairs"),
            runner=RunnerOptions(workers=1),
            quiet=True,
            max_reject_fraction=0.2,
        )
    )
    assert manifest.vocabulary.size == 320 + 65536
    assert manifest.rejected == {"decode-mismatch": 1, "encode-error": 1}
    assert manifest.totals.rows == 20
    rejects = {row["source"]: row for row in pq.read_table(out / "rejects").to_pylist()}
    assert rejects["nul.txt"]["detail"] == "RuntimeError: no NUL, please"
    assert (rejects["nul.txt"]["stage"], rejects["del.txt"]["stage"]) == ("encode", "decode")
    sys.modules.pop("pairs_proxy", None)


def test_registered_proxy_goes_the_whole_way_from_text_to_generated_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, monkeypatch, "runs", RUNS_MODULE)
    corpus, data, run = tmp_path / "corpus", tmp_path / "data", tmp_path / "run"
    corpus.mkdir()
    for n in range(60):
        (corpus / f"{n}.txt").write_bytes(f"{n}: all good books  ".encode() * 20)
    preprocess(
        PreprocessOptions(
            corpus=str(corpus),
            out=str(data),
            proxy=ProxyOptions(proxy="runs"),
            runner=RunnerOptions(workers=1),
            quiet=True,
            row_group_bytes=2000,
        )
    )
    options = TrainOptions(
        data=(str(data),), run=str(run), steps=12, batch=2, sequence=256, val_fraction=0.05, tensorboard=False
    )
    Trainer(options).train()
    first, last = (json.loads(line) for line in (run / METRICS).read_text().splitlines()[:: 12 - 1])
    assert last["loss"] < first["loss"]
    shown = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert sum(line["comp_view_bytes"] for line in shown) > sum(line["raw_view_bytes"] for line in shown) > 0
    restored = restore(str(run))
    assert restored.vocabulary.comp_symbols == 512
    result = evaluate(BpbOptions(run=str(run), documents=3, markov=()))
    assert 0 < result["bits_per_byte"] < 9
    sys.modules.pop("runs_proxy", None)
