"""The output folder, local or on an object store: whole files appear under their final names, or nothing does.

Locally a file is written beside its place (`meta/tmp`), synced and renamed. On an object store a finished local
file is put in one call; nothing is ever opened there for writing, which would publish a partial object when an
exception passes.
"""

import errno
import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.files import sync
from schemas.remote import filesystem, is_remote

TEMP = "meta/tmp"
_TEMP_NAME = re.compile(rf"{TEMP}/\d+-[0-9a-f]{{32}}\.tmp")
_LOCAL_URLS = ("file://", "local://")


@dataclass(frozen=True)
class Folder:
    """A folder given by a local path or an fsspec URL; picklable, so that workers rebuild it.

    Attributes:
        url: the path or URL.
    """

    url: str

    @property
    def is_local(self) -> bool:
        """Whether this is a plain local path."""
        return not is_remote(self.url) or self.url.startswith(_LOCAL_URLS)

    @property
    def path(self) -> Path:
        """The local path."""
        for prefix in _LOCAL_URLS:
            if self.url.startswith(prefix):
                return Path(self.url.removeprefix(prefix))
        return Path(self.url)

    def _fs(self) -> tuple[Any, str]:
        fs, path = filesystem(self.url)
        return fs, path.rstrip("/")

    def locate(self, name: str) -> str:
        """Path or URL of a file in the folder, for messages and other programs."""
        return str(self.path / name) if self.is_local else f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        if self.is_local:
            return (self.path / name).read_bytes()
        fs, root = self._fs()
        data: bytes = fs.cat_file(f"{root}/{name}")
        return data

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """A file for reading, seekable."""
        if self.is_local:
            with (self.path / name).open("rb") as file:
                yield file
            return
        fs, root = self._fs()
        with fs.open(f"{root}/{name}", "rb") as file:
            yield file

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
        fs.invalidate_cache()
        try:
            found = fs.ls(place, detail=True)
        except FileNotFoundError:
            return {}
        return {
            prefix + str(info["name"]).rsplit("/", 1)[-1]: int(info["size"])
            for info in found
            if info["type"] == "file" and not str(info["name"]).endswith("/")
        }

    def digest(self, name: str) -> str:
        """SHA-256 (hex) of a file, read in pieces."""
        with self.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def remove(self, name: str) -> None:
        """Delete a file if it is there."""
        if self.is_local:
            (self.path / name).unlink(missing_ok=True)
            return
        fs, root = self._fs()
        try:
            fs.rm_file(f"{root}/{name}")
        except FileNotFoundError:
            return

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A local path to write to; it becomes `name` when the block ends well, and vanishes when it does not.

        Raises:
            UserError: no space left, or no permission; what was finished before stays.
        """
        with _plain_errors(self.locate(name)):
            place = self.path / TEMP if self.is_local else Path(tempfile.gettempdir())
            place.mkdir(parents=True, exist_ok=True)
            temp = place / f"{os.getpid()}-{uuid.uuid4().hex}.tmp"
            try:
                yield temp
                self._publish(temp, name)
            finally:
                temp.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file whole."""
        with self.staged(name) as temp:
            temp.write_bytes(data)

    def _publish(self, temp: Path, name: str) -> None:
        if not self.is_local:
            fs, root = self._fs()
            fs.put_file(str(temp), f"{root}/{name}")
            return
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(temp)
        temp.replace(target)
        sync(target.parent)

    def sweep(self) -> None:
        """Delete temporary files that a killed run left."""
        if self.is_local:
            for name in filter(_TEMP_NAME.fullmatch, self.sizes(TEMP)):
                self.remove(name)


@contextmanager
def _plain_errors(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{place}: no space left on the device; finished units are kept: free some space and run the same "
                "command again"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"{place}: cannot be written ({error.strerror})") from None
        raise
