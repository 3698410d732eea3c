"""An object of a store as a seekable binary file, read in ranges that survive a bad minute.

`RemoteFile` asks for ranges of known length: a lost connection costs one range, asked for again by
`schemas.remote.repeated`, and a range that comes short is never taken for the end. It reads ahead, and remembers a few
places, since a reader of Parquet goes through several columns at a time. `look_up` gives what a store knows of an
object, `find` all objects below a path, `download` a local copy. Costs: one GET for each range, no HEAD.
"""

import errno
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

from schemas.remote import StoreError, repeated
from schemas.secrets import redacted

REQUEST_SECONDS = 60.0
"""A request without an answer for this long counts as lost: a range is 5 MiB or less."""

DEADLINE_SECONDS = 300.0
"""Of one request with all its repetitions: outlasts the throttling and restarts that stores have every day."""

LISTING_SECONDS = 3600.0
"""A listing without an end for this long counts as lost: stores give 1,000 names in about 0.2 s."""

COPY_BYTES = 8 << 20
"""A range of what is read from end to end: few requests, and little to ask for again."""

_PLACES = 4
"""Ranges that are kept: enough for the columns of most readers, and 20 MiB at most."""


def look_up(fs: Any, path: str, place: str) -> dict[str, Any]:
    """What a store knows of an object, at this moment or at its last listing.

    Args:
        fs: fsspec's file system.
        path: in it.
        place: URL, for messages.

    Raises:
        FileNotFoundError: there is none.
        UserError: not allowed, or no answer before the deadline.
    """
    found: dict[str, Any] = repeated(
        lambda: fs.info(path), place, request_seconds=REQUEST_SECONDS, deadline_seconds=DEADLINE_SECONDS
    )
    if found.get("type", "file") != "file" or found.get("size") is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", place)
    return found


def find(
    fs: Any,
    path: str,
    place: str,
    maxdepth: int | None = None,
    *,
    request_seconds: float = LISTING_SECONDS,
    deadline_seconds: float = 2 * LISTING_SECONDS,
) -> dict[str, dict[str, Any]]:
    """All files below a path, or at it: path -> what the store knows.

    Args:
        fs: fsspec's file system.
        path: in it.
        place: URL, for messages.
        maxdepth: names below the path.
        request_seconds: see `repeated`; less than the default where few files are expected.
        deadline_seconds: likewise.

    Raises:
        FileNotFoundError: nothing there, on some stores.
        UserError: as `look_up`; never a listing with parts left out.
    """

    def found() -> dict[str, dict[str, Any]]:
        fs.invalidate_cache(path)
        try:
            # fsspec's own walk would leave out the folders that it could not list
            return dict(fs.find(path, maxdepth=maxdepth, detail=True, on_error="raise"))
        except TypeError:  # a client that lists without a walk, and has no such argument
            return dict(fs.find(path, maxdepth=maxdepth, detail=True))

    return repeated(found, place, request_seconds=request_seconds, deadline_seconds=deadline_seconds)


def download(file: "RemoteFile", target: Path) -> None:
    """Copy an object to a local file.

    Raises:
        OSError: the local disk.
        EOFError, FileNotFoundError, UserError: see `RemoteFile`.
    """
    with target.open("wb") as local:
        while chunk := file.read(COPY_BYTES):
            local.write(chunk)


class RemoteFile(io.RawIOBase):
    """See the module.

    Args:
        fs: fsspec's file system.
        path: in it.
        size: of the object, in bytes.
        place: URL, for messages.
        ahead: bytes that are read ahead.

    Reading raises:
        FileNotFoundError: the object is gone.
        EOFError: it is no longer of this size.
        UserError: not allowed, no ranges to be had, or no answer before the deadline.
    """

    def __init__(self, fs: Any, path: str, size: int, place: str, *, ahead: int = 0) -> None:
        super().__init__()
        self._fs, self._path, self._place, self._ahead = fs, path, place, ahead
        self.size = size
        self._position = 0
        self._held: OrderedDict[int, bytes] = OrderedDict()  # by their start, the last read last

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is read."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, fewer at the end of the object only."""
        start = min(self._position, self.size)
        stop = self.size if size is None or size < 0 else min(self.size, start + size)
        parts = []
        while start < stop:
            part = self._part(start, stop)
            parts.append(part)
            start += len(part)
        self._position += sum(map(len, parts))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        """As `read`, into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Forget what is held."""
        self._held.clear()
        super().close()

    def _part(self, start: int, stop: int) -> bytes:
        """Some bytes from `start` on: what is held of them, else what comes."""
        for first, data in self._held.items():
            if first <= start < first + len(data):
                if stop >= first + len(data):
                    del self._held[first]
                else:
                    self._held.move_to_end(first)
                return data[start - first : stop - first]
        end = min(self.size, stop + self._ahead)
        data = self._fetch(start, end)
        if end > stop:
            self._held[start] = data
            if len(self._held) > _PLACES:
                self._held.popitem(last=False)
            return data[: stop - start]
        return data

    def _fetch(self, start: int, end: int) -> bytes:
        def fetch() -> bytes:
            try:
                data = cast(bytes, self._fs.cat_file(self._path, start=start, end=end))
            except Exception as error:
                if getattr(error, "errno", None) == errno.EINVAL or "range" in str(error).lower():
                    self._check_size()  # stores refuse a range that lies beyond the end
                raise
            if len(data) != end - start:
                if len(data) == self.size:
                    raise StoreError(
                        f"{redacted(self._place)}: this server gives no ranges of a file; copy it to a disk or a store"
                    )
                self._check_size()
                raise OSError(errno.EIO, f"{len(data):,} of {end - start:,} bytes came")
            return data

        return repeated(fetch, self._place, request_seconds=REQUEST_SECONDS, deadline_seconds=DEADLINE_SECONDS)

    def _check_size(self) -> None:
        self._fs.invalidate_cache(self._path)
        size = self._fs.info(self._path).get("size")
        if size is not None and size != self.size:
            raise EOFError(f"has {size:,} bytes, had {self.size:,} before: it changed while it was read")
