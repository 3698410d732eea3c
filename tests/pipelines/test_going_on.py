"""The same command goes on, another is refused or, with --overwrite, deletes what was there, at whatever moment."""

import errno
import fcntl
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import dataset, shard, verify
from pipelines.commit import read_receipts
from pipelines.job import Job
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.base import Proxy
from pipelines.proxies.gzip import GzipProxy
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.filters import FilterOptions
from pipelines.reading.records import ReadOptions
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.remote import StoreError

TOKENIZER = str(Path(__file__).parent.parent / "data" / "tokenizer.json")
BPE = ProxyOptions(proxy="bpe", tokenizer=TOKENIZER)
IDENTITY = ProxyOptions(proxy="identity")


class KillError(Exception):
    """What no code of ours handles, as a kill; of a unit it is told as its failure."""


@pytest.fixture(autouse=True)
def here(in_this_process: None) -> None:
    pass


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for n in range(6):
        texts = [f"document {number % 10} of {n}\n" * 40 for number in range(12)]
        pq.write_table(pa.table({"text": texts, "g": ["group"] * 12}), folder / f"{n:02d}.parquet")
    return folder


def run(corpus: Path | str, out: Path, **options: Any) -> Manifest:
    fields = {"proxy": IDENTITY, "unit_bytes": 500, "quiet": True, **options}
    return preprocess(PreprocessOptions(corpus=str(corpus), out=str(out), **fields))


def files(out: Path) -> dict[str, int]:
    """Name -> inode: a file that was written anew has another one."""
    found = [path for path in out.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(out)): path.stat().st_ino for path in found}


def faults(out: Path) -> list[str]:
    return verify.verify(verify.VerifyOptions(data=str(out), workers=1))


def killed_at(
    monkeypatch: pytest.MonkeyPatch, method: str, matches: Callable[[str], bool], out: Path, **kw: Any
) -> None:
    """Run until a method of the folder is called for a name."""
    honest = getattr(Folder, method)

    def dies(self: Folder, name: str, *others: Any) -> Any:
        if matches(name):
            raise KillError("here")
        return honest(self, name, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, method, dies)
        with pytest.raises((KillError, UserError), match="here"):
            run(out=out, **kw)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"dedupe": True}, r"options\.dedupe"),
        ({"filters": FilterOptions(keep_min_bytes=3)}, r"options\.filters\.\w+"),
        ({"filters": FilterOptions(keep_max_bytes=10_000)}, r"options\.filters\.\w+"),
        ({"read": ReadOptions(group_field="g")}, r"options\.read\.group_field"),
    ],
)
def test_an_option_more_or_less_is_refused(
    corpus: Path, tmp_path: Path, options: dict[str, Any], difference: str
) -> None:
    for name, first, second in (("more", {}, options), ("less", options, {})):
        out = tmp_path / name
        run(corpus, out, **first)
        before = files(out)
        with pytest.raises(UserError, match=rf"holds another dataset: .*{difference} \S+ -> "):
            run(corpus, out, **second)
        assert files(out) == before
        run(corpus, out, **first)
        assert files(out).items() >= {key: value for key, value in before.items() if key.startswith("part-")}.items()


def test_only_a_weight_changed_is_said(corpus: Path, tmp_path: Path) -> None:
    mix = tmp_path / "mix.toml"
    text = "[corpora.a]\ncorpus = 'corpus'\nweight = {}\n[corpora.b]\ncorpus = 'corpus'\nweight = 1\n"
    mix.write_text(text.format(1))
    run(mix, tmp_path / "out")
    mix.write_text(text.format(2))
    with pytest.raises(UserError, match=r"12 files, [\d,]+ bytes as before, but other names, formats, weights or caps"):
        run(mix, tmp_path / "out")


