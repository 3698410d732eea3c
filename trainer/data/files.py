"""Byte ranges of a dataset's files, local or on an object store.

In: a folder (path or fsspec URL), file names, ranges in bytes. Out: exactly those bytes, unparsed; whoever asks checks
their digests. Local reads are one `pread`. Remote reads are tried again with growing pauses until a deadline, a
request that hangs included, and kept in a bounded folder on this machine, so that later epochs do not fetch anew.
"""

import hashlib
import os
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.remote import filesystem, is_remote, local_path, repeated

REQUEST_SECONDS = 30.0
"""A request without an answer for this long counts as lost: a row group is about 1 MB, far below this on any link."""

DEADLINE_SECONDS = 180.0
"""Of one read with all its repetitions: outlasts the throttling and restarts that stores have every day."""

CACHE_BYTES = 4 << 30
"""Default bound of the local copy of remote ranges, all processes of a machine together."""

_OPEN_FILES = 64
"""Far below the usual limit of 1,024 a process."""


class Files:
    """The files below one folder."""

    def __init__(self, url: str, *, cache_bytes: int = CACHE_BYTES, cache_folder: Path | None = None) -> None:
        self.url = url
        self.is_local = not is_remote(url)
        self._folder = Path(local_path(url))
        self._descriptors = _Descriptors()
        self._cache: _Cache | None = None
        if not self.is_local:
            self._fs, root = filesystem(url)
            self._root = root.rstrip("/")
            if cache_bytes > 0:
                self._cache = _Cache(cache_folder or _default_cache(), cache_bytes)

    def locate(self, name: str) -> str:
        """Path or URL of a file, for messages."""
        return str(self._folder / name) if self.is_local else f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        """The bytes of a whole, small file.

        Raises:
            FileNotFoundError: there is none.
            UserError: it cannot be read.
        """
        if self.is_local:
            return self._local(name, lambda: (self._folder / name).read_bytes())
        return self._remote(name, lambda: self._fs.cat_file(f"{self._root}/{name}"))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        try:
            self.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def read_range(self, name: str, start: int, stop: int, *, fresh: bool = False) -> bytes:
        """Bytes [start, stop) of a file; fewer if it ends before.

        Args:
            name: relative to the folder.
            start: in bytes.
            stop: in bytes.
            fresh: do not take them from the local copy (its bytes did not match their digest).

        Raises:
            UserError: the file is missing or cannot be read.
        """
        try:
            if self.is_local:
                return self._local(name, lambda: self._descriptors.pread(f"{self._folder}/{name}", start, stop))
            key = f"{self.locate(name)}:{start}-{stop}"
            data = None if fresh or self._cache is None else self._cache.get(key)
            if data is None or len(data) != stop - start:
                data = self._remote(name, lambda: self._fs.cat_file(f"{self._root}/{name}", start=start, end=stop))
                if self._cache is not None:
                    self._cache.put(key, data)
            return data
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.locate(name)}: missing; run the same preprocess command again") from None

    def _local(self, name: str, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise UserError(f"{self.locate(name)}: cannot be read ({error.strerror})") from None

    def _remote(self, name: str, read: Callable[[], Any]) -> bytes:
        """One read with repetitions."""
        return repeated(
            lambda: bytes(read()),
            self.locate(name),
            request_seconds=REQUEST_SECONDS,
            deadline_seconds=DEADLINE_SECONDS,
        )


class _Descriptors:
    """The local files read last, open: opening one takes longer than reading a row group."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()
        weakref.finalize(self, _close_all, self._open)

    def pread(self, path: str, start: int, stop: int) -> bytes:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = os.open(path, os.O_RDONLY)
            if len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        pieces = []
        while start < stop:  # a single pread gives at most 2 GiB
            piece = os.pread(self._open[path], stop - start, start)
            if not piece:
                break
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _close_all(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "proxy-compression" / "ranges"


class _Cache:
    """Files named by the hash of what they are, the least recently used deleted beyond a bound.

    Several processes may share it: files appear by renaming, and a file that another process deleted is fetched anew.
    What is stale or damaged in it is noticed by the digests that readers check.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit, self._added = folder, limit, limit

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep it; a full or read-only disk only means that it is not kept."""
        if len(data) > self._limit:
            return
        path = self._path(key)
        temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Lists the folder only once in an eighth of the bound; deletes down to seven eighths."""
        self._added += size
        if self._added < self._limit // 8:
            return
        self._added = size
        entries = []
        for entry in os.scandir(self._folder):
            try:
                entries.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
            except FileNotFoundError:
                continue
        room = self._limit - self._limit // 8 - size
        for _, length, path in sorted(entries, reverse=True):
            room -= length
            if room < 0:
                Path(path).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
