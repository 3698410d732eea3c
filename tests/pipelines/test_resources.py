"""A disk that fills up and a limit on open files, through the command: one line, and the rerun completes."""

import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.memory import noise

MIB = 1 << 20

pytestmark = pytest.mark.timeout(600)
"""Several jobs each, and whichever comes first makes the undisturbed one too."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of 1 MiB, a shard each, that do not compress."""
    folder = tmp_path_factory.mktemp("resources") / "corpus"
    folder.mkdir()
    for index in range(6):
        (folder / f"{index}.bin").write_bytes(noise(MIB, index))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system may not be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def preprocess(corpus: Path, out: Path, limits: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    arguments = ["--corpus", str(corpus), "--out", str(out), "--proxy", "identity", "--workers", "2"]
    command = [sys.executable, "-m", "pipelines", "preprocess", *arguments, "--unit-bytes", str(MIB), "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limits)


def digests(out: Path) -> dict[str, str]:
    files = [*out.glob("*.parquet"), *out.glob("rejects/*"), out / "meta/row_groups.parquet", out / "manifest.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(corpus: Path) -> dict[str, str]:
    """What the rerun must end with."""
    out = corpus.parent / "undisturbed"
    assert preprocess(corpus, out).returncode == 0
    return digests(out)


def one_line(job: subprocess.CompletedProcess[str], wanted: str) -> bool:
    lines = job.stderr.strip().splitlines()
    return job.returncode == 1 and len(lines) == 1 and wanted in lines[0]


@pytest.mark.slow
def test_a_full_disk_gives_one_line_and_with_more_room_the_same_bytes(
    corpus: Path, small_disk: Path, undisturbed: dict[str, str]
) -> None:
    out = small_disk / "data"
    full = preprocess(corpus, out)
    assert one_line(full, "no space left on the device; finished units are kept: free some space and run the same")
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert 0 < len(done) < 6
    assert not list(out.glob("meta/tmp/*"))
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    assert preprocess(corpus, out).returncode == 0
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    assert digests(out) == undisturbed


@pytest.mark.slow
def test_a_disk_too_small_for_the_description_gives_one_line(corpus: Path, small_disk: Path) -> None:
    with (small_disk / "filler").open("wb") as file:
        file.write(bytes(4 * MIB - 8 * os.sysconf("SC_PAGE_SIZE")))
    assert one_line(preprocess(corpus, small_disk / "data"), "no space left on the device")


@pytest.mark.slow
@pytest.mark.parametrize(("files", "enough"), [(64, True), (16, False)])
def test_few_open_files_are_enough_and_too_few_give_one_line(
    files: int, enough: bool, corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    limits = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files))
    job = preprocess(corpus, tmp_path / "data", limits)
    if enough:
        assert job.returncode == 0
    else:
        assert one_line(job, "Too many open files")
        assert preprocess(corpus, tmp_path / "data").returncode == 0
    assert digests(tmp_path / "data") == undisturbed
