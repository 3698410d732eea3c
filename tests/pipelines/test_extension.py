"""A proxy that an installed package registers goes through the whole job, in worker processes."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.prepare import ProxyOptions

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


def test_registered_proxy_is_used_and_its_failures_are_single_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    (package / "pairs_proxy-1.0.dist-info").mkdir(parents=True)
    (package / "pairs_proxy-1.0.dist-info" / "METADATA").write_text("Name: pairs-proxy\nVersion: 1.0\n")
    (package / "pairs_proxy-1.0.dist-info" / "entry_points.txt").write_text(
        "[proxy_compression.proxies]\npairs = pairs_proxy:Pairs\n"
    )
    (package / "pairs_proxy.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(package))
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
            workers=1,
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
