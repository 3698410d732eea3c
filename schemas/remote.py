"""Places behind URLs: which locations are some, their fsspec file systems, and calls that survive a bad minute."""

import errno
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import fsspec
from fsspec.registry import known_implementations

from schemas.errors import UserError

T = TypeVar("T")

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

_TRANSIENT = {"aiohttp", "botocore", "aiobotocore", "gcsfs", "google", "requests", "urllib3", "fsspec"}
"""Packages whose exceptions mean that the network or the store failed, beside OSError."""

_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Of this machine's disk, which a transfer writes to: trying again does not help."""

_LONGEST_PAUSE = 15.0


def is_remote(location: str) -> bool:
    """Whether this is a URL for fsspec rather than a local path."""
    return _URL.match(location) is not None


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it; cached per process by fsspec.

    Raises:
        UserError: an unknown protocol, or one whose package is not installed, with the command that installs it.
    """
    match = _URL.match(url)
    protocol = match.group(1).lower() if match else "file"
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        if protocol in _EXTRAS:
            remedy = f"pip install 'proxy-compression[{_EXTRAS[protocol]}]'"
        else:
            remedy = str(known_implementations.get(protocol, {}).get("err", error))
        raise UserError(f"{url}: the package for {protocol}:// is not installed; {remedy}") from None
    except ValueError as error:
        raise UserError(f"{url}: not a URL that fsspec can open ({error})") from None
    return fs, str(path)


def repeated(call: Callable[[], T], place: str, *, request_seconds: float, deadline_seconds: float) -> T:
    """What a remote call gives, tried again with growing pauses after what a network or a store does on a bad day.

    Args:
        call: may be made several times; one without an answer is left behind in its thread.
        place: path or URL, for messages.
        request_seconds: without an answer that count as lost.
        deadline_seconds: of all tries together.

    Raises:
        FileNotFoundError: nothing there.
        OSError: this machine's disk is full.
        UserError: not allowed, or no answer before the deadline.
    """
    end = time.monotonic() + deadline_seconds
    pause = 0.5
    while True:
        try:
            return within(min(request_seconds, max(1.0, end - time.monotonic())), call)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:  # whatever is not known to be transient is raised again
            if not _is_transient(error):
                if getattr(error, "errno", None) in _LOCAL:
                    raise
                if isinstance(error, OSError):
                    raise UserError(f"{place}: refused ({error})") from None
                raise
            if time.monotonic() + pause > end:
                text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise UserError(f"{place}: no answer within {deadline_seconds:.0f} s of trying ({text})") from None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call gives, in a thread of its own, left behind when it takes too long.

    Raises:
        TimeoutError: no answer.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            answers.put((None, error))

    threading.Thread(target=work, daemon=True, name="remote").start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(errno.ETIMEDOUT, f"no answer for {seconds:.0f} s") from None
    if error is not None:
        raise error
    return cast(T, answer)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _FINAL) or getattr(error, "errno", None) in _LOCAL:
        return False
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSIENT
