"""The pipeline on a real S3 API (moto on loopback): a local job's bytes, few requests; killed, resumed, trained on."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from s3_server import SECRET, TOKEN, S3Server, serving_s3

from pipelines import sql, verify
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.corpus import InputFormat
from pipelines.reading.records import ReadOptions
from pipelines.runners.running import RunnerOptions
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.remote import retries_made


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with serving_s3() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server, small_corpus: Path) -> str:
    """A new bucket with the corpus in it."""
    name = f"bucket-{uuid.uuid4().hex}"
    fs = fsspec.filesystem("s3")
    fs.mkdir(name)
    fs.put(str(small_corpus), f"{name}/corpus", recursive=True)
    server.reset()
    return name


def job(corpus: str, out: str) -> PreprocessOptions:
    return PreprocessOptions(
        corpus=corpus,
        out=out,
        proxy=ProxyOptions(compressor="pretrained"),
        read=ReadOptions(max_document_bytes=5000),
        unit_bytes=30_000,
        row_group_bytes=4096,
        max_reject_fraction=0.5,
        runner=RunnerOptions(workers=2),
        quiet=True,
    )


ARGUMENTS = ["--compressor", "pretrained", "--max-document-bytes", "5000", "--unit-bytes", "30000"]
ARGUMENTS += ["--row-group-bytes", "4096", "--max-reject-fraction", "0.5", "--workers", "2", "--quiet"]
"""The same options for a process of its own."""


def command_of(bucket: str, data: str, runner: str) -> list[str]:
    corpus = ["--corpus", f"s3://{bucket}/corpus"]
    return ["pipelines", "preprocess", *corpus, "--out", data, "--runner", runner, *ARGUMENTS]


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command], stdout=-1, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def ended(process: subprocess.Popen[str]) -> str:
    """Its output, once it has ended well."""
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def objects(place: str) -> dict[str, bytes]:
    """All files of a dataset on the store."""
    fs = fsspec.filesystem("s3")
    fs.invalidate_cache()
    found = fs.find(place)
    return {name.removeprefix(f"{place}/"): fs.cat_file(name) for name in found}


def shards_in(files: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 of each shard and rejects file."""
    return {
        name: hashlib.sha256(data).hexdigest()
        for name, data in files.items()
        if name.removeprefix("rejects/").startswith("part-")
    }


def receipts_in(files: dict[str, bytes]) -> dict[str, bytes]:
    """Receipts, which hold times: one that is the same was not written again."""
    return {name: data for name, data in files.items() if name.startswith("receipts/")}


@pytest.mark.usefixtures("in_this_process")
def test_a_dataset_from_and_to_s3_is_the_local_one_and_costs_few_requests(
    server: S3Server, bucket: str, small_corpus: Path, tmp_path: Path
) -> None:
    local = preprocess(job(str(small_corpus), str(tmp_path / "local")))
    remote = preprocess(job(f"s3://{bucket}/corpus", f"s3://{bucket}/data"))
    assert remote.shards == local.shards
    assert remote.rejects == local.rejects
    units = len(remote.shards)
    assert units >= 2
    requests = server.requests
    for kind in ("shard", "rejects", "receipt"):
        assert requests["PUT", kind] == units, "one PUT each"
        assert requests["HEAD", kind] <= 5 * units, requests
    assert requests["GET", "shard"] == 0, "what was written is not read again"
    written = objects(f"{bucket}/data")
    assert {name.partition("/")[0] for name in written} >= {"manifest.json", "meta", "receipts", "rejects"}
    assert not [name for name in written if "tmp" in name]
    assert not [name for name, data in written.items() if SECRET.encode() in data or TOKEN.encode() in data]

    assert verify.verify(verify.VerifyOptions(data=f"s3://{bucket}/data", workers=1)) == []
    connection = sql.connect(f"s3://{bucket}/data")
    assert connection.execute("select count(*) from documents").fetchone() == (remote.totals.rows,)


