"""What the corpus is: a specification in, a sorted listing of input files out.

A specification is `stdlib` or `site-packages` (the sources of the running Python), a local file, folder or glob,
or any fsspec URL of these, or a TOML file that names several of them (`mix.py`). Folders are walked recursively; hidden
files and folders and `__pycache__` are skipped, links to folders are not followed (links to files are), whatever is no
regular file is skipped. Of datasets of ours the shards that their manifests name are listed. Nothing else is opened:
formats and compressions go by name. Costs: one stat a file, about 5 us on a local disk; remote stores are listed in
bulk. About 300 bytes of memory a file.
"""

import fnmatch
import hashlib
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, cast, get_args

from fsspec.utils import glob_translate

from pipelines.reading import mix
from pipelines.reading.dataset_listing import without_strangers
from pipelines.reading.inputs import (
    FileFormat,
    InputFile,
    compression_of,
    local_place,
    object_version,
    printable,
    refuse_nul,
    shown,
    without_query,
)
from pipelines.remote_file import DEADLINE_SECONDS, REQUEST_SECONDS, find
from schemas.errors import UserError
from schemas.remote import filesystem, is_remote, local_path, repeated

InputFormat = Literal["auto", "text", "jsonl", "parquet"]

_FORMATS: dict[str, FileFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_PYTHON_TREES = {"stdlib": "stdlib", "site-packages": "purelib"}
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_MAGIC = re.compile(r"[*?\[]")


class _Found(NamedTuple):
    path: str
    size: int
    version: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A listed corpus.

    Attributes:
        spec: as the user gave it.
        inputs: sorted by the bytes of their paths, in a mix those of one corpus after the other; never empty.
        parts: of a mix, its corpora by name; else none.
        include: of one corpus, what was asked for.
    """

    spec: str
    inputs: tuple[InputFile, ...]
    parts: tuple[mix.Part, ...] = ()
    include: tuple[str, ...] = ()

    @cached_property
    def listed_bytes(self) -> int:
        """Sum of the stored sizes."""
        return sum(file.size for file in self.inputs)

    @property
    def taken_bytes(self) -> int:
        """What is read of the listed bytes: all, but of a mix."""
        return sum(part.taken_bytes for part in self.parts) if self.parts else self.listed_bytes

    @property
    def places(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Specification, root and --include of each corpus."""
        if self.parts:
            return [(part.spec, part.root, part.include) for part in self.parts]
        return [(self.spec, self.inputs[0].root, self.include)]

    @cached_property
    def listing_digest(self) -> str:
        """SHA-256 (hex) over path, size, format and compression of each input; no times, no root.

        Of a mix also names, weights and caps.
        """
        digest = hashlib.sha256()
        counts = {part.name: part for part in self.parts}
        for file in self.inputs:
            if (part := counts.pop(file.corpus, None)) is not None:
                digest.update(f"\0\0{part.name} {part.files} {part.weight} {part.max_bytes}\0".encode())
            # no path holds a NUL byte, so this is unambiguous
            digest.update(_path_bytes(file.path) + f"\0{file.size} {file.format} {file.compression}\0".encode())
        return digest.hexdigest()


def list_corpus(spec: str, *, format: InputFormat = "auto", include: tuple[str, ...] = ()) -> Corpus:
    """Lists the inputs of a corpus.

    Args:
        spec: see the module. A name with `*`, `?` or `[` that does not exist as such is a glob, in which `**`
            stands for any folders.
        format: of every input; `auto` goes by name: .jsonl and .ndjson, .parquet, each with .gz, .zst or .xz,
            and any other file is one text document.
        include: keep only inputs whose relative path or name matches one of these patterns (`*` also crosses
            folders).

    Both hold in a mix for the corpora that do not have their own.

    Raises:
        UserError: the corpus is missing, cannot be listed, or is empty.
    """
    entries = mix.read_mix(spec)
    if entries is None:
        return _list_one(spec, format, include)
    listed = [
        _list_one(
            entry.spec,
            format if entry.format is None else cast(InputFormat, entry.format),
            include if entry.include is None else entry.include,
            entry.name,
        )
        for entry in entries
    ]
    takes = mix.takes(entries, [corpus.listed_bytes for corpus in listed])
    parts = [
        mix.Part(
            name=entry.name,
            spec=entry.spec,
            weight=entry.weight,
            max_bytes=entry.max_bytes,
            include=corpus.include,
            root=corpus.inputs[0].root,
            files=len(corpus.inputs),
            listed_bytes=corpus.listed_bytes,
            taken_bytes=taken,
        )
        for entry, corpus, taken in zip(entries, listed, takes, strict=True)
    ]
    return Corpus(spec=spec, inputs=tuple(file for corpus in listed for file in corpus.inputs), parts=tuple(parts))


def _list_one(spec: str, format: InputFormat, include: tuple[str, ...], name: str = "") -> Corpus:
    if format not in get_args(InputFormat):
        raise UserError(f"--format: {format!r} is not one of {', '.join(get_args(InputFormat))}")
    root, found = _find(spec)
    found = list(found)
    kept = without_strangers(
        spec, root, {item.path: item.size for item in found}, lambda path: is_included(path, include)
    )
    inputs = [
        InputFile(
            root=root,
            corpus=name,
            path=item.path,
            size=item.size,
            format=_format_of(without_query(root, item.path)) if format == "auto" else format,
            compression=compression_of(without_query(root, item.path)),
            version=item.version,
        )
        for item in found
        if item.path in kept and is_included(item.path, include)
    ]
    if not inputs:
        patterns = f" that match {', '.join(include)}" if include else ""
        raise UserError(
            f"{shown(spec)}: no files{patterns} in this corpus (hidden ones and __pycache__ are skipped); "
            "check the path and --include"
        )
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and not is_remote(root):
        odd = next((file for file in inputs if not file.path.isascii()), None)
        if odd is not None:  # shards would be named after it
            raise UserError(
                f"{shown(spec)}: {odd.source!r} would have another name under another locale than this one "
                f"({encoding}); run with PYTHONUTF8=1"
            )
    inputs.sort(key=lambda file: _path_bytes(file.path))
    return Corpus(spec=spec, inputs=tuple(inputs), include=include)


def _path_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _format_of(path: str) -> FileFormat:
    name = PurePosixPath(path)
    if compression_of(path):
        name = name.with_suffix("")
    return _FORMATS.get(name.suffix.lower(), "text")


def is_included(path: str, include: tuple[str, ...]) -> bool:
    """Whether --include takes a file of this path below the root."""
    name = path.rpartition("/")[2]
    return not include or any(fnmatch.fnmatchcase(path, p) or fnmatch.fnmatchcase(name, p) for p in include)


def is_skipped(name: str) -> bool:
    """Whether files and folders of this name are passed over."""
    return name.startswith(".") or name == "__pycache__"


def _find(spec: str) -> tuple[str, Iterable[_Found]]:
    if not spec:
        raise UserError("corpus: no specification given; name a file, a folder, a glob, a URL, or stdlib")
    if spec in _PYTHON_TREES:
        root = sysconfig.get_path(_PYTHON_TREES[spec])
        installed = _INSTALLED if spec == "stdlib" else frozenset()
        found = _walk(root, lambda name: is_skipped(name) or name in installed)
        return root, (item for item in found if item.path.endswith(".py"))
    refuse_nul(spec)
    return _find_remote(spec) if is_remote(spec) else _find_local(local_path(spec))


def _find_local(spec: str) -> tuple[str, Iterable[_Found]]:
    path = local_place(spec).absolute()
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not _MAGIC.search(spec):
            raise UserError(f"{shown(spec)}: no such file or folder; check the corpus path") from None
        root, pattern = _split_glob(path.as_posix())
        if not Path(root).is_dir():
            raise UserError(f"{shown(root)}: no such folder; check the corpus path") from None
        return root, _matching(_walk(root, is_skipped, _depth(pattern)), pattern, spec)
    except OSError as error:
        raise UserError(f"{shown(spec)}: cannot be read ({error.strerror}); check the corpus path") from None
    if stat.S_ISDIR(status.st_mode):
        return str(path), _walk(str(path), is_skipped)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown(spec)}: neither a regular file nor a folder; copy it to a file first")
    return str(path.parent), [_Found(path.name, status.st_size, str(status.st_mtime_ns))]


