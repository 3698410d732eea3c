"""The bytes of one input file: opened, decompressed, bounded, with damage told apart from bad luck.

Owns `InputFile` (what the listing knows of a file), `open_input` (a seekable binary file, local or remote, opened
in the process that reads it) and `read_chunks` (its decompressed bytes, at most 1 MiB at a time). An input that
is missing, changed, damaged or a decompression bomb raises `InputError`, which readers turn into one reject;
anything else (memory, file handles, a store that gives no answer for minutes) passes through, because a retry gives
those documents and a reject loses them for ever. Costs: local files are read at memory speed, gzip about 380, zstd
900, xz 100 MB/s of output; a remote file one HEAD (in half a minute) and one GET for each 1 to 5 MiB that is read.
"""

import errno
import gzip
import hashlib
import io
import lzma
import os
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa

from pipelines.remote_file import RemoteFile, look_up
from schemas.errors import UserError
from schemas.remote import filesystem, is_remote, local_path
from schemas.secrets import redacted, redacted_by_form
from schemas.terminal import visible

FileFormat = Literal["text", "jsonl", "parquet"]
Compression = Literal["", "gzip", "zstd", "xz"]

CHUNK_BYTES = 1 << 20
COMPRESSED_CHUNK_BYTES = 1 << 18
"""Of output; smaller, since what a damaged file still gave of the current chunk is lost."""

_XZ_READ_BYTES = 1 << 16
"""Each stream copies what was read past its end: little, where there are thousands of tiny ones."""

TAIL_BYTES = 1 << 16
"""First read past the end of a byte range: enough for the rest of most lines, little for a remote store."""

XZ_MIB = 80
"""That an xz stream's decoder may take: 65 MiB is what xz -9 needs, and a header can ask for 4 GiB."""

MAX_DECOMPRESSION = 1000
"""Bytes out per byte in. deflate cannot pass 1,032, and text worth training on stays below 20."""

LOOK_SECONDS = 30.0
"""A process that looked at an object of the corpus this lately does not ask again whether it is the listed one: a unit
has many blocks of one large file."""

_ETAGS = ("ETag", "etag", "md5Hash", "generation")
_VERSIONS = (*_ETAGS, "LastModified", "last_modified", "mtime", "updated", "created")

_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
_DAMAGE_ERRNOS = (errno.EIO, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)


