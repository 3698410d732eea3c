"""Files appear whole or not at all, locally and on an object store."""

import errno
import uuid
from pathlib import Path

import pytest

from pipelines.storage import Folder
from pipelines.temporary import process_folder
from schemas.errors import UserError


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out") if request.param == "local" else f"memory://{uuid.uuid4().hex}/out")


def test_written_files_are_listed_read_and_removed(folder: Folder) -> None:
    assert folder.sizes() == {}
    folder.write("a.parquet", b"abc")
    folder.write("receipts/b.json", b"{}")
    assert folder.sizes() == {"a.parquet": 3}
    assert folder.sizes("receipts") == {"receipts/b.json": 2}
    assert folder.read("a.parquet") == b"abc"
    assert folder.digest("a.parquet") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with folder.open("a.parquet") as file:
        file.seek(1)
        assert file.read() == b"bc"
    folder.remove("a.parquet")
    folder.remove("a.parquet")
    assert folder.sizes() == {}
    with pytest.raises(FileNotFoundError):
        folder.read("a.parquet")


def test_a_failed_write_leaves_what_was_there(folder: Folder) -> None:
    folder.write("a", b"old")

    def fail() -> None:
        with folder.staged("a") as path:
            path.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert folder.read("a") == b"old"
    assert not [name for name in folder.sizes("meta/tmp") if name]


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "no space left.*run the same command"), (errno.EFBIG, "cannot be written")]
)
def test_disk_errors_are_one_line(tmp_path: Path, number: int, message: str) -> None:
    folder = Folder(str(tmp_path))
    with pytest.raises(UserError, match=f"a: {message}"), folder.staged("a"):
        raise OSError(number, "as the system says")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_refusal_is_the_places_only_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, "as the system says")

    folder = Folder(str(tmp_path))
    with pytest.raises(OSError, match="as the system says") as raised, folder.staged("a"):
        refused()  # an input's, say
    assert not isinstance(raised.value, UserError)
    for name in ("touch", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, refused)
            with pytest.raises(UserError, match="a: cannot be written"), folder.staged("a") as path:
                path.write_bytes(b"")


def test_left_over_temporary_files_are_swept(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("kept", b"x")
    (tmp_path / f"meta/tmp/123-{uuid.uuid4().hex}.tmp").write_bytes(b"left by a kill")
    folder.sweep()
    (tmp_path / "meta/tmp/mine").write_bytes(b"not ours")
    folder.sweep()
    assert folder.sizes("meta/tmp") == {"meta/tmp/mine": 8}
    assert folder.read("kept") == b"x"


def test_work_folders_end_with_their_block_and_those_of_a_killed_job_are_swept(folder: Folder) -> None:
    with folder.work_folder() as place:
        (place / "ids.duckdb").write_bytes(b"x")
        assert place.parent == (folder.path / "meta/tmp" if folder.is_local else process_folder())
    assert not place.exists()
    if folder.is_local:
        place.mkdir()
        (place / "ids.duckdb").write_bytes(b"left by a kill")
        (place.parent / "mine").mkdir()
        folder.sweep()
        assert [path.name for path in place.parent.iterdir()] == ["mine"]
