"""The temporary folder of this process, for what lies on an object store and must pass through a local file.

It is made in TMPDIR when it is first needed, deleted when the process ends, and locked as long as it lives: what a
killed process left is known by its free lock and deleted by the next that needs one, also in another container. It
gets its name when it is locked, so that nobody takes a new one for a left one.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import uuid
from functools import cache
from pathlib import Path

_PREFIX = "proxy-compression-"
_LOCK = "lock"


@cache
def process_folder() -> Path:
    """The folder; the same in all threads.

    Raises:
        OSError: it cannot be made.
    """
    place = Path(tempfile.gettempdir())
    _sweep(place)
    made = Path(tempfile.mkdtemp(prefix=f"new-{_PREFIX}"))
    lock = os.open(made / _LOCK, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = made.rename(place / f"{_PREFIX}{uuid.uuid4().hex}")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:
            continue  # another user's, or just being deleted
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its process lives
        finally:
            os.close(lock)