class InputError(Exception):
    """The input's own fault: the same again tomorrow.

    `reason` is a read reason, `detail` a line for people, `unread_bytes` what `read_chunks` had still to read of the
    file as it is stored.
    """

    def __init__(self, reason: Literal["unreadable", "decompression-bomb"], detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.unread_bytes = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One file of the corpus as it was listed.

    Attributes:
        root: of its corpus, a local folder or fsspec URL; enters no digest, so that a corpus may be moved.
        corpus: name of its corpus within a mix of several; empty where there is one.
        path: relative to the root, posix; bytes that are not UTF-8 as surrogate escapes, so that it opens.
        size: in bytes, as stored.
        format: how its (decompressed) bytes are read.
        compression: of the file as a whole, by its name.
        version: mtime in ns, or the etag of an object; tells changes, enters no dataset digest.
    """

    root: str
    corpus: str = ""
    path: str
    size: int
    format: FileFormat
    compression: Compression
    version: str

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not self.path or ".." in parts or self.path.startswith("/"):
            raise UserError(f"{printable(self.path)!r}: an input's path must stay below the corpus root; rename it")

    @property
    def source(self) -> str:
        """Its name in columns, draws and messages: in a mix behind its corpus's, valid UTF-8 (see `printable`).

        Without the signature of a signed URL, which is part of the path; instead with digits of its hash, since two
        names may differ in what is taken out only.
        """
        name = printable(f"{self.corpus}/{self.path}" if self.corpus else self.path)
        # By its form alone: the environment of a worker must not reach a shard.
        shown = redacted_by_form(name) if "?" in name and is_remote(self.root) else name
        if shown == name:
            return name
        return f"{shown}-{hashlib.blake2b(printable(self.path).encode(), digest_size=4).hexdigest()}"

    @property
    def extension(self) -> str:
        """Lower case, without the dot and without a compression suffix; '' if there is none."""
        name = PurePosixPath(without_query(self.root, self.path))
        if name.suffix.lower() in _COMPRESSIONS:
            name = name.with_suffix("")
        return printable(name.suffix[1:].lower())


def local_place(location: str) -> Path:
    """The path that a local specification of a corpus names.

    Raises:
        UserError: it begins with `~` and the name of no user, or can be no path.
    """
    refuse_nul(location)
    try:
        return Path(local_path(location)).expanduser()
    except RuntimeError:
        raise UserError(
            f"{printable(location)}: no home folder is known for its '~'; write the path out, with ./ before a "
            "name that begins so"
        ) from None


def refuse_nul(location: str) -> None:
    """Refuse a NUL byte, which neither paths nor URLs have and each opener refuses in its own way.

    Raises:
        UserError: there is one.
    """
    if "\0" in location:
        raise UserError(f"{visible(shown(location))}: has a NUL byte, as no path has; check the corpus path")


def without_query(root: str, path: str) -> str:
    """A path whose last suffix says what the file is: of a URL without its query, which may hold a signature."""
    return path.partition("?")[0] if is_remote(root) else path


def compression_of(path: str) -> Compression:
    """By the last suffix of the name, in any case; see `without_query`."""
    return _COMPRESSIONS.get(PurePosixPath(path).suffix.lower(), "")


def object_version(info: dict[str, Any]) -> str:
    """What tells a changed object of a store: its etag, else a time; '' where the store gives neither."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")


def shown(text: str) -> str:
    """A place or an error's text for a message: valid UTF-8, no credentials."""
    return printable(redacted(text))


