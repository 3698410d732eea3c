"""A store with bad minutes: jobs end with the bytes they would have anyway, and what is permanent is one line."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faulty
import fsspec
import pytest

from pipelines import proxies
from pipelines.dataset import open_dataset
from pipelines.manifest import rebuild_manifest
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.corpus import list_corpus
from pipelines.reading.inputs import InputError, open_input
from pipelines.reading.plan import Block, JsonlBlock, ParquetBlock, TextBlock
from pipelines.reading.readers import read_block
from pipelines.reading.records import ReadOptions
from pipelines.remote_file import RemoteFile
from pipelines.runners.running import RunnerOptions
from pipelines.storage import Folder
from pipelines.verify import VerifyOptions, verify
from schemas.errors import UserError
from schemas.remote import StoreError, filesystem, retries_made

SEALED = r"/receipts/|/meta/dataset\.json|/meta/proxy/|/part-"
"""Files of a dataset whose digest is known to who reads them."""

BELOW = "/corpus/.|/faulty"

MANY = {"error": 0.05, "lost": 0.05, "timeout": 0.05, "short": 0.2, "wrong": 0.3, "partial": 0.2, "silent": 0.2}
MORE = {**dict.fromkeys(MANY, 0.06), "wrong": 0.3, "partial": 0.15, "silent": 0.15, "slow": 0.1}


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.remote.time.sleep", lambda _: None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, no_pauses: None) -> None:
    """Deadlines that a test can wait for."""
    for module in ("remote_file", "storage", "proxies"):
        monkeypatch.setattr(f"pipelines.{module}.REQUEST_SECONDS", 1.0)
        monkeypatch.setattr(f"pipelines.{module}.DEADLINE_SECONDS", 2.0)


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[faulty.Faults]:
    """The faults of the parameter, installed."""
    faults = faulty.Faults(log=str(tmp_path / "log"), **request.param)
    with faulty.installed(tmp_path / "installed", faults):
        yield faults


def url(path: Path) -> str:
    return f"faulty://{path}"


def shards_of(out: Path) -> dict[str, str]:
    """SHA-256 of each shard and rejects file."""
    files = [*out.glob("part-*.parquet"), *out.glob("rejects/*.parquet")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def job(corpus: str, out: str, **options: Any) -> PreprocessOptions:
    settings: dict[str, Any] = {"unit_bytes": 30_000, "row_group_bytes": 4096, "max_reject_fraction": 0.5, **options}
    return PreprocessOptions(
        corpus=corpus,
        out=out,
        proxy=ProxyOptions(compressor="pretrained"),
        read=ReadOptions(max_document_bytes=5000),
        runner=RunnerOptions(workers=1),
        quiet=True,
        **settings,
    )


@pytest.mark.parametrize(
    "store", [{"rates": {**MANY, "lag": 0.2}, "wrong_where": SEALED, "where": BELOW}], indirect=True
)
@pytest.mark.usefixtures("no_pauses", "in_this_process")
def test_a_dataset_through_faults_is_the_one_without(store: faulty.Faults, small_corpus: Path, tmp_path: Path) -> None:
    plain = preprocess(job(str(small_corpus), str(tmp_path / "plain")))
    before = retries_made()
    through = preprocess(job(url(small_corpus), url(tmp_path / "faulty")))
    assert through.shards == plain.shards
    assert through.totals == plain.totals
    assert shards_of(tmp_path / "faulty") == shards_of(tmp_path / "plain")
    met = faulty.met(store)
    assert sum(count for kind, count in met.items() if kind in MANY) > 20
    assert retries_made() - before >= met["error"] + met["lost"] + met["timeout"] + met["partial"] + met["silent"]
    again = preprocess(job(url(small_corpus), url(tmp_path / "faulty")))
    assert again == through


@pytest.mark.usefixtures("no_pauses", "in_this_process")
def test_a_manifest_is_not_made_from_a_listing_that_lags(small_corpus: Path, tmp_path: Path) -> None:
    written = preprocess(job(str(small_corpus), str(tmp_path / "out")))
    lagging = faulty.Faults(rates={"lag": 1.0}, where="/receipts")
    with faulty.installed(tmp_path / "installed", lagging):
        with pytest.raises(UserError, match="run the same preprocess command again"):
            rebuild_manifest(url(tmp_path / "out"))
        assert open_dataset(url(tmp_path / "out")).manifest == written


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "store", [{"rates": MORE, "wrong_where": SEALED, "where": BELOW, "seed": seed} for seed in range(3)], indirect=True
)
def test_every_command_works_through_faults_in_workers_too(
    store: faulty.Faults, small_corpus: Path, tmp_path: Path
) -> None:
    plain = preprocess(job(str(small_corpus), str(tmp_path / "plain")))
    out, options = url(tmp_path / "faulty"), ["--compressor", "pretrained", "--max-reject-fraction", "0.5"]
    options += ["--unit-bytes", "30000", "--row-group-bytes", "4096", "--max-document-bytes", "5000", "--workers", "2"]
    run("preprocess", "--corpus", url(small_corpus), "--out", out, *options)
    assert shards_of(tmp_path / "faulty") == shards_of(tmp_path / "plain")
    retries = [json.loads(path.read_bytes())["retries"] for path in (tmp_path / "faulty/receipts").iterdir()]
    assert len(retries) == len(plain.shards)
    assert sum(retries) > 0
    (tmp_path / "faulty/manifest.json").unlink()
    run("manifest", "--data", out)
    run("verify", "--data", out)
    met = faulty.met(store)
    assert met.total() - met["-"] > 50, met


def run(*arguments: str) -> str:
    """A command in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "pipelines", *arguments], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("store", [{}], indirect=True)
