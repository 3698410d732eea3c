"""The output folder, local or on an object store: whole files appear under their final names, or nothing does.

Locally a file is written beside its place (`meta/tmp`), synced and renamed. On an object store a finished local file
(in TMPDIR) is put in one call, and its size there is checked; nothing is ever opened there for writing, which would
publish a partial object when an exception passes. Every call to a store is made again when it fails or hangs, see
`schemas.remote.repeated`; what arrives with another digest than it should have is fetched once more before it is
believed damaged. Costs: a read of a small file is one HEAD and one GET, a written file one PUT and one HEAD.
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pipelines.remote_file import COPY_BYTES, DEADLINE_SECONDS, REQUEST_SECONDS, RemoteFile, download, look_up
from pipelines.temporary import process_folder
from schemas.errors import UserError
from schemas.files import sha256, sync
from schemas.manifest import unseal
from schemas.remote import StoreError, filesystem, is_remote, local_path, repeated
from schemas.secrets import redacted

T = TypeVar("T")
Item = TypeVar("Item")

TEMP = "meta/tmp"
WORK = "dedupe-"
_TEMP_NAME = re.compile(rf"{TEMP}/\d+-[0-9a-f]{{32}}\.tmp")

AT_ONCE = 16
"""Calls to a store at a time: it answers in 50 ms, and 50,000 files one by one would take an hour."""

SLOWEST_UPLOAD = 1e6
"""Bytes a second: an upload that has no answer by then, and a minute more, is made again."""


@dataclass(frozen=True)
class Folder:
    """A folder given by a local path or an fsspec URL; picklable, so that workers rebuild it.

    Attributes:
        url: the path or URL.
    """

    url: str

    @property
    def is_local(self) -> bool:
        """Whether this is a local path."""
        return not is_remote(self.url)

    @property
    def path(self) -> Path:
        """The local path."""
        return Path(local_path(self.url))

    def _fs(self) -> tuple[Any, str]:
        fs, path = filesystem(self.url)
        return fs, path.rstrip("/")

    def locate(self, name: str) -> str:
        """Path or URL of a file in the folder, for messages and other programs."""
        return str(self.path / name) if self.is_local else f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str, sha256_hex: str = "") -> bytes:
        """The bytes of a small file; of a remote one that arrives damaged, those of a second try.

        Args:
            name: relative to this folder.
            sha256_hex: that it should have; without it a JSON file's seal is tried.

        Raises:
            FileNotFoundError: there is none.
            UserError: the store refuses, or does not answer.
        """
        if self.is_local:
            return (self.path / name).read_bytes()
        data = self._read(name)
        if sha256_hex:
            return data if hashlib.sha256(data).hexdigest() == sha256_hex else self._read(name)
        if name.endswith(".json"):
            try:
                unseal(data, name)
            except UserError:
                return self._read(name)
        return data

    def exists(self, name: str) -> bool:
        """Whether there is such a file, whatever listings say.

        Raises:
            UserError: the store refuses or does not answer.
        """
        try:
            with self.open(name):
                return True
        except FileNotFoundError:
            return False

    def _read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def each(self, call: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """What `call` gives for each item, in order; on a store `AT_ONCE` calls are made at a time.

        No more results than that are held, and no more items asked for.
        """
        if self.is_local:
            yield from map(call, items)
            return
        waiting = iter(items)
        asked: deque[Future[T]] = deque()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                while True:
                    asked += [pool.submit(call, item) for item in islice(waiting, AT_ONCE - len(asked))]
                    if not asked:
                        return
                    yield asked.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def do_each(self, call: Callable[[Item], object], items: Iterable[Item]) -> None:
        """As `each`, for calls that give nothing."""
        deque(self.each(call, items), maxlen=0)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file for reading, seekable.

        Raises:
            FileNotFoundError: there is none.
            UserError: the store refuses or does not answer, or the object is replaced while it is read.
        """
        if self.is_local:
            with (self.path / name).open("rb") as file:
                yield file
            return
        try:
            with self._remote(name) as remote:
                yield cast(BinaryIO, remote)
        except EOFError as error:
            raise UserError(f"{redacted(self.locate(name))}: {error}") from None

    def _remote(self, name: str, ahead: int = 1 << 20) -> RemoteFile:
        fs, root = self._fs()
        path = f"{root}/{name}"
        place = self.locate(name)
        fs.invalidate_cache(path)  # a client remembers listings, and workers have written since
        return RemoteFile(fs, path, int(look_up(fs, path, place)["size"]), place, ahead=ahead)

    @contextmanager
    def fetched(self, name: str, sha256_hex: str = "") -> Iterator[Path]:
        """A file as a local one; a remote one is a temporary copy.

        Args:
            name: relative to this folder.
            sha256_hex: that it should have; a copy with another is fetched once more.

        Raises:
            FileNotFoundError: there is none.
            UserError: as `open`, or there is no room for the copy.
        """
        if self.is_local:
            yield self.path / name
            return
        place = process_folder()
        copy = place / f"{uuid.uuid4().hex}.copy"
        try:
            with _plain_errors(f"{place} (TMPDIR)"):
                for _ in range(2):
                    with self.open(name) as file:
                        download(cast(RemoteFile, file), copy)
                    if not sha256_hex or sha256(copy) == sha256_hex:
                        break
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def sizes(self, sub: str = "") -> dict[str, int]:
        """Files directly in a subfolder: name relative to this folder -> size in bytes."""
        prefix = f"{sub}/" if sub else ""
        if self.is_local:
            folder = self.path / sub
            if not folder.is_dir():
                return {}
            entries = [entry for entry in os.scandir(folder) if entry.is_file()]
            return {prefix + entry.name: entry.stat().st_size for entry in entries}
        fs, root = self._fs()
        place = f"{root}/{sub}" if sub else root

        def listed() -> list[dict[str, Any]]:
            fs.invalidate_cache(place)
            return list(fs.ls(place, detail=True))

        try:
            found = self._repeated(sub, listed)
        except FileNotFoundError:
            return {}
        return {
            prefix + str(info["name"]).rsplit("/", 1)[-1]: int(info["size"])
            for info in found
            if info["type"] == "file" and not str(info["name"]).endswith("/")
        }

    def digest(self, name: str, expected: str = "") -> str:
        """SHA-256 (hex) of a file, read in pieces; of a remote one that is not as expected, what a second try gives.

        Raises:
            FileNotFoundError: there is none.
            UserError: as `open`.
        """
        with self.open(name) as file:
            return self._digest(file, expected)

    def _digest(self, file: BinaryIO, expected: str) -> str:
        digest = _digest_of(file)
        if expected not in ("", digest) and not self.is_local:
            digest = _digest_of(file)
        return digest

    def matches(self, name: str, size: int, sha256_hex: str) -> bool:
        """Whether a file is there with this size (bytes) and SHA-256."""
        try:
            with self.open(name) as file:
                return file.seek(0, os.SEEK_END) == size and self._digest(file, sha256_hex) == sha256_hex
        except OSError:  # of a local disk, or nothing there; a store that gives no answer is no OSError
            return False

    def remove(self, name: str) -> None:
        """Delete a file if it is there."""
        if self.is_local:
            (self.path / name).unlink(missing_ok=True)
            return
        fs, root = self._fs()
        try:
            self._repeated(name, lambda: fs.rm_file(f"{root}/{name}"))
        except FileNotFoundError:
            return

    def _repeated(self, name: str, call: Callable[[], T], size: int = 0) -> T:
        """A call to the store.

        Args:
            name: for messages.
            call: see `repeated`.
            size: bytes that it sends.
        """
        more = size / SLOWEST_UPLOAD
        return repeated(
            call,
            self.locate(name),
            request_seconds=REQUEST_SECONDS + more,
            deadline_seconds=DEADLINE_SECONDS + 4 * more,
        )

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A local path to write to; it becomes `name` when the block ends well, and vanishes when it does not.

        Raises:
            UserError: no space left, or no permission; what was finished before stays.
        """
        target = self.locate(name) if self.is_local else f"{redacted(self.locate(name))} by way of TMPDIR"
        with _plain_errors(target):
            place = self.path / TEMP if self.is_local else process_folder()
            place.mkdir(parents=True, exist_ok=True)
            temp = place / f"{os.getpid()}-{uuid.uuid4().hex}.tmp"
            temp.touch()
        try:
            with _plain_errors(target, _FULL):  # another refusal is of what the block reads, an input, say
                yield temp
            with _plain_errors(target):
                self._publish(temp, name)
        finally:
            temp.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file whole."""
        with self.staged(name) as temp:
            temp.write_bytes(data)

    def _publish(self, temp: Path, name: str) -> None:
        if not self.is_local:
            self._upload(temp, name)
            return
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(temp)
        temp.replace(target)
        sync(target.parent)

    def _upload(self, temp: Path, name: str) -> None:
        fs, root = self._fs()
        size = temp.stat().st_size
        there = f"{root}/{name}"

        def put() -> None:
            fs.put_file(str(temp), there)
            fs.invalidate_cache(there)
            stored = fs.info(there).get("size")
            if stored != size:
                raise OSError(errno.EIO, f"{stored} of {size:,} bytes arrived")

        try:
            self._repeated(name, put, size)
        except FileNotFoundError as error:
            raise UserError(
                f"{redacted(self.locate(name))}: cannot be written ({redacted(str(error))}); is there such a bucket?"
            ) from None

    def sweep(self) -> None:
        """Delete temporary files and work folders that a killed run left; remote folders have none."""
        if self.is_local:
            for name in filter(_TEMP_NAME.fullmatch, self.sizes(TEMP)):
                self.remove(name)
            for folder in (self.path / TEMP).glob(f"{WORK}*"):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """An empty local folder for what has no room in memory: on a local dataset's disk, else in TMPDIR.

        It is deleted at the end; what a killed process left, by `sweep`, or by the next that needs TMPDIR.
        """
        place = self.path / TEMP if self.is_local else process_folder()
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=WORK, dir=place, ignore_cleanup_errors=True) as folder:
            yield Path(folder)


def _digest_of(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(COPY_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def _plain_errors(place: str, numbers: tuple[int, ...] = _FULL + _REFUSED) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"{place}: no space left on the device; finished units are kept: free some space and run the same "
                "command again"
            ) from None
        raise StoreError(f"{place}: cannot be written ({error.strerror})") from None