def printable(text: str) -> str:
    r"""Valid UTF-8, always the same: surrogate escapes become the bytes they stand for as `\xNN`.

    Lone surrogates of another origin (JSON) become the `\xNN` of their three-byte form. Text without surrogates
    is returned as it is, backslashes included.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        data = b"".join(_surrogate_bytes(character) for character in text)
        return data.decode("utf-8", "backslashreplace")
    return text


def _surrogate_bytes(character: str) -> bytes:
    handler = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return character.encode("utf-8", handler)


def open_input(file: InputFile, *, block_bytes: int = 4 * CHUNK_BYTES) -> BinaryIO:
    """A seekable binary file of the stored bytes of an input.

    Args:
        file: the input.
        block_bytes: read-ahead of remote files.

    Raises:
        InputError: the file is missing, may not be read, or is an object that has changed since the listing.
        UserError: a store refuses, or gives no answer before the deadline.
    """
    with input_errors(file.root):
        if not is_remote(file.root):
            return Path(file.root, file.path).open("rb", buffering=0)
        fs, base = filesystem(file.root)
        path = f"{base.rstrip('/')}/{file.path}"
        place = f"{file.root.rstrip('/')}/{printable(file.path)}"
        _check_version(fs, path, place, file)
        return cast(BinaryIO, RemoteFile(fs, path, file.size, place, ahead=block_bytes))


_looked_at: dict[tuple[str, str, str], float] = {}
"""When this process looked at an object, by root, path and version, in the order of time."""

_looking = threading.Lock()


def _check_version(fs: Any, path: str, place: str, file: InputFile) -> None:
    """Whether an object is the listed one.

    Raises:
        InputError: it has another size or etag.
        FileNotFoundError: it is gone.
    """
    now = time.monotonic()
    key = (file.root, file.path, file.version)
    if now - _looked_at.get(key, -LOOK_SECONDS) < LOOK_SECONDS:
        return
    info = look_up(fs, path, place)
    if info["size"] != file.size:
        raise InputError("unreadable", f"has {info['size']:,} bytes, had {file.size:,} when the corpus was listed")
    # Times differ in form between a listing and this; etags in their quotes.
    known = {str(info[name]).strip('"') for name in _VERSIONS if info.get(name)}
    if file.version and any(info.get(name) for name in _ETAGS) and file.version.strip('"') not in known:
        raise InputError("unreadable", "changed since the corpus was listed")
    with _looking:
        _looked_at.pop(key, None)
        _looked_at[key] = now
        while now - _looked_at[oldest := next(iter(_looked_at))] >= LOOK_SECONDS:
            del _looked_at[oldest]


@contextmanager
def input_errors(root: str) -> Iterator[None]:
    """Turns what is the input's fault into `InputError` and lets everything else pass.

    On a remote store an I/O error is the network's; only a missing or changed object and damaged content are the
    input's.
    """
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeDecodeError) as error:
        if isinstance(error, MemoryError):  # ArrowMemoryError is both
            raise
        raise InputError("unreadable", _one_line(error)) from None
    except OSError as error:
        local = not is_remote(root) and error.errno in _DAMAGE_ERRNOS
        # gzip and Arrow raise OSErrors without a number, Arrow no other class; those of stores end in `RemoteFile`
        decoder = error.errno is None and type(error) in (OSError, gzip.BadGzipFile)
        if not (local or decoder or isinstance(error, FileNotFoundError)):
            raise
        raise InputError("unreadable", _one_line(error)) from None


def _one_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"  # the text of stores names the root, which no dataset should depend on
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = shown(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:300]}"


def read_chunks(file: InputFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The decompressed bytes of an input from `start` to its end, in chunks; closed when the iterator is.

    Args:
        file: the input.
        start: first byte; 0 for a compressed file.
        stop: where the caller will probably stop; reads end there and go on in small steps. None: at the end.

    Raises:
        InputError: missing, not of the listed size, truncated, damaged, or a decompression bomb.
    """
    block_bytes = 4 * CHUNK_BYTES if stop is None else CHUNK_BYTES // 4
    position = start
    try:
        with input_errors(file.root), open_input(file, block_bytes=block_bytes) as stored:
            check_size(stored, file)
            stored.seek(start)
            plain = _plain(stored, file, start, file.size if stop is None else stop)
            for chunk in _decompressed(stored, file) if file.compression else plain:
                position = stored.tell()
                yield chunk
    except InputError as error:
        error.unread_bytes = max(0, file.size - position)
        raise


