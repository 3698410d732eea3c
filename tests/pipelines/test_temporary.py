"""The temporary folder of a process: nobody takes a new one for one that a killed process left."""

import fcntl
from pathlib import Path

import pytest

from pipelines import temporary


def test_a_folder_is_not_swept_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.temporary.tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pipelines.temporary.atexit.register", lambda *_, **__: None)
    flock = fcntl.flock

    def late(lock: int, how: int) -> None:
        if how == fcntl.LOCK_EX:  # the owner: just before it, another process sweeps
            temporary._sweep(tmp_path)
        flock(lock, how)

    monkeypatch.setattr("pipelines.temporary.fcntl.flock", late)
    folder = temporary.process_folder.__wrapped__()
    temporary._sweep(tmp_path)
    assert folder.name.startswith("proxy-compression-")
    assert [path.name for path in folder.iterdir()] == ["lock"]
    assert list(tmp_path.iterdir()) == [folder]
