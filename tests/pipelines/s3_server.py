"""A real S3 API on loopback: moto behind a door that counts requests and has bad minutes, for this process's clients
and those of its children."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

SECRET = "never-to-be-seen-secret-key"
TOKEN = "never-to-be-seen-session-token"

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class S3Server:
    """Serves until closed.

    Attributes:
        url: of the endpoint.
        requests: (method, kind of object) -> how often; kinds are LIST, shard, rejects, receipt, other.
        fault: called with the number of a request since `reset`; what it gives is the status to fail with, or None.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app: Application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.reset()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self, fault: Callable[[int], int | None] = lambda number: None) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.fault = fault

    def methods(self) -> dict[str, int]:
        """Requests by method, LIST apart."""
        sums: Counter[str] = Counter()
        for (method, kind), count in self.requests.items():
            sums["LIST" if kind == "LIST" else method] += count
        return dict(sums)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, kind = environ["REQUEST_METHOD"], _kind(environ)
        with self._lock:
            number = self.requests.total()
            self.requests[method, kind] += 1
        status = self.fault(number)
        if status is None:
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{status} Injected", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]


def _kind(environ: dict[str, Any]) -> str:
    query, path = environ.get("QUERY_STRING", ""), environ["PATH_INFO"]
    if "list-type" in query or "prefix=" in query:
        return "LIST"
    if "/rejects/" in path:
        return "rejects"
    if "/receipts/" in path:
        return "receipt"
    return "shard" if "/part-" in path else "other"


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    """A server, with the environment that leads clients to it."""
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "loopback-access-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_SESSION_TOKEN", TOKEN)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        try:
            yield server
        finally:
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            server.close()