@pytest.mark.usefixtures("store")
def test_workers_that_are_spawned_know_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    program = "import fsspec, sys; fs, path = fsspec.core.url_to_fs(sys.argv[1]); print(fs.cat_file(path))"
    command = [sys.executable, "-c", program, url(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "b'x'\n"


@pytest.mark.usefixtures("no_pauses")
def test_reads_go_on_where_they_were(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    (tmp_path / "data").write_bytes(data)
    faults = faulty.Faults(rates={"lost": 0.3, "short": 0.3}, log=str(tmp_path / "log"))
    with faulty.installed(tmp_path / "installed", faults):
        fs, path = filesystem(url(tmp_path / "data"))
        with RemoteFile(fs, path, len(data), "place", ahead=10_000) as file:
            read = [file.read(7001) for _ in range(len(data) // 7001)]
            assert b"".join(read) + file.read() == data
            assert file.read() == b""
            file.seek(-3, os.SEEK_END)
            assert file.read(100) == data[-3:]
    met = faulty.met(faults)
    assert met["lost"] > 5
    assert met["short"] > 5
    whole = [line for line in Path(faults.log).read_text().splitlines() if line.startswith("- cat")]
    assert len(whole) <= len(data) / 10_000 + 1, "what had come is not fetched again"


@pytest.mark.parametrize("store", [{"hang": "hangs"}], indirect=True)
@pytest.mark.usefixtures("quick", "store")
def test_a_call_that_hangs_is_given_up_in_one_line(tmp_path: Path) -> None:
    folder = Folder(url(tmp_path))
    before = retries_made()
    with pytest.raises(UserError, match=r"hangs: no answer within 2 s of trying \(TimeoutError"):
        folder.read("hangs")
    assert retries_made() > before


class ReadTimeoutError(OSError):
    """As requests': an OSError without a number, and no TimeoutError."""


@pytest.mark.parametrize(
    "error", [ConnectionResetError("lost"), ReadTimeoutError("lost"), OSError("Forbidden")], ids=repr
)
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".parquet"])
@pytest.mark.usefixtures("quick")
def test_a_lost_connection_is_not_turned_into_a_reject(
    monkeypatch: pytest.MonkeyPatch, suffix: str, error: OSError
) -> None:
    fsspec.filesystem("memory").pipe(f"/lost{suffix}/a{suffix}", b"x" * 100)
    file = list_corpus(f"memory://lost{suffix}").inputs[0]
    block: Block = TextBlock(files=(file,))
    if file.format == "jsonl":
        block = JsonlBlock(file=file, start=0, stop=file.size)
    elif file.format == "parquet":
        block = ParquetBlock(file=file, start=0, stop=1, first_row=0, rows=1, input_bytes=file.size)

    def fail(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", fail)
    with pytest.raises(UserError, match=r"no answer within 2 s|refused"):
        list(read_block(block, ReadOptions()))


@pytest.mark.parametrize("store", [{"vanished": r"text00\d\.py"}], indirect=True)
@pytest.mark.usefixtures("quick", "store", "in_this_process")
def test_vanished_inputs_are_rejects(small_corpus: Path, tmp_path: Path) -> None:
    manifest = preprocess(job(url(small_corpus), str(tmp_path / "out")))
    assert manifest.rejected["unreadable"] == 10
    assert manifest.totals.documents == manifest.totals.rows + manifest.totals.rejects


@pytest.mark.parametrize("store", [{}], indirect=True)
@pytest.mark.usefixtures("quick", "store")
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"longer than it was", "has 18 bytes, had 5"), (b"other", "changed since"), (b"", "has 0")],
)
def test_a_changed_object_is_not_read_as_the_listed_one(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "corpus/a.txt"
    path.parent.mkdir()
    path.write_bytes(b"first")
    file = list_corpus(url(tmp_path / "corpus")).inputs[0]
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=message):
        open_input(file)


@pytest.mark.parametrize("store", [{}], indirect=True)
@pytest.mark.usefixtures("quick", "store")
def test_an_object_that_shrinks_while_it_is_read_is_not_taken_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100_000))
    fs, inside = filesystem(url(path))
    file = RemoteFile(fs, inside, 100_000, "place")
    file.read(1000)
    path.write_bytes(bytes(50_000))
    with pytest.raises(EOFError, match="has 50,000 bytes, had 100,000 before"):
        file.read()


