"""Where checkpoints lie: a folder that all machines of a run see, or a URL that fsspec opens.

Both keep `step-0000000100/` with the files of one checkpoint, and a checkpoint is one iff its `state.json` is there
and names them. Locally all is written to another folder and renamed. On an object store nothing can be renamed:
each process writes to a folder of its own machine first and puts its files, and `state.json` goes last; deleting
takes it away first. TMPDIR must then hold what this machine writes, and a whole checkpoint where one is read.
"""

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from schemas.errors import UserError
from schemas.files import sha256, sync
from schemas.remote import filesystem, is_remote, local_path, repeated
from trainer.parallel import Processes

T = TypeVar("T")

STATE = "state.json"
_TEMP = ".tmp-"

_REQUEST_SECONDS = 900.0
"""Without an answer: a put or get of one file, which may be tens of GB."""

_DEADLINE_SECONDS = 3600.0


def store_at(location: str | Path) -> "Store":
    """The store of a folder or URL.

    Raises:
        UserError: a URL that cannot be opened.
    """
    text = str(location)
    return _Remote(text) if is_remote(text) else _Local(text)


class Store(ABC):
    """Checkpoints by name.

    Attributes:
        place: folder or URL.
    """

    place: str

    def locate(self, name: str) -> str:
        """Path or URL of a checkpoint or a file in one, for messages."""
        return f"{self.place.rstrip('/')}/{name}"

    @abstractmethod
    def names(self) -> list[str]:
        """Checkpoints that are there, whole or not, oldest first."""

    @abstractmethod
    def begin(self, name: str, processes: Processes) -> Path:
        """An empty folder for this process to write into; all processes call it together.

        Raises:
            OSError: it cannot be made.
        """

    @abstractmethod
    def publish(self, folder: Path, name: str, files: list[Path]) -> dict[str, str]:
        """Make this process's files last; their SHA-256 by name.

        Raises:
            OSError: no space.
            UserError: the store refuses or does not answer.
        """

    @abstractmethod
    def commit(self, folder: Path, name: str, state: bytes) -> None:
        """Called by the first process when all have published: from now on the checkpoint is there."""

    @abstractmethod
    def discard(self, folder: Path, processes: Processes) -> None:
        """Delete a folder of `begin`, whatever became of it."""

    @abstractmethod
    def state(self, name: str) -> bytes:
        """Content of a checkpoint's `state.json`.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def place_to_read(self, name: str, processes: Processes) -> Path:
        """The local folder that `fetch` fills; all processes call it together."""

    @abstractmethod
    def fetch(self, name: str, digests: dict[str, str], folder: Path, processes: Processes) -> None:
        """Bring a checkpoint's files to its folder, each verified by one process.

        Raises:
            UserError: files are missing or damaged, or there is no room for them; in the process that found it.
        """

    @abstractmethod
    def release(self, folder: Path, processes: Processes) -> None:
        """Called together when a folder of `place_to_read` is no longer read."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a checkpoint."""

    @abstractmethod
    def sweep(self) -> None:
        """Delete what interrupted saves left; for who trains, since a run that is read may be saving."""


class _Local(Store):
    def __init__(self, place: str) -> None:
        self.place = local_path(place)
        self._folder = Path(self.place)

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.glob("step-*") if path.is_dir())

    def begin(self, name: str, processes: Processes) -> Path:
        temp = self._folder / f"{_TEMP}{name}"
        if processes.is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temp, ignore_errors=True)
        return temp

    def publish(self, folder: Path, name: str, files: list[Path]) -> dict[str, str]:
        for path in files:
            sync(path)
        return {path.name: sha256(path) for path in files}

    def commit(self, folder: Path, name: str, state: bytes) -> None:
        (folder / STATE).write_bytes(state)
        sync(folder / STATE)
        target = self._folder / name
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
        sync(self._folder)

    def discard(self, folder: Path, processes: Processes) -> None:
        if processes.is_first:
            shutil.rmtree(folder, ignore_errors=True)

    def state(self, name: str) -> bytes:
        return (self._folder / name / STATE).read_bytes()

    def place_to_read(self, name: str, processes: Processes) -> Path:
        return self._folder / name

    def fetch(self, name: str, digests: dict[str, str], folder: Path, processes: Processes) -> None:
        for file in _share(digests, processes.rank, processes.world):
            self._verify(folder / file, digests[file])

    def _verify(self, path: Path, digest: str) -> None:
        try:
            same = sha256(path) == digest
        except OSError:
            same = False
        if not same:
            raise _damaged(str(path))

    def release(self, folder: Path, processes: Processes) -> None:
        pass

    def remove(self, name: str) -> None:
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def sweep(self) -> None:
        for leftover in self._folder.glob(f"{_TEMP}*"):
            shutil.rmtree(leftover, ignore_errors=True)


