"""What the sandbox asks of Linux that Python's `os` does not offer: namespaces, mounts, capabilities, system calls.

By ctypes on the C library rather than by util-linux's `unshare`: the order of the steps matters (a user's map is
written by a process that stayed outside, the process table is kept by descriptor and hidden, privileges go last), no
program of another package and age is needed, and one start of an interpreter is saved.
"""

import ctypes
import errno
import os
import struct

NEW_USER, NEW_MOUNT, NEW_PID, NEW_NET, NEW_IPC, NEW_UTS = (
    0x1000_0000, 0x0002_0000, 0x2000_0000, 0x4000_0000, 0x0800_0000, 0x0400_0000,
)  # fmt: skip

READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = (
    0x1, 0x2, 0x4, 0x8, 0x20, 0x1000, 0x4000, 0x4_0000,
)  # fmt: skip

_DETACH = 2
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SECCOMP, _DROP_BOUNDING, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 4, 22, 24, 36, 38

_ARCHITECTURES = {"x86_64": (0xC000_003E, 155, 41, 9), "aarch64": (0xC000_00B7, 41, 198, 222)}
"""By machine: as seccomp names it (AUDIT_ARCH), the numbers of pivot_root, socket and mmap."""

_FORBIDDEN = {
    # memory that belongs to no process, so that no limit counts it: System V, memfd_create and memfd_secret
    "x86_64": [29, 64, 68, 319, 447],
    "aarch64": [190, 186, 194, 279, 447],
}
_FORBIDDEN["x86_64"] += [101, 310, 311]  # ptrace, process_vm_*
_FORBIDDEN["aarch64"] += [117, 270, 271]
_FORBIDDEN["x86_64"] += [165, 166, 155, 272, 308]  # mount, umount2, pivot_root, unshare, setns
_FORBIDDEN["aarch64"] += [40, 39, 41, 97, 268]
_FORBIDDEN["x86_64"] += [248, 249, 250, 298, 321, 323]  # keys, perf_event_open, bpf, userfaultfd
_FORBIDDEN["aarch64"] += [217, 218, 219, 241, 280, 282]
_NEWER = [425, 426, 427, 428, 429, 430, 431, 432, 433, 442]
"""io_uring and the newer mount calls, the same everywhere."""

_FAMILIES = (1, 2, 10)
"""Of sockets: UNIX and the internet's two. Others, as vsock to a virtual machine's host, know no network namespace."""

_SHARED, _ANONYMOUS = 0x1, 0x20
"""Flags of mmap. Memory that is both stays when no process has its pages in its own tables any more, so that the watch
would not see it."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move to new namespaces; that of processes is for children."""
    _check(_libc.unshare(flags), "new namespaces")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """Put a file system, or a part of one, at a path."""
    words = (source.encode(), os.fsencode(target), kind.encode() if kind else None)
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount on {target}")


def unmount(target: str) -> None:
    """Away from sight, though open descriptors still work."""
    _check(_libc.umount2(os.fsencode(target), _DETACH), f"unmount {target}")


def pivot(root: str) -> None:
    """A mount point becomes the root, and the old root goes."""
    os.chdir(root)
    _check(_libc.syscall(ctypes.c_long(_ARCHITECTURES[os.uname().machine][1]), b".", b"."), "pivot_root")
    unmount(".")
    os.chdir("/")


def die_with_parent(signal: int) -> None:
    """This signal comes when the parent ends; forgotten if the user changes."""
    _check(_libc.prctl(_SET_DEATH_SIGNAL, ctypes.c_ulong(signal), 0, 0, 0), "death signal")


def fix_addresses() -> None:
    """Programs started from here lie at the same addresses each time, so what hangs on `id` is the same, too."""
    _check(_libc.personality(ctypes.c_ulong(0x4_0000)), "addresses")


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process."""
    _check(_libc.prctl(_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "subreaper")


def hide_memory() -> None:
    """No process of the same user can trace this one or read its /proc."""
    _check(_libc.prctl(_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0), "dumpable")


def drop_privileges(user: int | None) -> None:
    """No capability is left, and none can be had by a program's file.

    Args:
        user: become this user and group, without other groups; None: stay who this is.
    """
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), 0, 0, 0), "no new privileges")
    number = 0
    while _libc.prctl(_DROP_BOUNDING, ctypes.c_ulong(number), 0, 0, 0) == 0:
        number += 1
    if ctypes.get_errno() != errno.EINVAL or number == 0:  # EINVAL: there is no such capability any more
        _check(-1, "capabilities")
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = struct.pack("<Ii", 0x2008_0522, 0)
    _check(_libc.capset(header, bytes(24)), "capabilities")


def restrict_calls() -> None:
    """Forbid, to this process and its children, the system calls that no limit or namespace covers: EPERM.

    Raises:
        OSError: not on this kind of processor.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    architecture, _, socket, mmap = _ARCHITECTURES[machine]
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    argument = [16 + 8 * number for number in range(6)]
    allow, deny, kill = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x8000_0000
    # (code, operand, where to if true, if false): names of places, or None for the next instruction
    steps: list[tuple[int, int, str | None, str | None]] = [
        (load, 4, None, None),
        (equal, architecture, None, "kill"),
        (load, 0, None, None),
        (at_least, 0x4000_0000, "deny", None),  # x86-64 calls in their 32-bit form have numbers of their own
        *((equal, number, "deny", None) for number in (*_FORBIDDEN[machine], *_NEWER)),
        (equal, mmap, "mmap", None),
        (equal, socket, None, "allow"),
        (load, argument[0], None, None),
        *((equal, family, "allow", None) for family in _FAMILIES),
        (at_least, 0, "deny", None),
        (load, argument[3], None, None),  # mmap
        (any_bit, _ANONYMOUS, None, "allow"),
        (any_bit, _SHARED, None, "allow"),
    ]
    places = {"mmap": len(steps) - 3, "deny": len(steps), "allow": len(steps) + 1, "kill": len(steps) + 2}
    code = b"".join(
        struct.pack("<HBBI", code, *(0 if to is None else places[to] - at - 1 for to in (yes, no)), operand)
        for at, (code, operand, yes, no) in enumerate(steps)
    )
    code += b"".join(struct.pack("<HBBI", end, 0, 0, verdict) for verdict in (deny, allow, kill))
    kept = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(kept)))
    _check(_libc.prctl(_SET_SECCOMP, ctypes.c_ulong(2), program, 0, 0), "seccomp")
