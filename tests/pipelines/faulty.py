"""An object store with bad minutes: `faulty://` and an absolute path, over the local files there.

What goes wrong is drawn by seed, operation, name and how often it was called with these arguments, so that every run
of one process meets the same faults. `FAULTY` in the environment says what (see `Faults`) and reaches all processes
of a job; `installed` makes the protocol known to them by an entry point of its own on PYTHONPATH, as the package of a
real store does it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem
from packages import leave_package

KINDS = ("error", "lost", "timeout", "slow", "short", "wrong", "partial", "silent", "lag")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong.

    Attributes:
        seed: of the draws.
        rates: kind -> share of the calls that it may befall. error: 503; lost: a connection; timeout; slow: an answer
            after 20 ms; short: half of a range; wrong: one flipped bit, the first time only; partial: half of an
            upload and an error; silent: half of an upload and no error; lag: a listing without its last file.
        where: only paths that match.
        wrong_where: only these get wrong bytes: those that a digest is known of.
        vanished: paths of objects that are listed and not there.
        hang: paths of objects whose reads never end.
        log: a file that gets a line for each call, "kind operation path".
    """

    seed: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    where: str = ""
    wrong_where: str = ""
    vanished: str = "$^"
    hang: str = "$^"
    log: str = ""

    def __post_init__(self) -> None:
        assert set(self.rates) <= set(KINDS)


class FaultyFileSystem(AbstractFileSystem):
    """See the module."""

    protocol = "faulty"
    _calls: ClassVar[Counter[tuple[object, ...]]] = Counter()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._files = LocalFileSystem(auto_mkdir=True)

    def _fault(self, operation: str, path: str, kinds: tuple[str, ...], *details: object) -> str:
        """The fault that befalls a call, the empty string for none; what is common to all operations is done here."""
        path = self._strip_protocol(path)
        faults = Faults(**json.loads(os.environ.get("FAULTY", "{}")))
        key = (operation, path, *details)
        number = self._calls[key]
        self._calls[key] += 1
        place = "/".join(path.split("/")[-2:])  # without the folder of the test, which has another name each time
        kind = _drawn(faults, ("error", "lost", "timeout", "slow", *kinds), f"{operation} {place} {details}", number)
        if kind == "wrong" and (number or not re.search(faults.wrong_where, path)):
            kind = ""
        if not re.search(faults.where, path):
            kind = ""
        if faults.log:
            with Path(faults.log).open("a") as log:
                log.write(f"{kind or '-'} {operation} {path}\n")
        if re.search(faults.vanished, path):
            raise FileNotFoundError(path)
        if re.search(faults.hang, path):
            threading.Event().wait()  # which no test has patched
        if kind == "error":
            raise OSError(errno.EBUSY, "503 Please reduce your request rate")
        if kind == "lost":
            raise ConnectionResetError("lost")
        if kind == "timeout":
            raise TimeoutError("no answer")
        if kind == "slow":
            threading.Event().wait(0.02)
        return kind

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        self._fault("info", path, ())
        info: dict[str, Any] = self._files.info(self._strip_protocol(path))
        return {**info, "ETag": f'"{info["mtime"]}"'}

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        kind = self._fault("ls", path, ("lag",))
        found = sorted(self._files.ls(self._strip_protocol(path), detail=True), key=lambda info: info["name"])
        if kind == "lag" and found and found[-1]["type"] == "file":
            del found[-1]
        return [{**info, "ETag": f'"{info["mtime"]}"'} if detail else info["name"] for info in found]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        kind = self._fault("cat", path, ("short", "wrong"), start, end)
        data: bytes = self._files.cat_file(self._strip_protocol(path), start, end)
        if kind == "short":
            return data[: len(data) // 2]
        if kind == "wrong" and data:
            middle = len(data) // 2
            return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        return data

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        assert mode == "rb", "nothing is opened for writing on a store"
        return self._files.open(self._strip_protocol(path), mode)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        kind = self._fault("put", rpath, ("partial", "silent"))
        target = Path(self._strip_protocol(rpath))
        target.parent.mkdir(parents=True, exist_ok=True)
        data = Path(lpath).read_bytes()
        whole = target.with_name(f".{os.getpid()}-{target.name}")  # objects appear at once
        whole.write_bytes(data[: len(data) // 2] if kind in ("partial", "silent") else data)
        shutil.move(whole, target)
        if kind == "partial":
            raise OSError(errno.EIO, "the connection broke")

    def rm_file(self, path: str) -> None:
        self._fault("rm", path, ())
        Path(self._strip_protocol(path)).unlink()


def _drawn(faults: Faults, kinds: tuple[str, ...], key: str, number: int) -> str:
    draw = hashlib.blake2b(f"{faults.seed} {number} {key}".encode(), digest_size=8).digest()
    share = int.from_bytes(draw) / 2**64
    for kind in kinds:
        share -= faults.rates.get(kind, 0.0)
        if share < 0:
            return kind
    return ""


@contextmanager
def installed(folder: Path, faults: Faults) -> Iterator[None]:
    """The protocol is known and the faults happen, in this process and those that it starts.

    Args:
        folder: an empty one.
        faults: that happen.
    """
    leave_package(folder, "faulty", "[fsspec.specs]\nfaulty = faulty:FaultyFileSystem\n")
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    FaultyFileSystem._calls.clear()
    with pytest.MonkeyPatch.context() as patch:
        before = os.environ.get("PYTHONPATH")
        here = str(Path(__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), here, *([before] if before else [])]))
        patch.setenv("FAULTY", json.dumps(asdict(faults)))
        yield


def met(faults: Faults) -> Counter[str]:
    """How often each kind of fault happened, by the log; "-" for none."""
    return Counter(line.partition(" ")[0] for line in Path(faults.log).read_text().splitlines())
