"""The temporary folder of this process, for what lies on an object store and must pass through a local file.

It is made in TMPDIR when it is first needed, deleted when the process ends, and locked as long as it lives: what a
killed process left is known by its free lock and deleted by the next that needs one, also in another container.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
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
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:
            continue  # another user's, or just being made
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its process lives
        finally:
            os.close(lock)