def test_overwrite_of_the_same_goes_on_after_a_kill(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(corpus, out, proxy=BPE)
    killed_at(monkeypatch, "write", lambda name: "receipts/part-00002" in name, out, corpus=corpus, overwrite=True)
    before = {name: inode for name, inode in files(out).items() if "part-00000" in name or "part-00001" in name}
    assert len(before) == 6
    manifest = run(corpus, out, overwrite=True)
    assert files(out).items() >= before.items()
    assert manifest.dataset["proxy"]["name"] == "identity"
    assert faults(out) == []
    after = files(out)
    run(corpus, out, overwrite=True)
    assert {name: files(out)[name] for name in after if name.startswith(("part", "receipts"))} == {
        name: inode for name, inode in after.items() if name.startswith(("part", "receipts"))
    }


def test_overwrite_reads_its_tokenizer_from_the_dataset_that_it_deletes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(corpus, out, proxy=BPE)
    own = ProxyOptions(proxy="bpe", tokenizer=str(out / "meta/proxy/tokenizer.json"))
    other: dict[str, Any] = {"proxy": own, "row_group_bytes": 999, "overwrite": True}
    # killed once all is deleted, before anything of the new one is written: the tokenizer is still there
    killed_at(monkeypatch, "write", lambda name: name.startswith("meta/proxy"), out, corpus=corpus, **other)
    assert run(corpus, out, **other).dataset["options"]["row_group_bytes"] == 999
    assert (out / "meta/proxy/tokenizer.json").read_bytes() == Path(TOKENIZER).read_bytes()
    assert faults(out) == []


def test_overwrite_reads_its_compressor_from_the_dataset_that_it_deletes(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(corpus, out, proxy=ProxyOptions(compressor="pretrained"))
    own = ProxyOptions(compressor=str(out / "meta/proxy"))
    run(corpus, out, proxy=own, row_group_bytes=999, overwrite=True)
    assert faults(out) == []


def test_a_damaged_description_that_nothing_mends_is_overwritten(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(corpus, out)
    (out / "meta/dataset.json").write_bytes(b"{")
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match="make the dataset anew with ARGS=--overwrite"):
        run(corpus, out)
    run(corpus, out, overwrite=True)
    assert faults(out) == []


@pytest.mark.parametrize("lost", ["meta/dataset.json", "receipts/"])
def test_a_store_that_gives_no_answer_is_no_damaged_dataset(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    out = tmp_path / "out"
    run(corpus, out)
    before = files(out)
    honest = Folder.read

    def read(self: Folder, name: str) -> bytes:
        if name.startswith(lost):
            raise StoreError(f"{name}: no answer")
        return honest(self, name)

    monkeypatch.setattr(Folder, "read", read)
    with pytest.raises(StoreError, match="no answer"):
        dataset.remove_units(Folder(str(out)), set()) if lost == "receipts/" else dataset.remove(Folder(str(out)))
    if lost == "receipts/":
        assert set(files(out)) - set(before) == set()
        assert len(list(out.glob("part-*"))) == len(list(out.glob("receipts/*"))) == 6
        with pytest.raises(StoreError, match="no answer"):
            list(read_receipts(Folder(str(out)), [name for name in before if name.startswith(lost)], []))
    else:
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="no answer"):
                run(corpus, out, overwrite=overwrite)
        assert files(out) == before


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_deletion_leaves_no_manifest_and_ends_when_it_is_repeated(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    made = tmp_path / "made"
    run(corpus, made, proxy=BPE)
    if damaged:
        (made / "meta/dataset.json").write_bytes(b"{")
    honest = Folder.remove
    for calls in range(0, 40, 3):
        out = shutil.copytree(made, tmp_path / f"out{calls}")
        left = iter(range(calls))

        def dies(self: Folder, name: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KillError
            honest(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", dies)
            try:
                dataset.remove(Folder(str(out)))
            except KillError:
                assert calls == 0 or not (out / "manifest.json").exists()
        dataset.remove(Folder(str(out)))
        assert set(files(out)) == set()


def test_deletions_on_a_store_go_side_by_side(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run(corpus, out)
    fs = fsspec.filesystem("memory")
    fs.put(str(out), "/bucket/deleted", recursive=True)
    both = threading.Barrier(2)
    honest = Folder.remove

    def meets(self: Folder, name: str) -> None:
        if name.startswith("receipts/"):
            both.wait(30)  # breaks, were they one by one
        honest(self, name)

    monkeypatch.setattr(Folder, "remove", meets)
    assert len(list(out.glob("receipts/*"))) % 2 == 0
    try:
        dataset.remove(Folder("memory://bucket/deleted"))
        assert [name for name in fs.find("/bucket/deleted") if not name.endswith("lock")] == []
    finally:
        fs.rm("/bucket", recursive=True)


def test_a_mended_footer_changes_the_plan_that_is_described(tmp_path: Path) -> None:
    folder, out = tmp_path / "corpus", tmp_path / "out"
    folder.mkdir()
    table = pa.table({"text": [f"{n:07d}" * 60_000 for n in range(8)]})
    pq.write_table(table, folder / "a.parquet", row_group_size=2, compression="none", use_dictionary=False)
    (folder / "b.txt").write_text("text")
    whole = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(whole[:-6] + b"\xff" + whole[-5:])
    options: dict[str, Any] = {"unit_bytes": 500_000, "max_reject_fraction": 1}
    first = run(folder, out, **options)
    (folder / "a.parquet").write_bytes(whole)
    second = run(folder, out, **options)
    assert len(second.shards) > len(first.shards)
    assert second.dataset["plan"]["units"] == len(second.shards)
    assert faults(out) == []


def test_a_unit_that_is_redone_has_no_receipt_meanwhile(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a receipt of before would be taken for the work of a worker that failed."""
    out = tmp_path / "out"
    run(corpus, out)
    (broken,) = out.glob("part-00001*")
    broken.write_bytes(broken.read_bytes()[:-1])
    receipts = {path.name for path in out.glob("receipts/*")}

    class Dies:
        def __init__(self, *_: object) -> None:
            raise KillError("here")

    monkeypatch.setattr(shard, "_Work", Dies)
    with pytest.raises(UserError, match="here"):
        run(corpus, out)
    assert {path.name for path in out.glob("receipts/*")} == receipts - {f"{broken.stem}.json"}
    assert not (out / "manifest.json").exists()


def test_a_worker_with_another_proxy_is_refused(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    honest = Job.proxy.fget
    assert honest is not None

    class Other(GzipProxy):
        def __init__(self) -> None:
            super().__init__()
            self.fingerprint = "0" * 64

    def on_worker(self: Job) -> Proxy:
        return Other()

    def work(work: Callable[[Any], object], units: list[Any], *_: object) -> None:
        monkeypatch.setattr(Job, "proxy", property(on_worker))
        work(units[0])

    monkeypatch.setattr("pipelines.runners.beam.run", work)
    with pytest.raises(UserError, match="PROXY=gzip: a worker has another one than the job was planned with"):
        run(corpus, out, proxy=ProxyOptions(proxy="gzip"))
    assert not list(out.glob("*.parquet"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_used(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuses(file: object, operation: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuses)
    run(corpus, tmp_path / "out", quiet=False)
    assert "no lock on this file system (no locks here); run one preprocess at a time there" in capsys.readouterr().err
    assert faults(tmp_path / "out") == []


def test_names_of_files_do_not_reach_the_terminal_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "bell\x1b[2J\x9b.txt").write_text("text")
    run(tmp_path / "corpus", tmp_path / "out", quiet=False)
    shown = capsys.readouterr().err
    assert "largest input bell\\x1b[2J\\x9b.txt" in shown
    assert not {"\x1b", "\x9b"} & set(shown)
