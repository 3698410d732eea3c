"""Checkpoints in folders and on object stores: what is there is whole, whatever happened while it was written."""

import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from schemas.errors import UserError
from trainer.checkpoints import saving, stores
from trainer.checkpoints.saving import Saver, newest
from trainer.checkpoints.stores import Store, store_at

SIZE = 1000


def tensors(value: float) -> dict[str, Any]:
    return {"model": {"a": torch.full((SIZE,), value), "b": torch.arange(4.0) * value}, "step": value}


def loaded(store: Store) -> tuple[int, dict[str, Any]]:
    found = newest(store)
    assert found is not None
    into = tensors(0.0)
    found.load_into(into)
    return found.step, into


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return str(tmp_path / "checkpoints") if request.param == "local" else f"memory://{tmp_path}/checkpoints"


def files(place: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(place)
    fs.invalidate_cache()
    return sorted(path.removeprefix(root.rstrip("/") + "/") for path in fs.find(root))


def overwrite(place: str, name: str, change: Any) -> None:
    fs, root = fsspec.core.url_to_fs(place)
    content = change(fs.cat_file(f"{root}/{name}"))
    fs.pipe_file(f"{root}/{name}", content)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("background", [False, True])
def test_the_newest_comes_back_and_the_oldest_go(place: str, tmp_path: Path, background: bool) -> None:
    store = store_at(place)
    assert newest(store) is None
    saver = Saver(store, keep=2, background=background)
    for step in (1, 2, 10):
        saver.save(tensors(float(step)), {"step": step})
    saver.wait()
    assert {name.split("/")[0] for name in files(place)} == {"step-0000000002", "step-0000000010"}
    step, found = loaded(store)
    assert step == 10
    assert found["step"] == 10.0
    assert torch.equal(found["model"]["a"], torch.full((SIZE,), 10.0))
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("keep", [0, 2])
def test_what_lies_ahead_of_the_one_written_is_of_a_run_given_up(place: str, keep: int) -> None:
    saver = Saver(store_at(place), keep=0)
    for step in (1, 6, 8):
        saver.save(tensors(float(step)), {"step": step})
    again = Saver(store_at(place), keep=keep)
    saver.wait()
    again.save(tensors(3.0), {"step": 3})
    again.wait()
    assert loaded(store_at(place))[0] == 3
    assert store_at(place).names() == ["step-0000000001", "step-0000000003"]


def test_old_ones_that_cannot_be_deleted_do_not_end_a_run(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    saver = Saver(store_at(place), keep=1)

    def refused(name: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(saver._store, "remove", refused)
    for step in (1, 2):
        saver.save(tensors(float(step)), {"step": step})
    saver.wait()
    assert loaded(store_at(place))[0] == 2
    assert "old checkpoints are not deleted" in caplog.text


def test_one_that_holds_something_else_is_named(place: str) -> None:
    saver = Saver(store_at(place), keep=1)
    saver.save({"model": {"a": torch.zeros(3)}}, {"step": 1})
    saver.wait()
    found = newest(store_at(place))
    assert found is not None
    with pytest.raises(UserError, match="step-0000000001: cannot be loaded"):
        found.load_into(tensors(0.0))


def test_leaving_waits_for_the_one_under_way(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = saving._write_tensors

    def late(*arguments: Any) -> None:
        time.sleep(0.3)
        write(*arguments)

    monkeypatch.setattr(saving, "_write_tensors", late)
    saver = Saver(store_at(place), keep=1)
    saver.save(tensors(1.0), {"step": 1})
    saver.finish()
    assert loaded(store_at(place))[0] == 1
    monkeypatch.setattr(saving, "_write_tensors", _no_permission)
    saver.save(tensors(2.0), {"step": 2})
    saver.finish()  # does not raise: something else ends the run


def test_all_are_kept_where_keep_is_0(place: str) -> None:
    saver = Saver(store_at(place), keep=0)
    for step in range(5):
        saver.save(tensors(1.0), {"step": step})
    saver.wait()
    assert len(store_at(place).names()) == 5


def test_what_changes_after_the_call_is_not_what_is_saved(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    write = saving._write_tensors

    def late(*arguments: Any) -> None:
        assert go_on.wait(20)
        write(*arguments)

    monkeypatch.setattr(saving, "_write_tensors", late)
    saver = Saver(store_at(place), keep=2)
    own = tensors(3.0)
    saver.save(own, {"step": 3})  # comes back although nothing is written
    own["model"]["a"].add_(100)
    own["model"]["b"].zero_()
    assert store_at(place).names() == []
    go_on.set()
    saver.wait()
    _, found = loaded(store_at(place))
    assert torch.equal(found["model"]["a"], torch.full((SIZE,), 3.0))
    assert torch.equal(found["model"]["b"], torch.arange(4.0) * 3)


@pytest.mark.parametrize("damage", ["flip", "truncate", "state gone", "state flipped", "data gone"])
def test_a_damaged_one_is_passed_over(place: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    saver = Saver(store_at(place), keep=0)
    for step in (1, 2):
        saver.save(tensors(float(step)), {"step": step})
    saver.wait()
    data = next(name for name in files(place) if name.startswith("step-0000000002") and name.endswith(".distcp"))
    state = "step-0000000002/state.json"
    if damage == "flip":
        overwrite(place, data, flipped)
    elif damage == "truncate":
        overwrite(place, data, lambda content: content[:100])
    elif damage == "state flipped":
        overwrite(place, state, flipped)
    else:
        fs, root = fsspec.core.url_to_fs(place)
        fs.rm(f"{root}/{data if damage == 'data gone' else state}")
    step, found = loaded(store_at(place))
    assert step == 1
    assert found["step"] == 1.0
    assert "step-0000000002" in caplog.text
    assert "going back to the one before" in caplog.text


def test_if_all_are_damaged_nothing_begins_anew_silently(place: str) -> None:
    saver = Saver(store_at(place), keep=0)
    saver.save(tensors(1.0), {"step": 1})
    saver.wait()
    overwrite(place, "step-0000000001/state.json", flipped)
    with pytest.raises(UserError, match="all 1 checkpoints are damaged; --afresh"):
        newest(store_at(place))


@pytest.mark.parametrize("last", ["tensors", "publish", "commit"])
def test_cut_off_anywhere_there_is_the_one_before(place: str, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(store_at(place), keep=2, background=False)
    saver.save(tensors(1.0), {"step": 1})

    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        if last == "tensors":
            patch.setattr(saving, "_write_tensors", killed)
        else:
            patch.setattr(saver._store, last, killed)
        patch.setattr(saver._store, "discard", lambda *_: None)  # a killed process does not clean up
        with pytest.raises(KilledError):
            saver.save(tensors(2.0), {"step": 2})
    assert loaded(store_at(place))[0] == 1
    saver = Saver(store_at(place), keep=2)
    for step in (2, 3):
        saver.save(tensors(float(step)), {"step": step})
    saver.wait()
    assert loaded(store_at(place))[0] == 3
    assert {name.split("/")[0] for name in files(place)} == {"step-0000000002", "step-0000000003"}


def test_a_failure_in_the_background_is_told_once_and_the_next_save_works(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(store_at(place), keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(saving, "_write_tensors", _no_permission)
        saver.save(tensors(1.0), {"step": 1})
        assert saver._thread is not None
        saver._thread.join()
        assert saver.failed
        with pytest.raises(UserError, match=r"step-0000000001: checkpoint not written: Permission denied"):
            saver.wait()
    saver.save(tensors(2.0), {"step": 2})
    saver.wait()
    assert loaded(store_at(place))[0] == 2


def _no_permission(*_: Any) -> None:
    raise PermissionError(13, "Permission denied")


class TestRemote:
    """A store that loses requests, and one that stays away."""

    URL = "memory://unsteady/checkpoints"

    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("schemas.remote.time.sleep", lambda _: None)
        fs, _ = fsspec.core.url_to_fs(self.URL)
        if fs.exists("/unsteady"):
            fs.rm("/unsteady", recursive=True)

    def test_lost_requests_and_short_puts_are_made_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fs, _ = fsspec.core.url_to_fs(self.URL)
        calls = {"put_file": 0, "get_file": 0, "pipe_file": 0, "cat_file": 0, "ls": 0}

        def unsteady(name: str) -> None:
            call = getattr(type(fs), name)

            def sometimes(self: Any, *arguments: Any, **options: Any) -> Any:
                calls[name] += 1
                if calls[name] % 2:
                    if name == "put_file":  # arrives cut off
                        self.pipe_file(arguments[1], b"half")
                        return None
                    raise ConnectionResetError("lost")
                return call(self, *arguments, **options)

            monkeypatch.setattr(type(fs), name, sometimes)

        for name in ("put_file", "get_file", "ls"):
            unsteady(name)
        saver = Saver(store_at(self.URL), keep=1)
        for step in (1, 2):
            saver.save(tensors(float(step)), {"step": step})
        saver.wait()
        assert loaded(store_at(self.URL))[0] == 2
        assert calls["put_file"] > 2
        assert calls["get_file"] > 2

    def test_one_that_stays_away_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fs, _ = fsspec.core.url_to_fs(self.URL)

        def lost(self: Any, *_: Any, **__: Any) -> None:
            raise ConnectionResetError("lost")

        monkeypatch.setattr(type(fs), "put_file", lost)
        monkeypatch.setattr(stores, "_DEADLINE_SECONDS", 0.2)
        saver = Saver(store_at(self.URL), keep=1)
        saver.save(tensors(1.0), {"step": 1})
        with pytest.raises(UserError, match=r"no answer within 0 s of trying \(ConnectionResetError: lost\)"):
            saver.wait()
        assert newest(store_at(self.URL)) is None

    def test_a_transfer_that_went_wrong_is_fetched_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        saver = Saver(store_at(self.URL), keep=1)
        saver.save(tensors(1.0), {"step": 1})
        saver.wait()
        fs, _ = fsspec.core.url_to_fs(self.URL)
        get, seen = type(fs).get_file, set()

        def wrong_at_first(self: Any, there: str, here: str, **options: Any) -> None:
            get(self, there, here, **options)
            if there not in seen:
                seen.add(there)
                Path(here).write_bytes(flipped(Path(here).read_bytes()))

        monkeypatch.setattr(type(fs), "get_file", wrong_at_first)
        assert loaded(store_at(self.URL))[0] == 1

    def test_unknown_protocols_are_refused(self) -> None:
        with pytest.raises(UserError, match="nowhere://bucket"):
            store_at("nowhere://bucket/run")