class _Remote(Store):
    def __init__(self, place: str) -> None:
        self.place = place
        self._fs, root = filesystem(place)
        self._root = root.rstrip("/")
        self._place, self._together = 0, 1  # of this process among those of this machine

    def names(self) -> list[str]:
        def listed() -> list[dict[str, Any]]:
            self._fs.invalidate_cache()
            return list(self._fs.ls(self._root, detail=True))

        try:
            found = self._repeated("", listed)
        except FileNotFoundError:
            return []
        names = (str(entry["name"]).rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory")
        return sorted(name for name in names if name.startswith("step-"))

    def begin(self, name: str, processes: Processes) -> Path:
        return Path(tempfile.mkdtemp(prefix="proxy-checkpoint-"))

    def publish(self, folder: Path, name: str, files: list[Path]) -> dict[str, str]:
        digests = {}
        for path in files:
            there = f"{self._root}/{name}/{path.name}"
            self._repeated(f"{name}/{path.name}", partial(self._put, path, there))
            digests[path.name] = sha256(path)
        return digests

    def _put(self, path: Path, there: str) -> None:
        self._fs.put_file(str(path), there)
        size = self._fs.info(there)["size"]
        if size != path.stat().st_size:
            raise OSError(f"{size:,} of {path.stat().st_size:,} bytes arrived")

    def commit(self, folder: Path, name: str, state: bytes) -> None:
        self._repeated(f"{name}/{STATE}", partial(self._fs.pipe_file, f"{self._root}/{name}/{STATE}", state))

    def discard(self, folder: Path, processes: Processes) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def state(self, name: str) -> bytes:
        return bytes(self._repeated(f"{name}/{STATE}", partial(self._fs.cat_file, f"{self._root}/{name}/{STATE}")))

    def place_to_read(self, name: str, processes: Processes) -> Path:
        folder, self._place, self._together = _machine_folder(processes)
        return folder

    def fetch(self, name: str, digests: dict[str, str], folder: Path, processes: Processes) -> None:
        for file in _share(digests, self._place, self._together):
            try:
                self._get(f"{name}/{file}", folder / file, digests[file])
            except OSError as error:
                raise UserError(f"{folder}: {self.locate(name)} cannot be put there ({error}); set TMPDIR") from None

    def _get(self, name: str, path: Path, digest: str) -> None:
        for _ in range(2):  # a transfer may go wrong once
            try:
                self._repeated(name, partial(self._fs.get_file, f"{self._root}/{name}", str(path)))
            except FileNotFoundError:
                break
            if sha256(path) == digest:
                return
        raise _damaged(self.locate(name))

    def release(self, folder: Path, processes: Processes) -> None:
        processes.wait()
        shutil.rmtree(folder, ignore_errors=True)

    def remove(self, name: str) -> None:
        for there in (f"{self._root}/{name}/{STATE}", f"{self._root}/{name}"):
            try:
                self._repeated(name, partial(self._fs.rm, there, recursive=True))
            except FileNotFoundError:
                continue

    def sweep(self) -> None:
        pass  # a save that was cut off has no state.json; rotation deletes it, or the same step writes over it

    def _repeated(self, name: str, call: Callable[[], T]) -> T:
        return repeated(
            call, self.locate(name), request_seconds=_REQUEST_SECONDS, deadline_seconds=_DEADLINE_SECONDS
        )  # fmt: skip


def _machine_folder(processes: Processes) -> tuple[Path, int, int]:
    """A new folder that the processes of this machine share; place among them and number of them."""
    machine = os.uname().nodename
    made = tempfile.mkdtemp(prefix="proxy-checkpoint-")
    everyone = processes.gather_objects((machine, made))
    here = [folder for name, folder in everyone if name == machine]
    place = here.index(made)
    if place:
        Path(made).rmdir()
    return Path(here[0]), place, len(here)


def _share(digests: dict[str, str], place: int, of: int) -> list[str]:
    """The files that one of `of` processes reads."""
    return sorted(digests)[place::of]


def _damaged(where: str) -> UserError:
    return UserError(f"{where}: missing or damaged (its SHA-256 is not the one in {STATE})")
