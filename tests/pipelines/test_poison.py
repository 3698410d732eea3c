"""Bad records never stop a job and never vanish: documents read = rows + rejects, exactly and alike on every runner."""

import gzip
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from job_runners import RUNNERS, runner
from packages import leave_package

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.documents import EXCERPT_BYTES
from pipelines.reading.records import ReadOptions
from pipelines.runners.running import RunnerOptions
from schemas.errors import UserError
from schemas.manifest import Manifest

MODULE = '''
import numpy as np
from pipelines.proxies import Encoded, Proxy
from schemas.vocabulary import COMP_OFFSET, Vocabulary

class Picky(Proxy):
    """A byte a symbol; raises at RAISE, and loses the first symbol of SPOIL."""
    name = "picky"
    fingerprint = "picky-1"
    vocabulary = Vocabulary(proxy="picky", comp_symbols=256)

    def __init__(self, uri):
        self.uri = uri

    def encode(self, raw):
        if b"RAISE" in raw:
            raise RuntimeError("will not\\nencode this")
        symbols = np.frombuffer(raw, np.uint8).astype(np.uint32)
        if b"SPOIL" in raw:
            symbols[0] ^= 1
        return Encoded(symbols + COMP_OFFSET, np.ones(len(symbols), np.uint16))

    def decode(self, ids):
        return (ids - COMP_OFFSET).astype(np.uint8).tobytes()
'''

LINES = {
    "invalid-utf8": b'{"text": "caf\xe9"}',
    "lone-surrogate": b'{"text": "\\ud800"}',
    "invalid-json": b'{"text": "never ends',
    "not-an-object": b'["text"]',
    "missing-field": b'{"body": "text"}',
    "wrong-type": b'{"text": {"nested": 1}}',
    "record-too-long": b'{"text": "' + b"x" * 5000 + b'"}',
    "encode-error": b'{"text": "RAISE, please"}',
    "decode-mismatch": b'{"text": "SPOIL, please"}',
}
"""One bad line of each kind. Two more kinds are files: a truncated one and a bomb."""

CUT_LINE = b'{"text": "%s"}\n'
"""Of 1,000 digits, in the file that ends too early."""

DOCUMENTS = 2000
OF_EACH = 2


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a package that registers the proxy, as pip would leave it."""
    folder = tmp_path_factory.mktemp("package")
    leave_package(folder, "picky-proxy", "[proxy_compression.proxies]\npicky = picky_proxy:Picky\n")
    (folder / "picky_proxy.py").write_text(MODULE)
    return folder


@pytest.fixture(autouse=True)
def registered(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 documents and one in a hundred of each bad kind, spread over JSONL files, plain and compressed."""
    rng = random.Random(7)
    folder = tmp_path_factory.mktemp("poison")
    lines = [json.dumps({"text": f"document {n} " * rng.randint(1, 40)}).encode() for n in range(DOCUMENTS)]
    lines += [line for line in LINES.values() for _ in range(OF_EACH)]
    rng.shuffle(lines)
    for part in range(4):
        data = b"\n".join(lines[part::4])
        if part % 2:
            (folder / f"{part}.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / f"{part}.jsonl").write_bytes(data)
    whole = gzip.compress(b"".join(CUT_LINE % rng.randbytes(500).hex().encode() for _ in range(4000)), mtime=0)
    (folder / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 5_000_000, mtime=0))
    return folder


EXPECTED = dict.fromkeys(LINES, OF_EACH) | {"unreadable": 1, "decompression-bomb": 1}


def run_job(corpus: Path, out: Path, options: RunnerOptions, limit: float = 0.1) -> Manifest:
    return preprocess(
        PreprocessOptions(
            corpus=str(corpus),
            out=str(out),
            proxy=ProxyOptions(proxy="picky"),
            read=ReadOptions(max_record_bytes=4000),
            unit_bytes=60_000,
            runner=options,
            quiet=True,
            max_reject_fraction=limit,
        )
    )


