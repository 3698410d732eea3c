"""Places behind URLs: which locations are some, their fsspec file systems, and calls that survive a bad minute."""

import errno
import queue
import re
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar, cast

import fsspec
from fsspec.registry import known_implementations

from schemas.errors import UserError, one_line
from schemas.secrets import holds_password, redacted

T = TypeVar("T")

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL_URL = re.compile(r"(?:file|local)://", re.IGNORECASE)

_TRANSIENT = {
    "adlfs", "aiobotocore", "aiohttp", "asyncio", "azure", "botocore", "fsspec", "gcsfs", "google", "http", "requests",
    "urllib3",
}  # fmt: skip
"""Packages whose exceptions mean that the network or the store failed, beside OSError."""

_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_REFUSALS = {
    "ConfigParseError",
    "DefaultCredentialsError",
    "InvalidRegionError",
    "NoCredentialsError",
    "ParamValidationError",
    "PartialCredentialsError",
    "ProfileNotFound",
}
"""By name, since their packages may not be installed: no credentials, or settings or a name that no store takes."""
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Of this machine's disk, which a transfer writes to: trying again does not help."""

_DOUBTFUL = (errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG, errno.EREMCHG, errno.EMSGSIZE)
"""A store says so of a name that it will never take, of a bucket elsewhere, of an object that is too large, and also of
a request that was damaged on its way."""

_DOUBTFUL_TRIES = 3

_LONGEST_PAUSE = 15.0


_MAY_PASS = (408, 429)
"""Of the HTTP statuses 4xx; the others are refusals."""


class StoreError(UserError):
    """A file of a store cannot be had, for a reason that says nothing about the file: no answer, a refusal, no room."""


class _Retries:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0


_retries = _Retries()


def is_remote(location: str) -> bool:
    """Whether this is a URL for fsspec rather than a local path or the URL of one (file:// or local://)."""
    return _URL.match(location) is not None and _LOCAL_URL.match(location) is None


def local_path(location: str) -> str:
    """A local path as it is, or the path in a file:// or local:// URL."""
    return _LOCAL_URL.sub("", location, count=1)


def retries_made() -> int:
    """How many remote calls this process has made again so far, in all its threads."""
    with _retries.lock:
        return _retries.count


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it; cached per process by fsspec.

    Call it outside of `repeated`: fsspec makes a client for each thread.

    Raises:
        UserError: an unknown protocol, one whose package is not installed, with the command that installs it, a
            password in the URL, or settings that its client cannot start with.
    """
    if holds_password(url):
        raise UserError(
            f"{redacted(url)}: a URL must not hold a password, which lists of processes and messages show; give it by "
            "the environment or fsspec's configuration (docs/storage.md)"
        )
    match = _URL.match(url)
    protocol = match.group(1).lower() if match else "file"
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        if protocol in _EXTRAS:
            remedy = f"pip install 'proxy-compression[{_EXTRAS[protocol]}]'"
        else:
            remedy = str(known_implementations.get(protocol, {}).get("err", error))
        raise UserError(f"{redacted(url)}: the package for {protocol}:// is not installed; {remedy}") from None
    except ValueError as error:
        raise UserError(redacted(f"{url}: not a URL that fsspec can open ({error})")) from None
    except Exception as error:  # noqa: BLE001 - each client has errors of its own, for a missing file of credentials say
        raise StoreError(
            f"{redacted(url)}: its client does not start ({_reason(error)}); check the credentials and settings "
            "(docs/storage.md)"
        ) from None
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
        StoreError: not allowed, or no answer before the deadline.
    """
    end = time.monotonic() + deadline_seconds
    pause = 0.5
    tries = 0
    while True:
        tries += 1
        try:
            return within(min(request_seconds, max(1.0, end - time.monotonic())), call)
        except UserError:
            raise
        except Exception as raised:  # whatever is not known to be transient is raised again
            error = _judged(raised)
            number = getattr(error, "errno", None)
            if isinstance(error, FileNotFoundError | NotADirectoryError) or _status(error) == HTTPStatus.NOT_FOUND:
                raise
            if not _is_transient(error) or (number in _DOUBTFUL and tries >= _DOUBTFUL_TRIES):
                if number in _LOCAL:
                    raise
                if isinstance(error, OSError | ValueError) or type(error).__name__ in _REFUSALS or _status(error):
                    raise StoreError(
                        f"{redacted(place)}: refused ({_reason(error)}); check it and the credentials"
                    ) from None
                raise
            if time.monotonic() + pause > end:
                raise StoreError(
                    f"{redacted(place)}: no answer within {deadline_seconds:.0f} s of trying ({_reason(error)})"
                ) from None
        with _retries.lock:
            _retries.count += 1
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


def _reason(error: Exception) -> str:
    return redacted(one_line(error))[:300]


def _judged(error: Exception) -> Exception:
    """The error itself, but where fsspec's HTTP client turned a failure into a file that is not there, that failure.

    s3fs gives a cause to each real 404, which is none.
    """
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return cause if isinstance(cause, TimeoutError) or _package(cause) == "aiohttp" else error
    return error


def _package(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _status(error: Exception) -> int:
    """The HTTP status that aiohttp's error is about; 0 of others."""
    return int(getattr(error, "status", 0) or 0) if _package(error) == "aiohttp" else 0


def _is_transient(error: Exception) -> bool:
    if 400 <= _status(error) < 500:
        return _status(error) in _MAY_PASS
    if isinstance(error, _FINAL) or getattr(error, "errno", None) in _LOCAL or type(error).__name__ in _REFUSALS:
        return False
    if str(error).startswith("Forbidden"):  # gcsfs says so in a plain OSError
        return False
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return False
    return isinstance(error, OSError) or _package(error) in _TRANSIENT
