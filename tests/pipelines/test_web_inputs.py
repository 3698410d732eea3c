"""Inputs behind http, on loopback: bad moments are no rejects, refusals and servers without ranges are one line."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.reading import inputs
from pipelines.reading.corpus import list_corpus
from pipelines.reading.documents import Document, Reject
from pipelines.reading.plan import cut_blocks
from pipelines.reading.readers import read_block
from pipelines.reading.records import ReadOptions
from schemas.errors import UserError
from schemas.remote import StoreError, retries_made

DATA = b"".join(b'{"text": "document %06d"}\n' % number for number in range(60_000))


class Web(ThreadingHTTPServer):
    """One file under any name.

    Attributes:
        statuses: to answer the next requests with, then 200.
        ranges: whether it serves parts.
        requests: how many there were.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.ranges = True
        self.requests = 0
        self.url = f"http://127.0.0.1:{self.server_port}/lines.jsonl"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        self.server.requests += 1
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        status, part = 200, DATA
        if wanted and self.server.ranges:
            status, part = 206, DATA[int(wanted[1]) : int(wanted[2]) + 1]
        if self.server.statuses:
            status, part = self.server.statuses.pop(0), b""
        self.send_response(status)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr("schemas.remote.time.sleep", lambda _: None)
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def read(web: Web, statuses: list[int]) -> list[Document | Reject]:
    """The items of the file, whose listing goes well and the requests after it as told."""
    blocks = list(cut_blocks(list_corpus(web.url)))
    inputs._looked_at.clear()
    web.statuses, web.requests = statuses, 0
    return [item for block in blocks for item in read_block(block, ReadOptions())]


@pytest.mark.parametrize("status", [503, 500, 429, 408])
def test_a_bad_moment_is_tried_again_and_is_no_reject(web: Web, status: int) -> None:
    before = retries_made()
    items = read(web, [status] * 6)
    assert len(items) == 60_000
    assert not [item for item in items if isinstance(item, Reject)]
    assert retries_made() - before == 3, "a look is a HEAD and a GET"


def test_a_file_that_is_gone_is_a_reject(web: Web) -> None:
    items = read(web, [404] * 1000)
    assert {(item.reason, item.detail) for item in items if isinstance(item, Reject)} == {
        ("unreadable", "no such file")
    }
    assert not [item for item in items if isinstance(item, Document)]


def test_a_look_that_is_refused_is_one_line_at_once(web: Web) -> None:
    with pytest.raises(StoreError, match=r"refused .*403"):
        read(web, [403, 403])
    assert web.requests == 2


def test_a_read_that_is_refused_is_one_line_at_once(web: Web) -> None:
    (file,) = list_corpus(web.url).inputs
    with inputs.open_input(file) as stored:
        web.statuses, web.requests = [403], 0
        with pytest.raises(StoreError, match=r"refused .*403"):
            stored.read(10)
    assert web.requests == 1


def test_a_server_without_ranges_is_one_line_at_once(web: Web) -> None:
    web.ranges = False
    with pytest.raises(UserError, match=r"lines\.jsonl: this server gives no ranges of a file; copy it"):
        read(web, [])
    assert web.requests <= 2


def test_a_file_without_ranges_that_is_read_at_once_is_read(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.ranges = False
    monkeypatch.setitem(globals(), "DATA", DATA[:280])
    assert len(read(web, [])) == 10


def test_names_that_differ_in_a_credential_are_two_sources(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def source(query: str) -> str:
        (file,) = list_corpus(f"{web.url}?{query}", format="jsonl").inputs
        return file.source

    first, second = source("token=cccccccc&n=1.jsonl"), source("token=dddddddd&n=1.jsonl")
    assert re.fullmatch(r"lines\.jsonl\?token=\*\*\*&n=1\.jsonl-[0-9a-f]{8}", first)
    assert first != second
    assert source("n=abcdefghijkl") == "lines.jsonl?n=abcdefghijkl"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefghijkl")
    assert source("n=abcdefghijkl") == "lines.jsonl?n=abcdefghijkl", "no shard depends on a worker's environment"
    assert source("token=cccccccc&n=1.jsonl") == first


def test_a_signature_is_no_extension(web: Web) -> None:
    for name, extension in (("a.txt", "txt"), ("a.py.gz", "py")):
        url = web.url.replace("lines.jsonl", f"{name}?X-Amz-Credential=AKIA&v=1.5&X-Amz-Signature=0123456789abcdef")
        (file,) = list_corpus(url, format="text").inputs
        assert file.extension == extension
