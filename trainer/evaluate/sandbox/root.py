"""The file system that a confined program sees: an interpreter and its libraries, read-only, and one tmpfs to write to.

It is built up rather than masked: a new root holds only what is named here, so homes, temporary files, credentials,
sockets of services, /proc and /sys are not there to be read. All mounts are of a mount namespace, and gone with it.
"""

import os
from collections.abc import Sequence

from trainer.evaluate.sandbox import kernel

WORK = "/tmp"
"""The one writable place."""

_LIBRARIES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FILES = ("/etc/ld.so.cache", "/etc/localtime")
"""Where the loader finds libraries, and the zone."""
_DEVICES = ("null", "full", "random", "urandom")
"""Not zero: shared mappings of it are memory that no limit counts."""
_BASES = ("/mnt", "/media", "/srv", "/opt", "/sys")
"""Directories of nearly every Linux system; the first one that holds nothing that is wanted is built on."""


def enter(readable: Sequence[str], writable_bytes: int) -> int:
    """Change to the new root, with WORK as the working directory.

    Args:
        readable: directories of the interpreter, absolute.
        writable_bytes: room in WORK.

    Returns:
        A descriptor of /proc of this process namespace, which no path leads to.

    Raises:
        OSError: the system refuses.
    """
    wanted = [*_LIBRARIES, *readable]
    base = next(base for base in _BASES if os.path.isdir(base) and not any(_inside(path, base) for path in wanted))  # noqa: PTH112
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("tmpfs", base, "tmpfs", kernel.NO_SUID | kernel.NO_DEVICES, "mode=755,size=1m,nr_inodes=4096")
    os.mkdir(f"{base}{WORK}")  # noqa: PTH102 - this module wants few imports: it runs once a program
    kernel.mount(  # before what is shown: an interpreter may lie in there
        "tmpfs", f"{base}{WORK}", "tmpfs", kernel.NO_SUID | kernel.NO_DEVICES,
        f"mode=777,size={writable_bytes},nr_inodes=4096",
    )  # fmt: skip
    for path in sorted(set(wanted)):
        if not any(_inside(path, other) for other in wanted if other != path):
            _show(base, path)
    for path in (*_FILES, *(f"/dev/{name}" for name in _DEVICES)):
        _show(base, path)
    os.mkdir(f"{base}/proc")  # noqa: PTH102
    kernel.mount("proc", f"{base}/proc", "proc", kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_EXEC)
    processes = os.open(f"{base}/proc", os.O_RDONLY | os.O_DIRECTORY)
    kernel.unmount(f"{base}/proc")
    os.symlink(WORK, f"{base}/dev/shm")  # noqa: PTH211
    _seal(base)
    kernel.pivot(base)
    os.chdir(WORK)
    return processes


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _show(base: str, path: str) -> None:
    """Make a path of the old root be seen at the same path of the new one."""
    if not os.path.lexists(path):
        return
    target = base + path
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.islink(path) and path in _LIBRARIES:  # noqa: PTH114 - /lib leads to usr/lib
        os.symlink(os.readlink(path), target)  # noqa: PTH115, PTH211
        return
    if os.path.isdir(path):  # noqa: PTH112
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
    elif not os.path.exists(path):  # noqa: PTH110
        return
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, target, flags=kernel.BIND | kernel.RECURSIVE)


def _seal(base: str) -> None:
    """The mount on the base and all that hang on it become read-only, those that came along with a directory too.

    All but the one writable place.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        lines = [line.split(" ") for line in file]
    # other mounts may lie unseen below the base: these hang on the mount that is last on it
    tree = {next(words[0] for words in reversed(lines) if _plain(words[4]) == base): base}
    for words in lines:
        if words[1] in tree:
            tree[words[0]] = _plain(words[4])
    for point in tree.values():
        if point == f"{base}{WORK}":
            continue
        flags = kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | kernel.NO_SUID | _locked(point)
        if not point.startswith(f"{base}/dev/"):  # devices must stay some
            flags |= kernel.NO_DEVICES
        kernel.mount("none", point, flags=flags)


def _locked(point: str) -> int:
    """Flags of a mount that a user namespace must not take away; statvfs has them in the same bits as mount."""
    had = os.statvfs(point).f_flag
    kept = had & (kernel.NO_DEVICES | kernel.NO_EXEC)
    for seen, flag in (
        (0x400, 0x400),
        (0x800, 0x800),
        (0x1000, 0x20_0000),
    ):  # no access times: at all, of folders, relative
        kept |= flag if had & seen else 0
    return kept


def _plain(path: str) -> str:
    r"""A path as mountinfo writes it, \040 for a space."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
