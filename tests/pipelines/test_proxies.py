"""One property suite for all proxies: any bytes in, the promises of `proxies.base` out."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from compressor_model.artefact import PRETRAINED
from pipelines import proxies
from pipelines.prove import ProofError, prove
from pipelines.proxies import bpe
from schemas.errors import UserError
from schemas.vocabulary import BYTE_OFFSET, COMP_OFFSET

DATA = Path(__file__).parent.parent / "data"

URIS = {
    "identity": "identity:",
    "gzip": "gzip:",
    "bpe": f"bpe:{DATA / 'tokenizer.json'}",
    "neural-codebook-12": f"neural:{PRETRAINED}?coder=codebook&bits=12",
    "neural-codebook-16": f"neural:{PRETRAINED}?coder=codebook&bits=16",
    "neural-range-16": f"neural:{PRETRAINED}?coder=range&bits=16",
    "neural-range-12": f"neural:{PRETRAINED}?coder=range&bits=12",
    "neural-packed-16": f"neural:{PRETRAINED}?windows=packed",
    "neural-equal-info-12": f"neural:{PRETRAINED}?bits=12&windows=equal-info",
    "neural-tail-16": f"neural:{PRETRAINED}?fuzz=tail",
    "neural-packed-tail-12": f"neural:{PRETRAINED}?bits=12&windows=packed&fuzz=tail",
    "neural-lm-16": f"neural:{PRETRAINED}?segmentation=lm",
    "neural-range-lm-16": f"neural:{PRETRAINED}?coder=range&segmentation=lm",
    "neural-always-cut": f"neural:{PRETRAINED}?threshold=-1",
    "neural-never-cut": f"neural:{PRETRAINED}?threshold=100000",
    "neural-range-never-cut": f"neural:{PRETRAINED}?coder=range&threshold=100000",
}

EDGES = [
    b"",
    b"\x00",
    b"\xff",
    bytes(range(256)),
    b"trailing zeros\0\0\0\0",
    b"a" * 20_000,
    b" " * 5_000 + b"\n" * 5_000,
    b"valid \xc3\xa9 then \xff\xfe\x80 then valid \xe2\x82\xac and cut \xe2\x82",
    "\ud800".encode("utf-8", "surrogatepass"),
    "<|endoftext|></raw><comp>👩‍👧 中文\u2028\x85".encode(),
    b"\r\n\r\n\t\v\f",
]


@pytest.fixture(scope="module", params=URIS)
def proxy(request: pytest.FixtureRequest) -> proxies.Proxy:
    return proxies.load(URIS[request.param])


ANY_DOCUMENT = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode), st.sampled_from(EDGES))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ANY_DOCUMENT, max_size=6))
@example(EDGES)
def test_any_batch_of_any_bytes_is_coded_and_proven(proxy: proxies.Proxy, documents: list[bytes]) -> None:
    batch = proxy.encode_batch(documents)
    assert (batch is not None) == proxy.has_comp
    if batch is None:
        assert all(proxy.encode(document) is None for document in documents)
        return
    prove(proxy, documents, batch)
    assert batch.ids.dtype == np.uint32
    if batch.spans is not None:
        assert batch.spans.dtype == np.uint16
    start = 0
    for document, count in zip(documents, batch.counts.tolist(), strict=True):
        alone = proxy.encode(document)
        assert alone is not None
        assert alone.ids.tolist() == batch.ids[start : start + count].tolist()
        if batch.spans is not None:
            assert alone.spans is not None
            assert alone.spans.tolist() == batch.spans[start : start + count].tolist()
            assert int(alone.spans.sum(dtype=np.int64)) == len(document)
        if proxy.lossless:
            assert proxy.decode(alone.ids) == document
        if proxy.name == "neural":
            assert count <= len(document)  # never worse than one symbol a byte
        start += count


def test_ids_are_comp_symbols_and_only_bpe_escapes(proxy: proxies.Proxy) -> None:
    batch = proxy.encode_batch(EDGES)
    if batch is None:
        return
    escapes = batch.ids < COMP_OFFSET
    assert bool(escapes.any()) == (proxy.name == "bpe") == (batch.escaped_bytes > 0)
    assert (batch.ids[escapes] >= BYTE_OFFSET).all()
    assert int(batch.ids.max()) < proxy.vocabulary.size


def test_uri_rebuilds_the_same_proxy(proxy: proxies.Proxy) -> None:
    again = proxies.load(proxy.uri)
    assert (again.uri, again.fingerprint, again.vocabulary) == (proxy.uri, proxy.fingerprint, proxy.vocabulary)
    assert proxies.load(proxy.uri) is again  # a worker builds it once


def test_fingerprints_differ() -> None:
    prints = {name: proxies.load(uri).fingerprint for name, uri in URIS.items()}
    assert len(set(prints.values())) == len(prints)


def test_changed_artefact_is_refused_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes((DATA / "tokenizer.json").read_bytes())
    uri = proxies.load(f"bpe:{path}").uri
    path.write_bytes(bpe.train([b"other text " * 50], 300))
    proxies._load_once.cache_clear()
    with pytest.raises(UserError, match="changed since"):
        proxies.load(uri)


def test_golden_symbols() -> None:
    """Symbols of fixed inputs; a change here is a change of the format."""
    golden = json.loads((DATA / "golden_symbols.json").read_text())
    for name, expected in golden.items():
        proxy = proxies.load(URIS[name])
        for text, ids in expected.items():
            encoded = proxy.encode(text.encode())
            assert encoded is not None
            assert encoded.ids.tolist() == ids, (name, text)


@pytest.mark.parametrize("uri", ["zip:", "neural-x:"])
def test_unknown_proxy_lists_those_there_are(uri: str) -> None:
    with pytest.raises(UserError, match="unknown; there are neural, bpe, gzip, identity"):
        proxies.load(uri)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"{}", "not a tokenizers JSON"), (b"\xff", "not a tokenizers JSON"), (None, "cannot be read")],
)
def test_bad_tokenizer_file_is_named(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "mine.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=rf"mine\.json: {message}"):
        proxies.load(f"bpe:{path}")


def test_tokenizer_that_normalises_is_still_lossless(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, normalizers

    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    path = tmp_path / "lower.json"
    tokenizer.save(str(path))
    proxy = proxies.load(f"bpe:{path}")
    raw = "all lower\nthis Line has Capitals\nlower again e\u0301\n".encode()
    encoded = proxy.encode(raw)
    assert encoded is not None
    assert proxy.decode(encoded.ids) == raw
    assert encoded.escaped_bytes == len("this Line has Capitals\nlower again e\u0301\n".encode())


@pytest.mark.parametrize("wrap", [False, True])
def test_byte_level_tokenizer_without_a_decoder_escapes_nothing(tmp_path: Path, wrap: bool) -> None:
    steps = json.loads((DATA / "tokenizer.json").read_text())
    steps["decoder"] = None
    if wrap:
        steps["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [steps["pre_tokenizer"]]}
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps(steps))
    raw = "def f(x):\n    return 'é 中文'\n".encode()
    encoded = proxies.load(f"bpe:{path}").encode(raw)
    whole = proxies.load(URIS["bpe"]).encode(raw)
    assert encoded is not None
    assert whole is not None
    assert encoded.escaped_bytes == 0
    assert encoded.ids.tolist() == whole.ids.tolist()


def test_training_is_deterministic_and_leaves_specials_to_text() -> None:
    documents = [b"def f(x):\n    return x + %d\n" % n for n in range(200)] + [b"\xff\xfe"]
    assert bpe.train(documents, 300) == bpe.train(documents, 300)


class Broken(proxies.Proxy):
    """A codebook whose views can be spoilt."""

    def __init__(self, spoil) -> None:
        inner = proxies.load(URIS["neural-codebook-12"])
        self.name, self.fingerprint, self.vocabulary = "broken", inner.fingerprint, inner.vocabulary
        self._inner, self._spoil = inner, spoil

    def encode(self, raw: bytes) -> proxies.Encoded:
        encoded = self._inner.encode(raw)
        assert encoded is not None
        assert encoded.spans is not None
        ids, spans = encoded.ids.copy(), encoded.spans.copy()
        self._spoil(ids, spans)
        return proxies.Encoded(ids, spans)

    def decode(self, ids: np.ndarray) -> bytes:
        return self._inner.decode(ids)


def change_symbol(ids: np.ndarray, spans: np.ndarray) -> None:
    ids[-1] ^= 1


def leave_vocabulary(ids: np.ndarray, spans: np.ndarray) -> None:
    ids[0] = 1 << 20


def use_special(ids: np.ndarray, spans: np.ndarray) -> None:
    ids[0] = 3


def move_span(ids: np.ndarray, spans: np.ndarray) -> None:
    spans[0], spans[1] = 0, spans[0] + spans[1]


def grow_span(ids: np.ndarray, spans: np.ndarray) -> None:
    spans[0] += 1


@pytest.mark.parametrize("spoil", [change_symbol, leave_vocabulary, use_special, move_span, grow_span])
def test_a_view_that_is_wrong_in_any_way_fails_its_proof(spoil) -> None:
    proxy = Broken(spoil)
    documents = [b"import numpy as np\n"]
    batch = proxy.encode_batch(documents)
    assert batch is not None
    with pytest.raises(ProofError):
        prove(proxy, documents, batch)


def test_gzip_ids_that_are_none_or_lie_about_their_size_are_refused() -> None:
    proxy = proxies.load("gzip:")
    ids = proxy.encode(b"some text").ids
    for wrong in (ids - 256, ids + 256, np.where(np.arange(len(ids)) == 3, ids - 256, ids).astype(np.uint32)):
        with pytest.raises(ValueError, match=r"ids from \d+ to \d+; those of gzip are 320"):
            proxy.decode(wrong)
    bomb = proxy.encode(bytes(100 << 20)).ids
    bomb[-4:] = COMP_OFFSET  # no bytes, it says
    tracemalloc.start()
    with pytest.raises(ValueError, match="not one whole gzip member"):
        proxy.decode(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20
