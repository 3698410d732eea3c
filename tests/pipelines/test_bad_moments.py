"""Faults that pass and leave no trace in size or time, and faults that come from where nobody looks for them."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from job_runners import units
from selecting import job_of, run_each

from compressor_model import range_coder
from compressor_model.artefact import PRETRAINED
from pipelines import dataset, drop_list, proxies
from pipelines.commit import read_receipts
from pipelines.dedupe import drop_duplicates
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.bpe import BpeProxy
from pipelines.reading.corpus import list_corpus
from pipelines.reading.plan import Unit, plan_units
from pipelines.runners.local_pool import LocalPool
from pipelines.shard import Outcome, encode_shard
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.shard import shard_schema


def text_files(folder: Path, count: int = 20) -> list[Path]:
    """Files of 200 to 219 bytes, the sixth and the sixteenth the same."""
    folder.mkdir()
    paths = [folder / f"f{index:02d}.txt" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_text("the same".ljust(200) if index in (5, 15) else f"number {index} ".ljust(200 + index, "x"))
    return paths


def away(path: Path) -> Callable[[], None]:
    """Take a file away; what is given puts it back as it was, time and all."""
    data, status = path.read_bytes(), path.stat()
    path.unlink()

    def back() -> None:
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return back


def test_an_input_that_could_not_be_read_is_read_again_in_the_next_run(tmp_path: Path) -> None:
    paths = text_files(tmp_path / "corpus")
    job, (unit,) = job_of(tmp_path / "out"), plan_units(list_corpus(str(tmp_path / "corpus")))
    back = away(paths[3])
    name = encode_shard(job, unit).receipt
    assert next(read_receipts(job.out, [name])).rejected == {"unreadable": 1}
    back()
    assert not encode_shard(job, unit).reused
    (receipt,) = read_receipts(job.out, [name])
    assert (receipt.rejected, receipt.lost_bytes, receipt.shard.rows) == ({}, 0, 20)
    assert encode_shard(job, unit).reused


@pytest.mark.parametrize("gone_in", ["first", "second"])
def test_passes_that_see_other_documents_drop_none(tmp_path: Path, gone_in: str) -> None:
    """Else each document behind the one that was away would be taken for its neighbour."""
    paths = text_files(tmp_path / "corpus")
    job = job_of(tmp_path / "out", dedupe=True)
    (unit,) = plan_units(list_corpus(str(tmp_path / "corpus")))
    back = away(paths[0]) if gone_in == "first" else lambda: None
    (listed,) = drop_duplicates(job, [unit], run_each)
    back()
    if gone_in == "second":
        back = away(paths[0])
    with pytest.raises(UserError, match=r"^unit 0: its documents are not those that --dedupe saw before"):
        encode_shard(job, listed)
    back()
    assert not job.out.exists(drop_list.ids_receipt(job.names(unit)))
    (listed,) = drop_duplicates(job, [unit], run_each)
    (receipt,) = read_receipts(job.out, [encode_shard(job, listed).receipt])
    assert (receipt.shard.rows, receipt.duplicates, receipt.rejected) == (19, 1, {})


def test_ids_of_a_pass_that_could_not_read_an_input_are_not_used_again(tmp_path: Path) -> None:
    paths = text_files(tmp_path / "corpus")
    job = job_of(tmp_path / "out", dedupe=True)
    (unit,) = plan_units(list_corpus(str(tmp_path / "corpus")))
    back = away(paths[0])
    drop_duplicates(job, [unit], run_each)
    back()
    (listed,) = drop_duplicates(job, [unit], run_each)
    assert encode_shard(job, listed).documents == 20


def test_rejects_that_a_kill_left_alone_are_deleted(tmp_path: Path) -> None:
    out = Folder(str(tmp_path))
    stray = "rejects/part-00000-of-00001-0123abcd.parquet"
    for name in (stray, "rejects/mine.parquet"):
        out.write(name, b"")
    dataset.remove_units(out, keep={"receipts/part-00000-of-00001-0123abcd.json"})
    assert out.exists(stray)
    dataset.remove_units(out, keep=set())
    assert list(out.sizes("rejects")) == ["rejects/mine.parquet"]


class Panic(BaseException):
    """As a library in Rust raises it."""


def test_a_tokenizers_panic_is_one_documents_error() -> None:
    class Panics:
        def encode_batch_fast(self, texts: list[str], **_: object) -> None:
            raise Panic("retry-limit-in-match\nover")

    proxy = object.__new__(BpeProxy)
    proxy._tokenizer = Panics()
    with pytest.raises(ValueError, match=r"^the tokenizer gave up: retry-limit-in-match over$"):
        proxy._tokens(["text"])


def test_threads_that_share_a_small_cache_get_the_same_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_coder, "CACHE_ENTRIES", 50)
    proxy = proxies.load(f"neural:{PRETRAINED}?coder=range&bits=16")
    raws = [f"def name_{n}(value):\n    return {n} + value\n".encode() for n in range(300)]
    expected = [proxy.encode(raw).ids.tolist() for raw in raws]  # type: ignore[union-attr]
    found: list[list[list[int]]] = [[] for _ in range(4)]

    def work(place: int) -> None:
        found[place] = [proxy.encode(raw).ids.tolist() for raw in raws]  # type: ignore[union-attr]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one == expected for one in found)


class ServiceError(Exception):
    """As those of many clients: what it is made of is not what it holds."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def fails(calls: str, unit: Unit) -> Outcome:
    with Path(calls).open("a") as file:
        file.write("called\n")
    raise ServiceError(7, "not today")