def copy_head(file: InputFile, target: BinaryIO, stored_bytes: int, most: int) -> int:
    """Write the first decompressed bytes of an input to a file, until enough of it is read or written.

    Args:
        file: the input.
        target: where to.
        stored_bytes: of the input, that are enough.
        most: bytes to write.

    Returns:
        Stored bytes that were read; decoders read up to 128 KiB ahead.

    Raises:
        InputError: as `read_chunks`.
    """
    with input_errors(file.root), open_input(file, block_bytes=CHUNK_BYTES // 4) as stored:
        check_size(stored, file)
        left, position = most, 0
        for chunk in _decompressed(stored, file) if file.compression else _plain(stored, file, 0, file.size):
            target.write(chunk[:left])
            left -= len(chunk)
            position = stored.tell()  # here, as Arrow's stream closes the file at its end
            if left <= 0 or position >= stored_bytes:
                break
    return position


def check_size(stored: BinaryIO, file: InputFile) -> None:
    """A file that has grown or shrunk no longer has the byte ranges of the plan.

    Raises:
        InputError: another size than listed.
    """
    size = getattr(stored, "size", None)  # of an object; its version was compared when it was opened
    version = file.version
    if size is None:
        status = os.fstat(stored.fileno())
        size, version = status.st_size, str(status.st_mtime_ns)
    if size != file.size:
        raise InputError("unreadable", f"has {size:,} bytes, had {file.size:,} when the corpus was listed")
    if file.version.isdecimal() and version != file.version:
        raise InputError("unreadable", "changed since the corpus was listed")


def refuse_encrypted(metadata: Any, stored: BinaryIO) -> None:
    """Refuse a file with a signed footer, which is one with encrypted columns.

    Whoever asks Arrow for such a column's metadata ends the process: it throws where Python cannot catch.

    Args:
        metadata: of the file.
        stored: the file itself; its position is kept.

    Raises:
        InputError: there is more in its footer than the metadata.
    """
    position = stored.tell()
    stored.seek(-8, io.SEEK_END)
    length = int.from_bytes(stored.read(4), "little")
    stored.seek(position)
    if length != metadata.serialized_size:
        raise InputError("unreadable", "a Parquet file with encrypted columns; decrypt it first")


def _plain(stored: BinaryIO, file: InputFile, position: int, stop: int) -> Iterator[bytes]:
    tail = TAIL_BYTES
    while position < file.size:
        if position < stop:
            wanted = min(CHUNK_BYTES, stop - position)
        else:
            wanted, tail = tail, min(CHUNK_BYTES, 2 * tail)
        chunk = stored.read(wanted)
        if not chunk:
            raise EOFError(f"ended at byte {position:,} of {file.size:,}")
        position += len(chunk)
        yield chunk


def _decompressed(stored: BinaryIO, file: InputFile) -> Iterator[bytes]:
    if not file.size:  # gzip's and zstd's readers take it for finished; more likely, its writer was not
        raise InputError("unreadable", f"empty: no {file.compression} data")
    count = 0
    for chunk in _decoded(stored, file.compression):
        count += len(chunk)
        check_expansion(count, file)
        yield chunk


def check_expansion(count: int, file: InputFile) -> None:
    """Stops a decompression bomb.

    Args:
        count: bytes that were read from the file, decoded.
        file: the input.

    Raises:
        InputError: more than `MAX_DECOMPRESSION` times its stored size.
    """
    if count > MAX_DECOMPRESSION * file.size:
        detail = f"more than {MAX_DECOMPRESSION:,} bytes from each of its {file.size:,} stored bytes"
        raise InputError("decompression-bomb", detail)


def _decoded(stored: BinaryIO, compression: Compression) -> Iterator[bytes]:
    if compression == "xz":
        yield from _xz_chunks(stored)
        return
    # Arrow's reader and not zstandard's: the latter takes a truncated frame for a finished one.
    stream: Any = (
        gzip.GzipFile(fileobj=stored)
        if compression == "gzip"
        else pa.CompressedInputStream(pa.PythonFile(stored, "r"), "zstd")
    )
    with stream:
        while chunk := stream.read(COMPRESSED_CHUNK_BYTES):
            yield bytes(chunk)


def _xz_chunks(stored: BinaryIO) -> Iterator[bytes]:
    """Stream after stream; not LZMAFile, which takes a damaged one for trailing data and ends without an error.

    Between and after streams there may be padding: zero bytes, a multiple of four.
    """
    data = stored.read(_XZ_READ_BYTES)
    while data:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MIB << 20)
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = stored.read(_XZ_READ_BYTES)
                if not data:
                    raise EOFError("ended within an xz stream")
            try:
                chunk = decoder.decompress(data, COMPRESSED_CHUNK_BYTES)
            except lzma.LZMAError as error:
                if "limit" not in str(error):
                    raise
                detail = f"takes more than {XZ_MIB} MiB to decompress; compress it with a dictionary of 64 MiB (xz -9)"
                raise InputError("unreadable", f"{detail} or less") from None
            data = b""
            if chunk:
                yield chunk
        padding = 0
        data = decoder.unused_data or stored.read(_XZ_READ_BYTES)
        while data.startswith(b"\0"):
            rest = data.lstrip(b"\0")
            padding += len(data) - len(rest)
            data = rest or stored.read(_XZ_READ_BYTES)
        if padding % 4:
            raise lzma.LZMAError(f"{padding:,} zero bytes after an xz stream; padding is a multiple of four")
