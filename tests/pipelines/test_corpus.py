"""What the corpus is: which files are listed, under which names, and what is said when there are none."""

import os
import pickle
import subprocess
import sys
import sysconfig
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipelines.reading.corpus import list_corpus
from pipelines.reading.inputs import InputError, InputFile, open_input, printable
from schemas.errors import UserError


def write(folder: Path, name: str, data: bytes = b"x") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def paths(spec: str | Path, **options: object) -> list[str]:
    return [file.path for file in list_corpus(str(spec), **options).inputs]  # type: ignore[arg-type]


@pytest.fixture
def memory() -> MemoryFileSystem:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    return fs


def test_stdlib_is_every_python_file_of_the_standard_library() -> None:
    root = sysconfig.get_path("stdlib")
    pruned = ["-name", "site-packages", "-o", "-name", "dist-packages", "-o", "-name", "__pycache__"]
    found = subprocess.run(
        ["find", ".", "(", *pruned, ")", "-prune", "-o", "-type", "f", "-name", "*.py", "-print0"],
        cwd=root, capture_output=True, check=True,
    ).stdout  # fmt: skip
    expected = sorted(name[2:] for name in found.split(b"\0") if name)
    corpus = list_corpus("stdlib")
    assert [file.path.encode("utf-8", "surrogateescape") for file in corpus.inputs] == expected
    assert corpus.inputs[0].root == root
    assert {(file.format, file.extension) for file in corpus.inputs} == {("text", "py")}


def test_site_packages_has_installed_sources_only() -> None:
    listed = paths("site-packages")
    assert "pytest/__init__.py" in listed
    assert all(path.endswith(".py") and "__pycache__" not in path for path in listed)


def test_a_folder_is_walked_but_hidden_cached_and_linked_folders_are_not(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    outside = write(tmp_path, "outside/secret.txt")
    for name in ["b.txt", "a/c.txt", "a/.hidden.txt", ".git/config", "a/__pycache__/m.pyc", "a.b/d", "empty.txt"]:
        write(root, name, b"" if name == "empty.txt" else b"x")
    (root / "folder_link").symlink_to(outside.parent)
    (root / "file_link.txt").symlink_to(outside)
    (root / "broken_link.txt").symlink_to(tmp_path / "nowhere")
    (root / "circle").symlink_to(root / "circle")
    os.mkfifo(root / "fifo")
    assert paths(root) == ["a.b/d", "a/c.txt", "b.txt", "empty.txt", "file_link.txt"]


def test_a_hidden_folder_that_is_named_is_listed(tmp_path: Path) -> None:
    write(tmp_path, ".data/a.txt")
    assert paths(tmp_path / ".data") == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "format", "compression", "extension"),
    [
        ("a.py", "text", "", "py"),
        ("A.PY.GZ", "text", "gzip", "py"),
        ("Makefile", "text", "", ""),
        ("notes.txt.xz", "text", "xz", "txt"),
        ("a.jsonl", "jsonl", "", "jsonl"),
        ("a.ndjson.zst", "jsonl", "zstd", "ndjson"),
        ("a.json", "text", "", "json"),
        ("a.parquet", "parquet", "", "parquet"),
        ("a.parquet.gz", "parquet", "gzip", "parquet"),
        ("a.tar.gz", "text", "gzip", "tar"),
    ],
)
def test_format_and_compression_go_by_name(
    tmp_path: Path, name: str, format: str, compression: str, extension: str
) -> None:
    write(tmp_path, name)
    (file,) = list_corpus(str(tmp_path)).inputs
    assert (file.format, file.compression, file.extension) == (format, compression, extension)


def test_a_given_format_holds_for_every_input(tmp_path: Path) -> None:
    write(tmp_path, "a.json.gz")
    write(tmp_path, "b.txt")
    inputs = list_corpus(str(tmp_path), format="jsonl").inputs
    assert [(file.format, file.compression) for file in inputs] == [("jsonl", "gzip"), ("jsonl", "")]
    with pytest.raises(UserError, match="--format: 'csv' is not one of"):
        list_corpus(str(tmp_path), format="csv")  # type: ignore[arg-type]