@pytest.mark.parametrize("store", [{"rates": {"error": 1.0}}], indirect=True)
@pytest.mark.usefixtures("quick", "store", "in_this_process")
def test_a_store_that_is_down_is_one_line_and_the_cure_goes_on(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = job(str(small_corpus), url(tmp_path / "out"))
    with pytest.raises(UserError, match=r"no answer within 2 s of trying \(OSError: .*503"):
        preprocess(options)
    monkeypatch.delenv("FAULTY")
    assert preprocess(options).totals.documents


@pytest.mark.parametrize(
    "store",
    [{"rates": {"error": 1.0}, "where": where} for where in (r"part-[^/]*$", "/rejects/", "/receipts/", "/proxy/")],
    indirect=True,
)
@pytest.mark.usefixtures("quick", "store")
def test_a_store_that_is_down_is_no_damage(make_dataset: Callable[..., Path]) -> None:
    with pytest.raises(StoreError, match=r"no answer within 2 s of trying \(OSError: .*503"):
        verify(VerifyOptions(data=url(make_dataset("bpe")), workers=1))


@pytest.mark.parametrize("store", [{}], indirect=True)
@pytest.mark.usefixtures("quick", "store")
def test_no_room_in_tmpdir_is_no_damage(make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipelines.storage.download", full)
    with pytest.raises(StoreError, match=r"\(TMPDIR\): no space left on the device"):
        verify(VerifyOptions(data=url(make_dataset("bpe")), workers=1, decode=False))


@pytest.mark.parametrize("store", [{"rates": {"error": 1.0}, "where": "tokenizer"}], indirect=True)
@pytest.mark.usefixtures("quick")
def test_a_proxy_on_a_store_that_is_down_is_asked_for_once(
    store: faulty.Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[str] = []
    copied = proxies.local_copy
    monkeypatch.setattr(proxies, "local_copy", lambda place: copies.append(place) or copied(place))
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match="no answer within 2 s"):
        proxies.load(f"bpe:{url(tmp_path)}/tokenizer.json")
    assert len(copies) == 1
    assert faulty.met(store)["error"] > 1


@pytest.mark.usefixtures("in_this_process")
def test_credentials_in_an_unexpected_error_reach_neither_message_nor_log(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefghijkl")

    def fail(*_: object) -> None:
        raise RuntimeError("GET https://host/a?X-Amz-Signature=mnopqrst&x=1 with abcdefghijkl")

    monkeypatch.setattr("pipelines.shard.selected", fail)
    with pytest.raises(UserError, match="a unit failed") as raised:
        preprocess(job(str(small_corpus), str(tmp_path / "out")))
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "error.log" in written
    for secret in ("abcdefghijkl", "mnopqrst"):
        assert secret not in str(raised.value)
        assert not [name for name, data in written.items() if secret.encode() in data]


@pytest.mark.parametrize("store", [{}], indirect=True)
@pytest.mark.usefixtures("store")
def test_a_file_that_is_damaged_for_good_is_read_as_it_is(tmp_path: Path) -> None:
    folder = Folder(url(tmp_path))
    folder.write("receipts/a.json", b"{damaged")
    folder.write("b", b"other")
    assert folder.read("receipts/a.json") == b"{damaged"
    assert not folder.matches("b", 5, hashlib.sha256(b"right").hexdigest())
    assert folder.matches("b", 5, hashlib.sha256(b"other").hexdigest())
    assert not folder.matches("b", 6, hashlib.sha256(b"other").hexdigest())
    assert not folder.matches("c", 6, "")
    with folder.fetched("b", hashlib.sha256(b"right").hexdigest()) as path:
        assert path.read_bytes() == b"other"
    assert not path.exists()


def test_a_killed_process_leaves_nothing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its temporary folder is swept by the next, but not while it lives; an orderly end leaves none."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    begin = (
        "from pipelines.temporary import process_folder as f; p = f(); (p / 'x').write_text(''); print(p, flush=True); "
    )
    with subprocess.Popen([sys.executable, "-c", begin + "input()"], stdin=-1, stdout=-1, text=True) as first:
        assert first.stdout is not None
        folder = Path(first.stdout.readline().strip())
        other = Path(subprocess.check_output([sys.executable, "-c", begin], text=True).strip())
        assert folder.is_dir()
        assert not other.exists()
        first.kill()
    subprocess.check_output([sys.executable, "-c", begin])
    assert not list(tmp_path.glob("proxy-compression-*"))


@pytest.mark.parametrize("store", [{}], indirect=True)
@pytest.mark.usefixtures("store")
def test_copies_of_a_remote_proxy_do_not_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.temporary import process_folder

    shutil.copy(Path(__file__).parent.parent / "data" / "tokenizer.json", tmp_path)
    before = set(process_folder().rglob("*"))
    for _ in range(3):
        proxies.load(f"bpe:{url(tmp_path)}/tokenizer.json")
    assert len([path for path in set(process_folder().rglob("*")) - before if path.is_file()]) == 1
    monkeypatch.setattr("pipelines.proxies.time.sleep", lambda _: None)
    with pytest.raises(UserError, match=re.escape(f"{url(tmp_path)}/none: no such file or folder")):
        proxies.load(f"bpe:{url(tmp_path)}/none")
