"""Which documents are left out, and how they are counted: by size, and by functions that a package registers."""

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from packages import leave_package
from selecting import job_of, make

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.sampler import Sampler
from pipelines.reading import filters as filters_module
from pipelines.reading.corpus import list_corpus
from pipelines.reading.filters import FilterOptions, Filters
from pipelines.reading.records import ReadOptions
from pipelines.runners import local_pool
from pipelines.runners.running import RunnerOptions
from schemas.errors import UserError
from schemas.manifest import Receipt

MODULE = """
def no_tabs(document):
    return b"\\t" not in document.raw

def strict(document):
    if b"poison" in document.raw:
        raise ValueError("poison,\\nit says \\udcff")
    return True

def forgetful(document):
    pass

def disk(document):
    raise OSError(5, "disk")

def leaving(document):
    raise SystemExit(3)

class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")

def mute(document):
    raise Mute

class Panic(BaseException):  # as a panic of Rust comes
    pass

def panic(document):
    raise Panic("at the disco")

def lingering(document):
    import threading
    threading.Thread(target=threading.Event().wait).start()
    return True

nothing = 3
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install(module, version)`: a package with filters, as pip would leave it; installed again it is replaced."""

    def put(module: str = MODULE, version: str = "1.0", extra: str = "") -> None:
        package = tmp_path / "package"
        names = ("no_tabs", "strict", "forgetful", "disk", "leaving", "mute", "panic", "lingering", "nothing")
        lines = "".join(f"{name.replace('_', '-')} = some_filters:{name}\n" for name in names)
        leave_package(package, "some-filters", f"[proxy_compression.filters]\n{lines}{extra}", version=version)
        (package / "some_filters.py").write_text(module)
        sys.modules.pop("some_filters", None)
        filters_module._load.cache_clear()
        if str(package) not in sys.path:
            monkeypatch.syspath_prepend(str(package))

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield put  # type: ignore[misc]
    sys.modules.pop("some_filters", None)


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    texts = ["", "short", "a\ttab", "poison here", "fine " * 30, "x\n" * 4000, "long\ttab\n" * 900, "poison\n" * 1000]
    (folder / "some.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for index, text in enumerate(texts):
        (folder / f"{index}.txt").write_text(text)
    return folder


def totals(receipts: list[Receipt]) -> dict[str, int]:
    assert all(receipt.documents == receipt.accounted for receipt in receipts)
    filtered: dict[str, int] = {}
    for receipt in receipts:
        for name, count in receipt.filtered.items():
            filtered[name] = filtered.get(name, 0) + count
    rejected = sum(receipt.rejected.get("filter-error", 0) for receipt in receipts)
    return {
        **filtered,
        "rows": sum(receipt.shard.rows for receipt in receipts),
        "filter-error": rejected,
        "documents": sum(receipt.documents for receipt in receipts),
    }


def test_sizes_are_those_of_whole_documents_and_each_piece_is_counted(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    read = ReadOptions(max_document_bytes=1000)
    every = totals(make(corpus, tmp_path / "all", read=read))
    assert every == {"rows": every["documents"], "filter-error": 0, "documents": 2 * (5 + 8 + 9 + 8)}
    filters = FilterOptions(keep_min_bytes=6, keep_max_bytes=7999).resolve()
    assert totals(make(corpus, tmp_path / "some", read=read, filters=filters)) == {
        "keep-min-bytes": 2 * 3,
        "keep-max-bytes": 2 * (8 + 9),
        "rows": 2 * (1 + 1 + 8),
        "filter-error": 0,
        "documents": every["documents"],
    }


def test_a_registered_filter_answers_for_all_pieces_and_its_errors_are_rejects(
    tmp_path: Path, install: Install
) -> None:
    install()
    corpus = write_corpus(tmp_path / "corpus")
    filters = FilterOptions(filter=("no-tabs", "strict")).resolve()
    assert pickle.loads(pickle.dumps(filters)) == filters
    receipts = make(corpus, tmp_path / "out", read=ReadOptions(max_document_bytes=1000), filters=filters)
    assert totals(receipts) == {
        "no-tabs": 2 * (1 + 9),
        "filter-error": 2 * (1 + 8),
        "rows": 2 * (3 + 8),
        "documents": 2 * (5 + 8 + 9 + 8),
    }
    rejects = [
        row for receipt in receipts for row in pq.read_table(tmp_path / "out" / receipt.rejects.name).to_pylist()
    ]
    assert {(row["stage"], row["reason"], row["detail"]) for row in rejects} == {
        ("filter", "filter-error", "strict: ValueError: poison, it says \\xff")
    }
    pieces = sorted(row["piece"] for row in rejects if row["source"] == "7.txt")
    assert pieces == list(range(8))
    sampler = Sampler(list_corpus(str(corpus)), ReadOptions(), filters)
    assert not any(b"\t" in document.raw for document in sampler.documents())
    assert sampler.identity() != Sampler(list_corpus(str(corpus)), ReadOptions()).identity()


def test_no_answer_is_no_yes_and_a_disk_that_fails_is_no_reject(tmp_path: Path, install: Install) -> None:
    install()
    corpus = write_corpus(tmp_path / "corpus")
    counts = totals(make(corpus, tmp_path / "out", filters=FilterOptions(filter=("forgetful",)).resolve()))
    assert (counts["filter-error"], counts["rows"]) == (counts["documents"], 0)
    with pytest.raises(OSError, match="disk"):
        make(corpus, tmp_path / "other", filters=FilterOptions(filter=("disk",)).resolve())


@pytest.mark.parametrize(
    ("name", "detail"),
    [("leaving", "leaving: SystemExit: 3"), ("mute", "mute: Mute"), ("panic", "panic: Panic: at the disco")],
)
def test_a_filter_that_leaves_or_cannot_say_why_rejects_its_document(
    tmp_path: Path, install: Install, name: str, detail: str
) -> None:
    install()
    receipts = make(
        write_corpus(tmp_path / "corpus"), tmp_path / "out", filters=FilterOptions(filter=(name,)).resolve()
    )
    details = {
        row["detail"]
        for receipt in receipts
        for row in pq.read_table(tmp_path / "out" / receipt.rejects.name).to_pylist()
    }
    assert details == {detail}


def test_a_worker_that_a_filters_thread_keeps_from_ending_is_ended(
    tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setattr(local_pool, "END_SECONDS", 0.5)
    manifest = preprocess(
        PreprocessOptions(
            corpus=str(write_corpus(tmp_path / "corpus")),
            out=str(tmp_path / "out"),
            proxy=ProxyOptions(proxy="identity"),
            filters=FilterOptions(filter=("lingering",)),
            runner=RunnerOptions(workers=2),
            quiet=True,
        )
    )
    assert manifest.totals.rows == 16


def test_who_a_filter_is_enters_the_job_and_is_checked_by_workers(tmp_path: Path, install: Install) -> None:
    install()
    options = FilterOptions(filter=("no-tabs",))
    before = options.resolve()
    assert options.resolve() == before
    identities = {str(job_of(tmp_path, filters=before).identity())}
    install(version="1.1")
    identities.add(str(job_of(tmp_path, filters=options.resolve()).identity()))
    install(module=MODULE + "\n# another\n", version="1.1")
    after = options.resolve()
    identities.add(str(job_of(tmp_path, filters=after).identity()))
    identities.add(str(job_of(tmp_path, filters=FilterOptions(keep_min_bytes=3).resolve()).identity()))
    plain = job_of(tmp_path).identity()
    assert len(identities | {str(plain)}) == 5
    assert "filters" not in plain
    assert "dedupe" not in plain
    corpus = write_corpus(tmp_path / "corpus")
    with pytest.raises(UserError, match=r"--filter no-tabs: this worker has some-filters 1\.1, not the filter"):
        make(corpus, tmp_path / "out", filters=before)
    assert totals(make(corpus, tmp_path / "new", filters=after))["no-tabs"] == 4


def test_names_that_cannot_be_found_or_loaded_are_one_line(tmp_path: Path, install: Install) -> None:
    extra = "broken = no_such_module:x\nabsent = some_filters:absent\nduplicate = some_filters:no_tabs\n"
    install(extra=extra)
    with pytest.raises(UserError, match=r"--filter notabs: unknown; .*broken.*no-tabs"):
        FilterOptions(filter=("notabs",)).resolve()
    with pytest.raises(UserError, match="--filter broken: no_such_module:x cannot be imported"):
        FilterOptions(filter=("broken",)).resolve()
    with pytest.raises(UserError, match="--filter duplicate: no name for a filter"):
        FilterOptions(filter=("duplicate",)).resolve()
    corpus = write_corpus(tmp_path / "corpus")
    for name, message in (("absent", "cannot be imported"), ("nothing", "is no function")):
        with pytest.raises(UserError, match=message):
            make(corpus, tmp_path / name, filters=FilterOptions(filter=(name,)).resolve())


def test_a_package_that_leaves_when_it_is_imported_is_one_line(tmp_path: Path, install: Install) -> None:
    install(extra="leaver = leaving_package.inner:keep\n")
    (tmp_path / "package/leaving_package").mkdir()
    (tmp_path / "package/leaving_package/__init__.py").write_text("raise SystemExit(3)")
    with pytest.raises(UserError, match=r"--filter leaver: \S+ cannot be imported \(SystemExit: 3\)"):
        FilterOptions(filter=("leaver",)).resolve()


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="--keep-min-bytes"):
        FilterOptions(keep_min_bytes=-1)
    with pytest.raises(UserError, match="--keep-max-bytes: 4 is less"):
        FilterOptions(keep_min_bytes=5, keep_max_bytes=4)
    with pytest.raises(UserError, match="--filter: a name is given twice"):
        FilterOptions(filter=("a", "a"))
    assert FilterOptions().resolve() == Filters()


def test_worker_processes_have_the_filter_too(tmp_path: Path, install: Install) -> None:
    install()
    corpus = write_corpus(tmp_path / "corpus")
    manifest = preprocess(
        PreprocessOptions(
            corpus=str(corpus),
            out=str(tmp_path / "out"),
            proxy=ProxyOptions(proxy="identity"),
            filters=FilterOptions(filter=("no-tabs",), keep_min_bytes=1),
            dedupe=True,
            runner=RunnerOptions(workers=1),
            quiet=True,
        )
    )
    totals = manifest.totals
    assert (totals.documents, totals.filtered, totals.duplicates, totals.rows) == (16, 2 + 4, 5, 5)