def contents(out: Path, manifest: Manifest) -> tuple[Any, ...]:
    """What must be alike on all runners."""
    rejects = [pq.read_table(out / entry.name).to_pylist() for entry in manifest.rejects]
    return (manifest.totals, manifest.rejected, [shard.sha256 for shard in manifest.shards], rejects)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package))
        patch.setattr("pipelines.runners.beam.run", lambda work, units, *_: [work(unit) for unit in units])
        return contents(out, run_job(corpus, out, RunnerOptions()))


def test_documents_read_are_rows_and_rejects_exactly(undisturbed: tuple[Any, ...]) -> None:
    totals, rejected, shards, rejects = undisturbed
    assert len(shards) > 2
    assert rejected == EXPECTED
    assert totals.rejects == sum(EXPECTED.values())
    (cut,) = [row for rows in rejects for row in rows if row["source"] == "cut.jsonl.gz"]
    before_the_cut, rest = divmod(cut["record"], len(CUT_LINE % (b"." * 1000)))
    assert (rest, 0 < before_the_cut < 2000) == (0, True)
    assert totals.rows == DOCUMENTS + before_the_cut
    assert totals.documents == totals.rows + totals.rejects
    assert Counter(row["reason"] for rows in rejects for row in rows) == EXPECTED


def test_a_failed_batch_is_bisected_to_its_documents(undisturbed: tuple[Any, ...]) -> None:
    rows = [row for rows in undisturbed[3] for row in rows]
    raised = [row for row in rows if row["stage"] == "encode"]
    assert [row["excerpt"] for row in raised] == [b"RAISE, please"] * OF_EACH
    assert {row["detail"] for row in raised} == {"RuntimeError: will not encode this"}
    assert [row["excerpt"] for row in rows if row["stage"] == "decode"] == [b"SPOIL, please"] * OF_EACH


def test_excerpts_are_bounded_and_records_point_into_the_input(corpus: Path, undisturbed: tuple[Any, ...]) -> None:
    for row in (row for rows in undisturbed[3] for row in rows):
        assert len(row["excerpt"]) <= EXCERPT_BYTES
        assert "\n" not in row["detail"]
        assert len(row["detail"]) < 1000
        if row["reason"] in LINES:
            path = corpus / row["source"]
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert data[row["record"] :].startswith(LINES[row["reason"]])


def test_more_than_the_threshold_stops_the_job_with_the_reasons(
    corpus: Path, tmp_path: Path, in_this_process: None
) -> None:
    readable = tmp_path / "readable"  # an input that cannot be read is told first, see below
    shutil.copytree(corpus, readable, ignore=shutil.ignore_patterns("cut.*", "bomb.*"))
    with pytest.raises(UserError) as error:
        run_job(readable, tmp_path / "out", RunnerOptions(), limit=0.005)
    message = str(error.value)
    assert f"{OF_EACH * len(LINES)} of " in message
    assert "0.005" in message
    assert sum(f"{reason} {count}" in message for reason, count in EXPECTED.items()) >= 5
    assert "\n" not in message
    assert not (tmp_path / "out" / "manifest.json").exists()
    run_job(readable, tmp_path / "out", RunnerOptions(), limit=0.02)
    with pytest.raises(UserError, match=r"MB of input could not be read .* --max-reject-fraction 0\.02 allows: "):
        run_job(corpus, tmp_path / "other", RunnerOptions(), limit=0.02)
    run_job(corpus, tmp_path / "other", RunnerOptions(), limit=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNERS)
def test_every_runner_rejects_the_same_and_writes_the_same(
    corpus: Path, package: Path, undisturbed: tuple[Any, ...], tmp_path: Path, name: str
) -> None:
    with runner(name, tmp_path / "servers", package) as options:
        manifest = run_job(corpus, tmp_path / "out", options)
        with pytest.raises(UserError, match=r"of [\d,]+ documents were rejected"):
            run_job(corpus, tmp_path / "out", options, limit=0.001)
    assert contents(tmp_path / "out", manifest) == undisturbed
