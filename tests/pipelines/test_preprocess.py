"""The whole job: the same bytes whatever the workers and interruptions, nothing lost, bad input in one line."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.records import ReadOptions
from pipelines.runners.running import RunnerOptions
from schemas.errors import UserError
from schemas.manifest import Manifest, Receipt

TOKENIZER = str(Path(__file__).parent.parent / "data" / "tokenizer.json")


def write_corpus(folder: Path, documents: int = 60, seed: int = 0) -> Path:
    """A folder of Python-like text, JSONL and Parquet with awkward documents among them."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"name_{n} = value[{n}]\n" for n in range(50)] + ["def f(self):\n", "    return None\n", "\n"]
    for n in range(documents):
        (folder / f"text{n:03d}.py").write_text("".join(rng.choices(words, k=rng.randint(0, 400))))
    lines = [{"text": "".join(rng.choices(words, k=100)), "lang": "py"} for _ in range(documents)]
    lines += [{"text": ""}, {"text": "é中\u0000"}]
    with gzip.open(folder / "some.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, lines)))
    (folder / "bytes.bin").write_bytes(bytes(range(256)) * 20)
    return folder


def run_job(corpus: Path, out: Path, **options: Any) -> Manifest:
    runner = RunnerOptions(workers=options.pop("workers", 1))
    options = {"unit_bytes": 100_000, "runner": runner, "quiet": True, **options}
    return preprocess(PreprocessOptions(corpus=str(corpus), out=str(out), **options))


def digests(out: Path, *, receipts: bool = False) -> dict[str, str]:
    """SHA-256 of every file that must be the same; receipts hold wall times, so their contents are compared apart."""
    names = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "lock")
    found = {}
    for path in names:
        name = str(path.relative_to(out))
        if name.startswith("receipts/"):
            receipt = Receipt.from_bytes(path.read_bytes(), name)
            found[name] = repr((receipt.shard, receipt.rejects, receipt.row_groups, receipt.inputs))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "out"
    run_job(corpus, out)
    return out


def test_rows_and_rejects_are_all_documents_and_raw_is_the_input(corpus: Path, reference: Path) -> None:
    manifest = Manifest.from_bytes((reference / "manifest.json").read_bytes(), "manifest")
    totals = manifest.totals
    assert totals.documents == totals.rows + totals.rejects == 60 + 62 + 1
    raws = {}
    for shard in manifest.shards:
        table = pq.read_table(reference / shard.name)
        for source, raw in zip(table["source"].to_pylist(), table["raw"].to_pylist(), strict=True):
            raws.setdefault(source, []).append(raw)
    for path in corpus.glob("*.py"):
        assert raws[path.name] == [path.read_bytes()]
    assert raws["bytes.bin"] == [bytes(range(256)) * 20]
    with gzip.open(corpus / "some.jsonl.gz", "rt") as file:
        assert sorted(raws["some.jsonl.gz"]) == sorted(json.loads(line)["text"].encode() for line in file)


def test_only_shards_lie_at_the_top(reference: Path) -> None:
    names = {path.name for path in reference.iterdir()}
    assert {name for name in names if not name.endswith(".parquet")} == {
        "manifest.json", "meta", "receipts", "rejects",
    }  # fmt: skip


def test_two_workers_write_the_same_bytes(corpus: Path, reference: Path, tmp_path: Path) -> None:
    run_job(corpus, tmp_path / "out", workers=2)
    assert digests(tmp_path / "out") == digests(reference)