def test_include_keeps_what_matches_by_path_or_name(tmp_path: Path) -> None:
    for name in ["a.py", "src/b.py", "src/deep/README", "src/c.txt"]:
        write(tmp_path, name)
    assert paths(tmp_path, include=("*.py",)) == ["a.py", "src/b.py"]
    assert paths(tmp_path, include=("src/*",)) == ["src/b.py", "src/c.txt", "src/deep/README"]
    assert paths(tmp_path, include=("README", "a.*")) == ["a.py", "src/deep/README"]
    with pytest.raises(UserError, match=r"no files that match \*\.rs"):
        list_corpus(str(tmp_path), include=("*.rs",))


def test_globs_match_files_below_their_first_magic_folder(tmp_path: Path) -> None:
    for name in ["a.txt", "b.md", "x/c.txt", "x/y/d.txt", "x/.e.txt"]:
        write(tmp_path, name)
    assert paths(tmp_path / "*.txt") == ["a.txt"]
    assert paths(tmp_path / "*/*.txt") == ["x/c.txt"]
    assert paths(tmp_path / "**/*.txt") == ["a.txt", "x/c.txt", "x/y/d.txt"]
    corpus = list_corpus(str(tmp_path / "x/[cd].txt"))
    assert (corpus.inputs[0].root, [file.path for file in corpus.inputs]) == (str(tmp_path / "x"), ["c.txt"])
    with pytest.raises(UserError, match="must stand alone"):
        list_corpus(str(tmp_path / "a**"))
    with pytest.raises(UserError, match="no such folder"):
        list_corpus(str(tmp_path / "nowhere/*.txt"))


def test_a_name_with_magic_that_exists_is_taken_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "a[1].txt")
    write(tmp_path, "a1.txt")
    assert paths(tmp_path / "a[1].txt") == ["a[1].txt"]


def test_missing_and_empty_corpora_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        list_corpus(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no files in this corpus"):
        list_corpus(str(tmp_path))
    with pytest.raises(UserError, match="neither a regular file nor a folder"):
        list_corpus("/dev/null")
    with pytest.raises(UserError, match="no specification"):
        list_corpus("")


@pytest.mark.parametrize(
    "spec",
    ["~nosuchuser/text", "~nosuchuser", "~nosuchuser/*.txt", "~nosuchuser/mix.toml", "file://~nosuchuser/text"],
)
def test_a_home_folder_of_nobody_is_one_line(tmp_path: Path, spec: str) -> None:
    mixed = write(tmp_path, "mix.toml", f'[corpora.a]\ncorpus = "{spec.removesuffix("/mix.toml")}"\n'.encode())
    for place in (spec, str(mixed)):
        with pytest.raises(UserError, match=r"~nosuchuser.*: no home folder is known for its '~'; ") as caught:
            list_corpus(place)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["a\0b", "/a\0b/*.txt", "a\0/mix.toml", "memory://a\0b", "file:///a\0b"])
def test_a_nul_byte_in_a_path_is_one_line(tmp_path: Path, spec: str) -> None:
    named = spec.replace("\0", "\\u0000").replace("mix.toml", "x")
    mixed = write(tmp_path, "mix.toml", f'[corpora.a]\ncorpus = "{named}"\n'.encode())
    for place in (spec, str(mixed)):
        with pytest.raises(UserError, match=r"a\\x00.*: has a NUL byte") as caught:
            list_corpus(place)
        assert str(caught.value).isprintable()


def test_names_that_are_not_utf8_open_and_have_a_valid_source(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    write(tmp_path, name, b"drink")
    write(tmp_path, "café.txt", b"other")
    corpus = list_corpus(str(tmp_path))
    assert [file.source for file in corpus.inputs] == ["café.txt", "caf\\xe9.txt"]
    with open_input(corpus.inputs[1]) as stored:
        assert stored.read() == b"drink"
    assert len(corpus.listing_digest) == 64


def test_names_that_hang_on_the_locale_are_refused(tmp_path: Path) -> None:
    code = "import sys; from pipelines.reading.corpus import list_corpus; list_corpus(sys.argv[1])"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def last_line(**more: str) -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        ended = subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=False)
        return ended.stderr.splitlines()[-1] if ended.returncode else ""

    write(tmp_path, "plain.txt")
    assert last_line() == ""
    write(tmp_path, "\u00e9.txt")
    assert "UserError" in last_line()
    assert last_line().endswith(
        "would have another name under another locale than this one (ascii); run with PYTHONUTF8=1"
    )
    assert last_line(PYTHONUTF8="1") == ""