@pytest.mark.usefixtures("in_this_process")
def test_what_a_unit_more_costs_in_requests(server: S3Server, bucket: str) -> None:
    fs = fsspec.filesystem("s3")
    counts: list[tuple[int, dict[str, int]]] = []
    for count in (2, 6):
        for index in range(count):
            fs.pipe(f"{bucket}/lines-{count}/{index}.jsonl", b'{"text": "some words"}\n' * 1500)
        server.reset()
        manifest = preprocess(job(f"s3://{bucket}/lines-{count}", f"s3://{bucket}/data-{count}"))
        counts.append((len(manifest.shards), server.methods()))
    (few, before), (many, after) = counts
    assert many - few == 4
    more = {method: (after[method] - before[method]) / (many - few) for method in after}
    # As docs/storage.md says, one file a unit.
    assert more["PUT"] == 3, more
    assert more["HEAD"] <= 8, more
    assert more["GET"] <= 6, more
    assert more["LIST"] <= 2, more


@pytest.mark.usefixtures("in_this_process")
def test_a_throttled_store_is_asked_again(
    server: S3Server, bucket: str, small_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the client itself asks again, which gives up after five times."""
    monkeypatch.setattr("schemas.remote.time.sleep", lambda _: None)
    before = retries_made()
    server.reset(lambda number: 503 if number >= 20 and retries_made() == before else None)
    try:
        manifest = preprocess(job(f"s3://{bucket}/corpus", f"s3://{bucket}/data"))
    finally:
        server.reset()
    assert manifest.totals.rows
    assert retries_made() > before
    assert Folder(f"s3://{bucket}/data").matches("manifest.json", *_size_and_digest(manifest.to_bytes()))


def _size_and_digest(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


@pytest.mark.usefixtures("bucket", "in_this_process")
def test_a_bucket_that_is_not_there_is_one_line(small_corpus: Path) -> None:
    with pytest.raises(UserError, match=r"^s3://no-such-bucket/\S+: cannot be written .*is there such a bucket"):
        preprocess(job(str(small_corpus), "s3://no-such-bucket/data"))


def test_what_another_process_wrote_is_read_though_an_older_listing_is_remembered(
    server: S3Server, bucket: str
) -> None:
    folder = Folder(f"s3://{bucket}/data")
    folder.write("receipts/a.json", b"short")
    assert folder.sizes("receipts") == {"receipts/a.json": 5}
    put = (
        "import sys; from pipelines.storage import Folder; Folder(sys.argv[1]).write('receipts/a.json', b'much longer')"
    )
    subprocess.run([sys.executable, "-c", put, folder.url], check=True)
    assert folder.read("receipts/a.json") == b"much longer"


def test_missing_credentials_are_one_line_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        with pytest.raises(UserError, match=r"x: refused \(NoCredentialsError: .*check it and the credentials"):
            Folder(f"s3://{bucket}").read("x")
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize(("name", "format", "group"), [("lines.jsonl", "jsonl", "jsonl"), ("page.txt", "text", "txt")])
@pytest.mark.usefixtures("in_this_process")
def test_the_signature_of_a_signed_url_is_not_written(
    bucket: str, tmp_path: Path, name: str, format: InputFormat, group: str
) -> None:
    fsspec.filesystem("s3").pipe(f"{bucket}/{name}", b'{"text": "a"}\n{"text": 5}\n')
    signed = fsspec.filesystem("s3").sign(f"{bucket}/{name}", expiration=600)
    signature = signed.partition("Signature=")[2].partition("&")[0]
    assert len(signature) > 20
    preprocess(replace(job(signed, str(tmp_path / "out")), format=format))
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for secret in (signature, SECRET, TOKEN, "loopback-access-key"):
        assert not [name for name, data in files.items() if secret.encode() in data], secret
    rows = sql.connect(str(tmp_path / "out")).execute("select source from documents union select source from rejects")
    assert [row[0].startswith(name) and signature not in row[0] for row in rows.fetchall()] == [True]
    assert sql.connect(str(tmp_path / "out")).execute('select distinct "group" from documents').fetchall() == [(group,)]


def test_a_process_ends_at_once_though_a_call_hangs(server: S3Server, bucket: str) -> None:
    """A client whose requests are left behind must not keep the process: it would never end."""
    hanging = threading.Event()

    def hang(number: int) -> None:
        hanging.wait(60)

    server.reset(hang)
    program = (
        "import sys; from schemas.remote import within, filesystem\n"
        "fs, path = filesystem(sys.argv[1])\n"
        "try: within(1.0, lambda: fs.cat_file(path))\n"
        "except TimeoutError: print('left behind')"
    )
    try:
        command = [sys.executable, "-c", program, f"s3://{bucket}/corpus/copy.py"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40)
        assert (done.returncode, done.stdout) == (0, "left behind\n"), done.stderr
    finally:
        hanging.set()
        server.reset()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", ["direct", "dask"])
def test_killed_resumed_verified_queried_and_trained_on(
    server: S3Server, bucket: str, small_corpus: Path, tmp_path: Path, runner: str
) -> None:
    plain = preprocess(job(str(small_corpus), str(tmp_path / "plain")))
    place, data = f"{bucket}/data", f"s3://{bucket}/data"
    command = command_of(bucket, data, runner)
    killed = 0
    kept: dict[str, bytes] = {}
    for _ in range(3):  # each time when there is one receipt more
        written = server.requests["PUT", "receipt"]
        process = started(command)
        while process.poll() is None and server.requests["PUT", "receipt"] == written:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
        there = receipts_in(objects(place))
        assert there.items() >= kept.items(), "what was finished stays and is not made again"
        kept = there
    assert killed >= 1
    ended(started(command))
    files = objects(place)
    assert receipts_in(files).items() >= kept.items()
    assert not any("units-" in name for name in files), "nor what killed drivers left"
    assert shards_in(files) == shards_in(
        {
            str(path.relative_to(tmp_path / "plain")): path.read_bytes()
            for path in (tmp_path / "plain").rglob("*.parquet")
        }
    )
    assert json.loads(files["manifest.json"])["totals"]["rows"] == plain.totals.rows
    assert "whole" in ended(started(["pipelines", "verify", "--data", data]))
    assert str(plain.totals.rows) in ended(
        started(["pipelines", "sql", "--data", data, "--query", "select count(*) n from documents"])
    )
    fsspec.filesystem("s3").rm_file(f"{place}/manifest.json")
    ended(started(["pipelines", "manifest", "--data", data]))
    assert objects(place)["manifest.json"] == files["manifest.json"]
    server.reset()
    run = tmp_path / "run"
    train = ["trainer", "train", "--data", data, "--scale", "tiny", "--batch", "2", "--sequence", "512"]
    train += ["--steps", "30", "--checkpoint-every", "2", "--keep", "0", "--run", str(run)]
    process = started(train)
    while process.poll() is None and not (run / "checkpoints/step-0000000002/state.json").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    ended(started(train))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines if "loss" in line) == 29
    assert server.requests["GET", "shard"], "rows came from the store"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", ["direct", "dask"])
def test_two_jobs_in_one_folder_do_no_damage(bucket: str, small_corpus: Path, tmp_path: Path, runner: str) -> None:
    """Nothing locks a folder of a store: equal jobs write equal bytes, so whoever is last changes nothing.

    Who finishes the dataset on a cluster may take the other's file of units for a killed job's: that one ends then.
    """
    plain = preprocess(job(str(small_corpus), str(tmp_path / "plain")))
    data = f"s3://{bucket}/data"
    command = command_of(bucket, data, runner)
    processes = [started(command) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    well = [process.returncode == 0 for process in processes]
    assert any(well), outputs
    assert all(well) or ("units-" in outputs[well.index(False)] and runner == "dask"), outputs
    files = objects(f"{bucket}/data")
    assert {name: digest for name, digest in shards_in(files).items() if "/" not in name} == {
        shard.name: shard.sha256 for shard in plain.shards
    }
    assert verify.verify(verify.VerifyOptions(data=data, workers=1)) == []