def test_an_error_that_cannot_travel_is_told_and_is_no_death(tmp_path: Path) -> None:
    pool = LocalPool(1)
    try:
        pool.submit(partial(fails, str(tmp_path / "calls")), units(1)[0]).result()
    finally:
        pool.close()
    assert str(pool.failure) == "ServiceError: 7: not today"
    assert (tmp_path / "calls").read_text() == "called\n"


def test_an_input_of_the_same_size_that_was_written_since_is_a_reject(tmp_path: Path) -> None:
    paths = text_files(tmp_path / "corpus")
    job, (unit,) = job_of(tmp_path / "out"), plan_units(list_corpus(str(tmp_path / "corpus")))
    paths[3].write_bytes(b"x" * paths[3].stat().st_size)
    os.utime(paths[3], ns=(1, 1))
    (receipt,) = read_receipts(job.out, [encode_shard(job, unit).receipt])
    assert receipt.rejected == {"unreadable": 1}


def test_a_parquet_file_with_encrypted_columns_is_a_reject_and_ends_no_process(tmp_path: Path) -> None:
    """In a process of its own: Arrow would abort it."""
    script = f"""
import base64, pyarrow as pa, pyarrow.parquet as pq, pyarrow.parquet.encryption as pe
from pathlib import Path
class Kms(pe.KmsClient):
    def __init__(self, config): pe.KmsClient.__init__(self)
    def wrap_key(self, key, name): return base64.b64encode(key)
    def unwrap_key(self, key, name): return base64.b64decode(key)
factory = pe.CryptoFactory(Kms)
config = pe.EncryptionConfiguration(footer_key="f", column_keys={{"k": ["text"]}}, plaintext_footer=True)
properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
Path({str(tmp_path)!r}, "c").mkdir()
table = pa.table({{"text": ["secret"], "n": [1]}})
with pq.ParquetWriter({str(tmp_path / "c" / "a.parquet")!r}, table.schema, encryption_properties=properties) as writer:
    writer.write_table(table)
from pipelines import cli
raise SystemExit(cli.run(["preprocess", "--corpus", {str(tmp_path / "c")!r}, "--out", {str(tmp_path / "o")!r},
    "--proxy", "identity", "--max-reject-fraction", "1", "--workers", "1", "--keep-columns", "n"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "rejects: 1, unreadable 1" in done.stderr


def test_a_lock_that_is_a_link_is_refused_and_what_it_names_stays(tmp_path: Path) -> None:
    text_files(tmp_path / "corpus")
    precious = tmp_path / "precious"
    precious.write_text("data")
    (tmp_path / "out/meta").mkdir(parents=True)
    (tmp_path / "out/meta/lock").symlink_to(precious)
    with pytest.raises(UserError, match="cannot be written"):
        preprocess(PreprocessOptions(corpus=str(tmp_path / "corpus"), out=str(tmp_path / "out"), quiet=True))
    assert precious.read_text() == "data"


def test_kept_columns_do_not_take_the_names_by_which_rows_are_found(tmp_path: Path) -> None:
    for name in ("shard", "Group", "shard_row", "_path"):
        with pytest.raises(UserError, match=f"--keep-columns: '{name}' is a shard column"):
            shard_schema((name,), {})
    with pytest.raises(UserError, match="named twice"):
        shard_schema(("a", "A"), {})