def _walk(root: str, skip: Callable[[str], bool], depth: int | None = None) -> Iterator[_Found]:
    """Regular files below a local folder, not deeper than `depth` names."""
    prefix = len(root.rstrip("/")) + 1
    pending = [(root, 1)]
    while pending:
        folder, level = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if skip(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if depth is None or level < depth:
                            pending.append((entry.path, level + 1))
                        continue
                    if entry.is_symlink() and not Path(entry.path).is_file():
                        continue  # to a folder, or to nothing
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield _Found(entry.path[prefix:], status.st_size, str(status.st_mtime_ns))
        except OSError as error:
            raise UserError(
                f"{printable(folder)}: cannot be listed ({error.strerror}); make it readable, or leave it out"
            ) from None


def _find_remote(spec: str) -> tuple[str, Iterable[_Found]]:
    if "::" in spec:
        raise UserError(
            f"{shown(spec)}: chained URLs are not supported; unpack the archive, or name its files' own URL"
        )
    fs, path = filesystem(spec)
    pattern = ""
    try:
        fs.invalidate_cache()
        try:
            info = repeated(
                lambda: fs.info(path), spec, request_seconds=REQUEST_SECONDS, deadline_seconds=DEADLINE_SECONDS
            )
            if info["type"] == "file":
                root, name = _split_before(spec, len(spec))
                return root, [_remote_found(name, info, spec)]
            root = spec
        except FileNotFoundError:
            if not _MAGIC.search(spec):
                raise UserError(f"{shown(spec)}: no such file or folder; check the URL") from None
            root, pattern = _split_glob(spec)
            path = filesystem(root)[1]
        listing = find(fs, path, spec, _depth(pattern) if pattern else None)
    except UserError:
        raise
    except Exception as error:  # each store's client has its own exceptions; all mean that there is no listing
        raise UserError(
            f"{shown(spec)}: cannot be listed ({type(error).__name__}: {shown(str(error))}); check the URL and the "
            "credentials"
        ) from error
    prefix = path.rstrip("/") + "/"
    found = [_remote_found(name.removeprefix(prefix), info, spec) for name, info in listing.items() if name[-1] != "/"]
    visible = (item for item in found if not any(is_skipped(part) for part in item.path.split("/")))
    return root, _matching(visible, pattern, spec) if pattern else visible


def _remote_found(path: str, info: dict[str, Any], spec: str) -> _Found:
    size = info.get("size")
    if size is None:
        raise UserError(f"{shown(spec)}: {path} has no known size on this server; copy it to a file or an object store")
    return _Found(path, int(size), object_version(info))


def _split_glob(location: str) -> tuple[str, str]:
    """The folder before the first name with magic, and the pattern below it."""
    magic = _MAGIC.search(location)
    return _split_before(location, magic.start() if magic else len(location))


def _split_before(location: str, position: int) -> tuple[str, str]:
    cut = location.rindex("/", 0, position) + 1
    whole_store = cut == 1 or location[:cut].endswith("://")
    return location[: cut if whole_store else cut - 1], location[cut:]


def _depth(pattern: str) -> int | None:
    return None if "**" in pattern else pattern.count("/") + 1


def _matching(found: Iterable[_Found], pattern: str, spec: str) -> Iterator[_Found]:
    try:
        expression = re.compile(glob_translate(pattern))
    except (ValueError, re.error) as error:
        raise UserError(f"{shown(spec)}: not a pattern ({error}); '**' must stand alone between slashes") from None
    return (item for item in found if expression.match(item.path))