def test_printable_changes_only_what_is_not_utf8() -> None:
    assert printable("a\\xe9é") == "a\\xe9é"
    assert printable("é\udce9\\") == "é\\xe9\\"
    assert printable("\ud83d") == "\\xed\\xa0\\xbd"


def test_the_digest_sees_names_sizes_and_formats_only(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    write(first, "a/b.txt", b"123")
    path = write(second, "a/b.txt", b"456")
    os.utime(path, (1, 1))
    one, two = list_corpus(str(first)), list_corpus(str(second))
    assert one.listing_digest == two.listing_digest
    assert one.inputs[0].version != two.inputs[0].version
    assert two.inputs[0].version == "1000000000"
    assert list_corpus(str(first), format="jsonl").listing_digest != one.listing_digest
    path.write_bytes(b"7890")
    assert list_corpus(str(second)).listing_digest != one.listing_digest


def test_remote_folders_files_and_globs_list_like_local_ones(tmp_path: Path, memory: MemoryFileSystem) -> None:
    for name in ["c/b.txt", "c/a/x.jsonl.gz", "c/.hidden/y", "c/__pycache__/z"]:
        memory.pipe(f"/{name}", b"data")
        write(tmp_path, name, b"data")
    remote, local = list_corpus("memory://c"), list_corpus(str(tmp_path / "c"))
    assert [file.path for file in remote.inputs] == ["a/x.jsonl.gz", "b.txt"]
    assert remote.listing_digest == local.listing_digest
    assert remote.listed_bytes == 8
    with open_input(remote.inputs[1]) as stored:
        assert stored.read() == b"data"
    for spec, root in [("memory://c/b.txt", "memory://c"), ("memory://c/*.txt", "memory://c")]:
        corpus = list_corpus(spec)
        assert (corpus.inputs[0].root, [file.path for file in corpus.inputs]) == (root, ["b.txt"])
    assert paths("memory://**/*.gz") == ["c/a/x.jsonl.gz"]
    with pytest.raises(UserError, match="no such file or folder"):
        list_corpus("memory://nowhere")


def test_a_file_in_the_root_of_a_store_is_found(memory: MemoryFileSystem) -> None:
    memory.pipe("/top.txt", b"data")
    corpus = list_corpus("memory://top.txt")
    assert (corpus.inputs[0].root, corpus.inputs[0].path) == ("memory://", "top.txt")
    with open_input(corpus.inputs[0]) as stored:
        assert stored.read() == b"data"


def test_file_urls_are_local(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    corpus = list_corpus(f"file://{tmp_path}")
    assert (corpus.inputs[0].root, corpus.inputs[0].path) == (str(tmp_path), "a.txt")


def test_a_protocol_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    with pytest.raises(UserError, match=r"pip install 'proxy-compression\[gcs\]'"):
        list_corpus("gs://bucket/data")


def test_unknown_and_chained_urls_are_user_errors() -> None:
    with pytest.raises(UserError, match="not a URL that fsspec can open"):
        list_corpus("nonsense://bucket/data")
    with pytest.raises(UserError, match="chained URLs"):
        list_corpus("zip://*.txt::file://a.zip")


def test_a_store_that_fails_is_one_line(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    with pytest.raises(UserError, match="cannot be listed \\(RuntimeError: no credentials\\)"):
        list_corpus("memory://c")


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", ""])
def test_paths_never_escape_the_root(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match="below the corpus root"):
        InputFile(root=str(tmp_path), path=path, size=0, format="text", compression="", version="")


def test_a_missing_input_is_the_inputs_fault(tmp_path: Path, memory: MemoryFileSystem) -> None:
    for root in [str(tmp_path), "memory://c"]:
        with pytest.raises(InputError, match="no such file") as caught:
            open_input(InputFile(root=root, path="gone.txt", size=0, format="text", compression="", version=""))
        assert caught.value.reason == "unreadable"


def test_a_corpus_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    corpus = list_corpus(str(tmp_path))
    assert pickle.loads(pickle.dumps(corpus)) == corpus
