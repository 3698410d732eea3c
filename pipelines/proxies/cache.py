"""The cache of what is trained: a second dataset of a corpus, or a resumed one, does not train again."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.temporary import process_folder
from schemas.digests import digest_of

Report = Callable[[str], None]
"""Called with a line for people."""


def place(kind: str, key: dict[str, Any]) -> Path:
    """Where the result of this kind and key lies, if it was made."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "proxy-compression" / f"{kind}-{digest_of(key)[:16]}"


def beside(path: Path, report: Report) -> Path:
    """A name to write to before it is renamed to `path`; without a cache one that is deleted with this process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    except OSError as error:
        report(f"{path.parent}: no cache ({error.strerror}); what is trained now will be trained again the next time")
        return process_folder() / path.name


def settle(temp: Path, path: Path) -> Path:
    """Rename to the place in the cache; where another job was first, its result is as good."""
    if temp.name == path.name:
        return temp
    try:
        temp.rename(path)
    except OSError:
        if not path.exists():
            return temp
        shutil.rmtree(temp, ignore_errors=True)
    return path