def test_a_finished_dataset_is_left_as_it_is(corpus: Path, reference: Path, tmp_path: Path) -> None:
    run_job(corpus, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    run_job(corpus, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")} == before


@pytest.mark.parametrize(
    "damage", ["shard", "rejects", "receipt", "shard gone", "receipt gone", "proxy", "manifest", "description"]
)
def test_a_damaged_or_missing_file_is_made_again(corpus: Path, reference: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    run_job(corpus, out)
    path = {
        "shard": next(out.glob("part-00001*")),
        "shard gone": next(out.glob("part-00001*")),
        "rejects": next(out.glob("rejects/part-00001*")),
        "receipt": next(out.glob("receipts/part-00001*")),
        "receipt gone": next(out.glob("receipts/part-00001*")),
        "proxy": out / "meta/proxy/codebook-16.npz",
        "manifest": out / "manifest.json",
        "description": out / "meta/dataset.json",
    }[damage]
    if damage.endswith("gone"):
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    run_job(corpus, out)
    assert digests(out) == digests(reference)


def test_a_changed_input_redoes_its_unit_only(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    run_job(corpus, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    changed = corpus / "text003.py"
    changed.write_text(changed.read_text().replace("name", "nome"))
    os.utime(changed, ns=(1, 1))
    run_job(corpus, out)
    touched = [name for name, time_ in before.items() if (out / name).stat().st_mtime_ns != time_]
    assert len(touched) == 1
    assert changed.read_bytes() in pq.read_table(out / touched[0])["raw"].to_pylist()


@pytest.mark.parametrize(
    ("proxy", "options"),
    [
        ("identity", {}),
        ("gzip", {}),
        ("bpe", {"tokenizer": TOKENIZER}),
        ("neural", {"coder": "range"}),
        ("neural", {"bits": 12, "compressor": "pretrained"}),
    ],
)
def test_every_proxy_makes_a_dataset(corpus: Path, tmp_path: Path, proxy: str, options: dict[str, object]) -> None:
    manifest = run_job(corpus, tmp_path / "out", proxy=ProxyOptions(proxy=proxy, **options))
    assert manifest.totals.rows == 123
    assert (manifest.totals.comp_symbols > 0) == (proxy != "identity")
    table = pq.read_table(tmp_path / "out" / manifest.shards[0].name)
    assert (table["comp"].null_count == len(table)) == (proxy == "identity")
    assert (table["spans"].null_count == len(table)) == (proxy in ("identity", "gzip"))


def test_rows_are_sorted_and_row_groups_bounded(corpus: Path, tmp_path: Path) -> None:
    manifest = run_job(corpus, tmp_path / "out", unit_bytes=10_000_000, row_group_bytes=20_000)
    assert len(manifest.shards) == 1
    file = pq.ParquetFile(tmp_path / "out" / manifest.shards[0].name)
    rows = file.read(["doc_id", "source", "record", "piece"]).to_pylist()
    keys = [(row["doc_id"], row["source"].encode(), row["record"], row["piece"]) for row in rows]
    assert keys == sorted(keys)
    for index in range(file.num_row_groups):
        sizes = file.read_row_group(index, ["raw_bytes"])["raw_bytes"].to_pylist()
        assert sum(sizes) <= 20_000 or len(sizes) == 1


def test_long_documents_are_cut_and_share_an_id(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    text = b"line of text\n" * 5000
    (corpus / "long.txt").write_bytes(text)
    manifest = run_job(corpus, tmp_path / "out", read=ReadOptions(max_document_bytes=10_000))
    rows = pq.read_table(tmp_path / "out" / manifest.shards[0].name).sort_by("piece").to_pylist()
    assert len({row["doc_id"] for row in rows}) == 1
    assert [row["piece"] for row in rows] == list(range(len(rows)))
    assert b"".join(row["raw"] for row in rows) == text
    assert rows[0]["doc_id"] == hashlib.blake2b(text, digest_size=16).hexdigest()
    assert manifest.totals.documents == len(rows)


def test_rejects_are_counted_kept_and_limited(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    lines = [json.dumps({"text": f"document {n}"}).encode() for n in range(96)]
    lines += [b'{"text": 3}', b'{"body": "x"}', b"{broken", b'{"text": "\xff"}']
    (corpus / "a.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"4 of 100 documents were rejected.*0\.01 allows: .*invalid-json 1"):
        run_job(corpus, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    manifest = run_job(corpus, tmp_path / "out", max_reject_fraction=0.05)
    assert manifest.rejected == {"invalid-json": 1, "invalid-utf8": 1, "missing-field": 1, "wrong-type": 1}
    assert (manifest.totals.rows, manifest.totals.rejects) == (96, 4)
    rejects = [row for entry in manifest.rejects for row in pq.read_table(tmp_path / "out" / entry.name).to_pylist()]
    assert {row["source"] for row in rejects} == {"a.jsonl"}
    assert b"{broken" in {row["excerpt"] for row in rejects}


def test_another_configuration_is_refused_with_the_difference_and_nothing_is_touched(
    corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bpe = ProxyOptions(proxy="bpe", vocab_size=300)
    run_job(corpus, out, proxy=bpe)
    before = digests(out)
    with pytest.raises(UserError, match=r"holds another dataset: proxy\.name bpe -> gzip.*--overwrite"):
        run_job(corpus, out, proxy=ProxyOptions(proxy="gzip"))
    with pytest.raises(UserError, match=r"proxy\.name bpe -> neural"):
        run_job(corpus, out)
    with pytest.raises(UserError, match=r"proxy\.request\.tokenizer None -> given"):
        run_job(corpus, out, proxy=ProxyOptions(proxy="bpe", tokenizer=TOKENIZER))
    with pytest.raises(UserError, match=r"options\.row_group_bytes \S+ -> 4096"):
        run_job(corpus, out, proxy=bpe, row_group_bytes=4096)
    with pytest.raises(UserError, match=r"the corpus has changed \(62 files, [\d,]+ bytes -> 5 files"):
        run_job(write_corpus(tmp_path / "other", 3), out, proxy=bpe)
    assert digests(out) == before


def test_overwrite_with_a_bad_option_deletes_nothing(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(corpus, out)
    before = digests(out)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizers JSON"):
        run_job(corpus, out, proxy=ProxyOptions(proxy="bpe", tokenizer=str(tmp_path / "bad.json")), overwrite=True)
    assert digests(out) == before


def test_overwrite_and_sweep_leave_a_folder_of_something_else_alone(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "theirs"
    names = [
        "manifest.json",
        "2024.parquet",
        "receipts/2024.json",
        "rejects/2024.parquet",
        "meta/proxy/a",
        "meta/tmp/b",
    ]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("theirs")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="OUT="):
            run_job(corpus, out, overwrite=overwrite)
        assert all((out / name).read_text() == "theirs" for name in names)


def test_a_dataset_being_redone_has_no_manifest(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", 4), tmp_path / "out"
    with (corpus / "a.jsonl").open("w") as file:
        file.write('{"text": "aa"}\n')
    run_job(corpus, out)
    (corpus / "a.jsonl").write_text('{"txet": "aa"}\n')  # the same size, and now a reject
    with pytest.raises(UserError, match="were rejected"):
        run_job(corpus, out)
    assert not (out / "manifest.json").exists()
    run_job(corpus, out, max_reject_fraction=1)
    assert (out / "manifest.json").exists()


def test_an_input_mended_after_it_was_unreadable_replaces_its_shard(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    pq.write_table(pa.table({"text": ["one", "two"]}), corpus / "a.parquet")
    whole = (corpus / "a.parquet").read_bytes()
    (corpus / "a.parquet").write_bytes(whole[:-6] + b"\xff" + whole[-5:])
    run_job(corpus, out, proxy=ProxyOptions(proxy="gzip"), max_reject_fraction=1)
    (corpus / "a.parquet").write_bytes(whole)
    manifest = run_job(corpus, out, proxy=ProxyOptions(proxy="gzip"))
    assert manifest.totals.rows == 2
    assert [path.name for path in out.glob("*.parquet")] == [manifest.shards[0].name]
    assert len(list(out.glob("receipts/*"))) == len(list(out.glob("rejects/*"))) == 1


def test_one_file_may_lie_beside_its_dataset(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n')
    for spec in ("one.jsonl", "*.jsonl"):
        manifest = run_job(tmp_path / spec, tmp_path / "data" / "out", proxy=ProxyOptions(proxy="gzip"))
        assert manifest.totals.rows == 1


def test_default_places_are_those_of_the_makefile() -> None:
    found = [
        PreprocessOptions(corpus=corpus, proxy=ProxyOptions(**options)).out_or_default()
        for corpus, options in [
            ("stdlib", {}),
            ("/a/b/", {"proxy": "bpe", "bits": 12}),
            ("x/foo.jsonl.zst", {"bits": 12, "coder": "range"}),
            ("/data/*.jsonl", {"proxy": "gzip"}),
        ]
    ]
    assert found == ["data/stdlib-neural", "data/b-bpe", "data/foo-neural-range-12b", "data/corpus-gzip"]


def test_overwrite_deletes_the_dataset_and_nothing_else(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(corpus, out)
    next(out.glob("receipts/part-00001*")).unlink()  # as a killed job leaves it
    (out / "notes.txt").write_text("mine")
    manifest = run_job(corpus, out, proxy=ProxyOptions(proxy="gzip"), overwrite=True)
    ours = {"manifest.json", *(shard.name for shard in manifest.shards)}
    assert {path.name for path in out.glob("*.*")} == {"notes.txt", *ours}
    mine = out / "part-00000-of-00009-01234567.parquet"
    mine.write_bytes(b"mine, though it looks like a shard")
    with pytest.raises(UserError, match="has files but no"):
        run_job(corpus, out, overwrite=True)
    assert mine.exists()


def test_folder_of_something_else_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(UserError, match="choose an empty folder"):
        run_job(corpus, tmp_path)


def test_out_inside_the_corpus_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 2)
    with pytest.raises(UserError, match="inside the corpus"):
        run_job(tmp_path / "corpus", tmp_path / "corpus" / "out")


def test_missing_corpus_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        run_job(tmp_path / "nowhere", tmp_path / "out")


def start(corpus: Path, out: Path, workers: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "preprocess", "--corpus", str(corpus), "--out", str(out)]
    command += ["--unit-bytes", "100000", "--workers", str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_receipts(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("receipts/*.json"))) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    corpus = write_corpus(tmp_path_factory.mktemp("larger"), documents=600, seed=1)
    out = tmp_path_factory.mktemp("larger-reference") / "out"
    run_job(corpus, out, workers=2)
    return corpus, out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_driver_leaves_no_orphans_and_the_same_command_completes(
    larger: tuple[Path, Path], tmp_path: Path, how: signal.Signals
) -> None:
    corpus, reference = larger
    out = tmp_path / "out"
    process = start(corpus, out)
    wait_for_receipts(out, 1, process)
    process.send_signal(how)
    errors = process.communicate(timeout=60)[1]
    if how is not signal.SIGKILL:
        assert process.returncode == 130
        assert "interrupted" in errors
        assert "Traceback" not in errors
        assert "Warning" not in errors
    deadline = time.monotonic() + 30
    while alive(process.pid):
        assert time.monotonic() < deadline, "worker processes outlived their driver"
        time.sleep(0.05)
    assert not (out / "manifest.json").exists() or process.returncode == 0
    run_job(corpus, out, workers=2)
    assert digests(out) == digests(reference)
    assert not list(out.glob("meta/tmp/*"))


def test_killed_worker_does_not_hang_or_change_the_job(larger: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, reference = larger
    out = tmp_path / "out"
    process = start(corpus, out)
    wait_for_receipts(out, 2, process)
    workers = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
    os.kill(int(workers.stdout.split()[0]), signal.SIGKILL)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    assert digests(out) == digests(reference)


def test_second_job_on_one_folder_is_refused_while_the_first_runs(larger: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, _ = larger
    out = tmp_path / "out"
    process = start(corpus, out, workers=1)
    wait_for_receipts(out, 1, process)
    try:
        with pytest.raises(UserError, match="another preprocess is writing there"):
            run_job(corpus, out)
    finally:
        process.kill()
        process.communicate()


def test_kept_columns_and_groups(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    lines = [{"text": "a", "lang": "py", "stars": 3}, {"text": "b", "lang": None, "stars": None}, {"text": "c"}]
    (corpus / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    read = ReadOptions(group_field="lang", keep_columns=("stars",))
    manifest = run_job(corpus, tmp_path / "out", read=read)
    rows = pq.read_table(tmp_path / "out" / manifest.shards[0].name).sort_by("record").to_pylist()
    assert [(row["group"], row["stars"]) for row in rows] == [("py", "3"), ("", None), ("", None)]
    with pytest.raises(UserError, match="'raw' is a shard column"):
        run_job(corpus, tmp_path / "other", read=ReadOptions(keep_columns=("raw",)))


def test_our_own_dataset_is_a_corpus(corpus: Path, reference: Path, tmp_path: Path) -> None:
    manifest = run_job(reference, tmp_path / "out", proxy=ProxyOptions(proxy="identity"))
    first = Manifest.from_bytes((reference / "manifest.json").read_bytes(), "manifest")
    assert (manifest.totals.rows, manifest.totals.raw_bytes) == (first.totals.rows, first.totals.raw_bytes)


@pytest.mark.usefixtures("in_this_process")
def test_row_groups_of_a_shard_with_many_grow(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer keeps something of each group until its end, and a compressed file may be a shard of any length."""
    monkeypatch.setattr("pipelines.rows.GROUPS_OF_A_SIZE", 3)
    monkeypatch.setattr("pipelines.rows.MAX_GROWN_BYTES", 8192)
    out = tmp_path / "out"
    manifest = run_job(corpus, out, row_group_bytes=1024)
    shard = max(manifest.shards, key=lambda entry: entry.row_groups)
    receipt = Receipt.from_bytes((out / f"receipts/{Path(shard.name).stem}.json").read_bytes(), "")
    assert len(receipt.row_groups) > 9
    for index, group in enumerate(receipt.row_groups):
        assert group.rows == 1 or group.raw_bytes <= min(1024 << index // 3, 8192)
    assert max(group.raw_bytes for group in receipt.row_groups if group.rows > 1) > 2048
    assert sum(group.rows for group in receipt.row_groups) == shard.rows
