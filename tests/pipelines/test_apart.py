"""No dataset lies in its corpus, and none holds its inputs, however both are spelled; nothing is deleted to see it."""

import os
from pathlib import Path

import fsspec
import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.apart import refuse_inside
from pipelines.reading.corpus import list_corpus
from pipelines.storage import Folder
from schemas.errors import UserError


def check(corpus: str, out: str) -> None:
    refuse_inside(Folder(out), list_corpus(corpus))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("in/a.txt", "in/deep/b.txt", "data/part.parquet", "index/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("corpus", "out"),
    [
        *[("{}/data/part*.parquet", "{}/data"), ("{}/data/part.parquet", "{}/data"), ("{}/data", "{}/data")],
        *[("{}/in/deep/*", "{}/in"), ("{}/in/*.txt", "{}/in/../in"), ("{}/in/*.txt", "link")],
        *[("{}/in", "{}/in/out"), ("in", "in/out"), ("file://{}/in", "{}/in/out"), ("{}/in", "file://{}/in/out")],
        *[("~/in", "in/out"), ("~/data/*", "data"), ("{}/link", "{}/in/out"), ("{}/in", "{}/link/out")],
        *[("{}/**/*.txt", "{}/new"), ("file://{}/in/a.txt", "{}"), ("{}/*/?*t", "{}/new"), ("*/*a*", "new")],
    ],
)
def test_local_places_that_meet_are_refused(place: Path, corpus: str, out: str) -> None:
    spec = corpus.format(place)
    with pytest.raises(
        UserError, match=r"^OUT=\S+ (lies inside the corpus|holds \S+, which is an input|is in reach of)"
    ):
        check(spec, out.format(place))


@pytest.mark.parametrize(
    ("corpus", "out"),
    [
        ("in", "index"),
        ("in", "inside"),
        ("in/a.txt", "in/out"),
        ("in/*.txt", "in/out"),
        ("stdlib", "new"),
        ("*/*.txt", "new"),
    ],
)
def test_local_places_apart_are_taken(place: Path, corpus: str, out: str) -> None:
    check(corpus, out)


@pytest.mark.parametrize(
    ("include", "out", "reached"),
    [
        (("*.md",), "new", False),
        (("*.txt", "part-*"), "new", True),
        (("*.json",), "new", True),
        ((), "new", True),
        ((), ".new", False),
    ],
)
def test_a_glob_reaches_what_it_would_list(place: Path, include: tuple[str, ...], out: str, reached: bool) -> None:
    for name in ("a.md", "a.json"):
        (place / "in" / name).write_text("text")
    corpus = list_corpus("*/*", include=include)
    (place / "mix.toml").write_text(f'[corpora.a]\ncorpus = "*/*"\ninclude = {list(include)}\n')
    for listed in (corpus, list_corpus("mix.toml")):
        if reached:
            with pytest.raises(UserError, match="is in reach of"):
                refuse_inside(Folder(out), listed)
        else:
            refuse_inside(Folder(out), listed)


def test_an_input_that_is_a_link_into_the_dataset_is_refused(place: Path) -> None:
    (place / "index/linked.txt").symlink_to(place / "data/part.parquet")
    with pytest.raises(UserError, match=r"holds linked\.txt, which is an input"):
        check("index", "data")
    os.link(place / "data/part.parquet", place / "index/hard.txt")  # whose bytes stay
    (place / "index/linked.txt").unlink()
    check("index", "data")


def test_urls_are_compared_by_protocol_and_path() -> None:
    fs = fsspec.filesystem("memory")
    for name in ("/apart/in/a.txt", "/apart/in/x/b.txt"):
        fs.pipe_file(name, b"text")
    try:
        for corpus, out in [
            *[("memory://apart/in", "memory://apart/in"), ("memory://apart/in", "memory://apart/in/")],
            *[("memory://apart/in/", "memory:///apart/in"), ("memory://apart/in", "memory://apart/in/out")],
            *[("memory://apart/in/x/*.txt", "memory://apart/in"), ("memory://apart/in/a.txt", "memory://apart")],
            *[("memory://apart/**/*.txt", "memory://apart/out"), ("memory://apart/*/*", "memory://apart/out")],
        ]:
            with pytest.raises(UserError, match=r"^OUT=memory://"):
                check(corpus, out)
        check("memory://apart/in", "memory://apart/inside")
        check("memory://apart/in/*.txt", "memory://apart/in/out")
        check("memory://apart/in", "/apart/in/out")
    finally:
        fs.rm("/apart", recursive=True)


def test_overwriting_its_own_corpus_is_refused_before_anything_is_deleted(place: Path, in_this_process: None) -> None:
    options = {"proxy": ProxyOptions(proxy="identity"), "quiet": True}
    preprocess(PreprocessOptions(corpus="in", out="made", **options))  # type: ignore[arg-type]
    before = sorted(path for path in place.rglob("made/**/*"))
    with pytest.raises(UserError, match="which is an input"):
        preprocess(PreprocessOptions(corpus="made/part-*.parquet", out="made", overwrite=True, **options))  # type: ignore[arg-type]
    assert sorted(path for path in place.rglob("made/**/*")) == before
