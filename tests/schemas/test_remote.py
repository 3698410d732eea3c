"""Calls that are made again: which, how often, until when; and which places are remote."""

import errno
import threading
from collections.abc import Callable

import pytest

from schemas.errors import UserError
from schemas.remote import StoreError, filesystem, is_remote, local_path, repeated, retries_made


class NoCredentialsError(Exception):
    """As botocore's, which need not be installed."""

    __module__ = "botocore.exceptions"


class EndpointConnectionError(Exception):
    """Likewise."""

    __module__ = "botocore.exceptions"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of a clock that only pauses move."""
    made: list[float] = []
    monkeypatch.setattr("schemas.remote.time.sleep", made.append)
    monkeypatch.setattr("schemas.remote.time.monotonic", lambda: sum(made))
    return made


def failing(*errors: Exception) -> Callable[[], str]:
    """A call that fails in these ways, one after the other, and then gives an answer."""
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return call


def asked(call: Callable[[], str], deadline_seconds: float = 100) -> str:
    return repeated(call, "s3://bucket/a", request_seconds=5, deadline_seconds=deadline_seconds)


def test_pauses_grow_and_retries_are_counted(pauses: list[float]) -> None:
    before = retries_made()
    errors = [ConnectionResetError(), TimeoutError(), OSError(errno.EBUSY, "SlowDown"), EndpointConnectionError()]
    assert asked(failing(*errors, *[OSError("x")] * 3)) == "answer"
    assert pauses == [0.5, 1, 2, 4, 8, 15, 15]
    assert retries_made() - before == 7


def test_the_deadline_is_kept(pauses: list[float]) -> None:
    with pytest.raises(UserError, match=r"s3://bucket/a: no answer within 20 s of trying \(OSError: \[Errno 5\] 500\)"):
        asked(failing(*[OSError(errno.EIO, "500")] * 100), deadline_seconds=20)
    assert sum(pauses) <= 20


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("AccessDenied"), "refused .PermissionError: AccessDenied.; check it and the credentials"),
        (OSError("Forbidden: https://x"), "refused"),
        (NoCredentialsError("Unable to locate credentials"), "refused .NoCredentialsError: Unable to locate"),
    ],
)
def test_a_refusal_is_final(pauses: list[float], error: Exception, message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked(failing(error))
    assert not pauses


@pytest.mark.parametrize("error", [FileNotFoundError("x"), OSError(errno.ENOSPC, "full"), RuntimeError("a bug")])
def test_what_is_not_the_networks_fault_passes(pauses: list[float], error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        asked(failing(error))
    assert raised.value is error
    assert not pauses


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EREMCHG, errno.EMSGSIZE])
def test_a_bad_request_is_tried_three_times(pauses: list[float], number: int) -> None:
    with pytest.raises(UserError, match=r"refused \(OSError: .*bucket is not valid"):
        asked(failing(*[OSError(number, "The specified bucket is not valid")] * 9))
    assert len(pauses) == 2


@pytest.mark.usefixtures("pauses")
def test_credentials_do_not_appear_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefghijkl")
    for error in (PermissionError("by abcdefghijkl"), OSError("https://h/?X-Amz-Signature=abcdefghijkl")):
        with pytest.raises(UserError) as raised:
            repeated(failing(*[error] * 99), "https://h/a?sig=mnopqrst", request_seconds=1, deadline_seconds=9)
        assert "abcdefghijkl" not in str(raised.value)
        assert "mnopqrst" not in str(raised.value)


@pytest.mark.usefixtures("pauses")
def test_retries_of_all_threads_are_counted() -> None:
    before = retries_made()
    threads = [threading.Thread(target=asked, args=(failing(*[OSError()] * 5), 1e9)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert retries_made() - before == 40


@pytest.mark.parametrize(
    ("location", "path"),
    [("/a/b", "/a/b"), ("a", "a"), ("file:///a/b", "/a/b"), ("local:///a", "/a"), ("FILE:///a", "/a"), ("C:x", "C:x")],
)
def test_local_places_and_their_urls_are_local(location: str, path: str) -> None:
    assert not is_remote(location)
    assert local_path(location) == path


@pytest.mark.parametrize("location", ["s3://bucket/a", "memory://a", "https://host/a", "gs://b"])
def test_other_urls_are_remote(location: str) -> None:
    assert is_remote(location)


class ClientResponseError(Exception):
    """As aiohttp's."""

    __module__ = "aiohttp.client_exceptions"

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}, message='x'")
        self.status = status


class ServerDisconnectedError(Exception):
    """Likewise."""

    __module__ = "aiohttp.client_exceptions"


class ClientError(Exception):
    """As botocore's."""

    __module__ = "botocore.exceptions"


class InvalidRegionError(ValueError):
    """Likewise."""

    __module__ = "botocore.exceptions"


def caused(cause: Exception) -> FileNotFoundError:
    """What fsspec's HTTP client makes of any failure, and s3fs of a 404."""
    error = FileNotFoundError("https://host/a")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "cause", [TimeoutError(), ServerDisconnectedError(), *map(ClientResponseError, (408, 429, 500, 503))], ids=repr
)
def test_a_failure_that_a_client_calls_a_missing_file_is_tried_again(pauses: list[float], cause: Exception) -> None:
    assert asked(failing(caused(cause), caused(cause))) == "answer"
    assert len(pauses) == 2


@pytest.mark.parametrize("cause", [ClientResponseError(404), ClientError("404")], ids=repr)
def test_a_file_that_is_missing_is_not(pauses: list[float], cause: Exception) -> None:
    with pytest.raises(FileNotFoundError):
        asked(failing(caused(cause)))
    assert not pauses


@pytest.mark.parametrize(
    "error",
    [
        ClientResponseError(403),
        caused(ClientResponseError(401)),
        InvalidRegionError("us_east"),
        ValueError("Invalid endpoint: localhost:9000"),
        OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"),
    ],
    ids=repr,
)
def test_refusals_and_wrong_settings_are_one_line_at_once(pauses: list[float], error: Exception) -> None:
    with pytest.raises(StoreError, match=rf"^s3://bucket/a: refused \({type(error.__cause__ or error).__name__}: "):
        asked(failing(error))
    assert not pauses


def test_a_users_error_passes(pauses: list[float]) -> None:
    with pytest.raises(UserError, match=r"^the line$"):
        asked(failing(UserError("the line")))
    assert not pauses


def test_a_client_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefghijkl")

    def start(_: str) -> None:
        raise RuntimeError("no file\nof abcdefghijkl")

    monkeypatch.setattr("fsspec.core.url_to_fs", start)
    with pytest.raises(StoreError, match=r"^gs://b: its client does not start \(RuntimeError: no file of \*\*\*"):
        filesystem("gs://b")
