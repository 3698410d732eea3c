"""What must be the same on every machine of a job, so that a unit gives the same bytes wherever it runs.

The driver hands its own environment to the workers with their work, and each compares before its first unit.
"""

import hashlib
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("schemas", "pipelines", "compressor_model")
_LIBRARIES = ("numpy", "pyarrow", "apache-beam")


@cache
def environment() -> dict[str, str]:
    """Versions of Python and of the libraries that a shard's bytes and the way to the workers hang on; our sources."""
    libraries = {name: version(name) for name in _LIBRARIES}
    return {"Python": f"{sys.version_info.major}.{sys.version_info.minor}", **libraries, "this program": _sources()}


def difference(expected: dict[str, str]) -> str:
    """How this process differs from an environment, in words; empty if it does not."""
    here = environment()
    return ", ".join(f"{name} {here.get(name)} instead of {wanted}" for name, wanted in expected.items()
                     if here.get(name) != wanted)  # fmt: skip


def _sources() -> str:
    """First 12 digits of the SHA-256 over our source files, by name."""
    root = Path(__file__).parents[2]
    state = hashlib.sha256()
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        state.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return state.hexdigest()[:12]
