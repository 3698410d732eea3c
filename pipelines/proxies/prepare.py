"""From options to a proxy: which tokenizer or compressor, trained on the corpus if need be, copied into the dataset.

A dataset is self-contained: what its proxy needs lies in `meta/proxy`, and its URI points there. What is trained
here is cached by the corpus (paths, sizes, times) and the options, so that a second dataset of the same corpus,
or a resumed one, does not train again.
"""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor_model import encoder, fit
from compressor_model.artefact import CARD as COMPRESSOR_CARD
from compressor_model.artefact import PRETRAINED, Compressor, open_compressor
from compressor_model.text import Text
from pipelines import proxies
from pipelines.corpus import Corpus
from pipelines.documents import Document
from pipelines.plan import permuted_blocks
from pipelines.proxies import bpe
from pipelines.readers import read_block
from pipelines.records import ReadOptions
from pipelines.storage import Folder
from schemas.draws import may_fit
from schemas.errors import UserError
from schemas.manifest import digest_of

PROXY_FOLDER = "meta/proxy"
TOKENIZER = "tokenizer.json"

SAMPLE_BYTES = 8 << 20
"""Text on which a compressor is tried, and the least of it that is worth fitting one to."""

KEEP_SHARE = 0.9
"""A compressor that reaches this share of its recorded bytes per symbol suits the corpus."""

TOKENIZER_TEXT_BYTES = 64 << 20
"""A tokenizer is trained on at most this much of the corpus: a minute, and more text changes few merges."""

_FIT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ProxyOptions:
    """Which proxy.

    Attributes:
        proxy: neural, bpe, gzip, identity, or one that an installed package registers.
        coder: of the neural proxy: codebook (lossless, fast) or range (the paper's literal form).
        bits: of the neural proxy's symbols, 12 to 16.
        compressor: of the neural proxy: auto, pretrained, or a folder made by `make compressor`.
        tokenizer: of bpe: a tokenizers JSON file; by default one is trained on the corpus.
        vocab_size: of a trained tokenizer.
    """

    proxy: str = "neural"
    coder: str = "codebook"
    bits: int = 16
    compressor: str = "auto"
    tokenizer: str | None = None
    vocab_size: int = bpe.DEFAULT_SIZE

    def __post_init__(self) -> None:
        if self.proxy not in proxies.names():
            raise UserError(f"PROXY={self.proxy}: unknown; there are {', '.join(proxies.names())}")
        if self.coder not in ("codebook", "range"):
            raise UserError(f"CODER={self.coder}: unknown; give codebook or range")
        if not 12 <= self.bits <= 16:
            raise UserError(f"BITS={self.bits}: symbols have 12 to 16 bits")
        if self.vocab_size < 256:
            raise UserError(f"--vocab-size {self.vocab_size}: a byte-level tokenizer needs at least 256")
        if self.tokenizer is not None and not Path(self.tokenizer).is_file():
            raise UserError(f"TOKENIZER={self.tokenizer}: no such file")

    @property
    def is_chosen_by_corpus(self) -> bool:
        """Whether the artefact follows from the corpus, not from a path that the user gave."""
        return (self.proxy == "bpe" and self.tokenizer is None) or (
            self.proxy == "neural" and self.compressor == "auto"
        )

    def request(self) -> dict[str, Any]:
        """The options that matter to this proxy, for the dataset's description."""
        if self.proxy == "bpe":  # of a given tokenizer its fingerprint says all, wherever the file was
            return {"tokenizer": "given"} if self.tokenizer else {"tokenizer": None, "vocab_size": self.vocab_size}
        return {"coder": self.coder, "bits": self.bits} if self.proxy == "neural" else {}


@dataclass(frozen=True)
class Sampler:
    """Documents of a corpus in the order of its permuted blocks: any prefix is a seeded sample.

    Attributes:
        corpus: what to sample.
        read: how documents are read.
    """

    corpus: Corpus
    read: ReadOptions

    def documents(self) -> Iterator[Document]:
        """All documents (pieces of long ones); rejects are left out."""
        for block in permuted_blocks(self.corpus):
            for item in read_block(self.corpus.root, block, self.read):
                if isinstance(item, Document):
                    yield item

    def training(self, limit: int) -> Iterator[bytes]:
        """Documents that may be fitted on, `limit` bytes of them."""
        size = 0
        for document in self.documents():
            if may_fit(document.doc_id):
                yield document.raw
                size += len(document.raw)
                if size >= limit:
                    return

    def identity(self) -> dict[str, Any]:
        """What decides the sample: the key of caches."""
        versions = [[file.source, file.size, file.version] for file in self.corpus.inputs]
        read = [self.read.field, self.read.max_document_bytes, self.read.max_record_bytes]
        return {"inputs": digest_of({"files": versions}), "read": read}


Report = Callable[[str], None]


@dataclass(frozen=True)
class Chosen:
    """A proxy that was chosen, before anything of it is in the dataset.

    Attributes:
        proxy: loaded from where its files are now.
        request: the options that it was chosen by.
        files: what the dataset needs of it: name there -> local file.
    """

    proxy: proxies.Proxy
    request: dict[str, Any]
    files: dict[str, Path]

    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each file."""
        return _digests(self.files)

    def install(self, out: Folder) -> proxies.Proxy:
        """Copy the files into the dataset, and load the proxy from there."""
        for name, path in sorted(self.files.items()):
            out.write(f"{PROXY_FOLDER}/{name}", _read(path))
        return dataset_proxy(out, {"name": self.proxy.name, "request": self.request})


def choose(
    options: ProxyOptions, sampler: Sampler, out: Folder | None, stored: dict[str, Any] | None, report: Report
) -> Chosen:
    """Choose or train what the proxy needs. Writes nothing but to the cache.

    Args:
        options: see `ProxyOptions`.
        sampler: the corpus.
        out: the dataset's folder, if there is one.
        stored: the description of the dataset there: what was trained for it is used again.
        report: called with a line for people.

    Raises:
        UserError: missing or damaged artefacts, or too little text to train on.
    """
    if stored is not None and out is not None and options.is_chosen_by_corpus and out.is_local:
        before = stored["proxy"]
        files = {name: out.path / PROXY_FOLDER / name for name in before["files"]}
        same = before["request"] == options.request() and stored["corpus"]["digest"] == sampler.corpus.listing_digest
        with suppress(UserError):
            if same and _digests(files) == before["files"]:
                return Chosen(dataset_proxy(out, before), options.request(), files)
    if options.proxy == "bpe":
        source = Path(options.tokenizer) if options.tokenizer else trained_tokenizer(options, sampler, report)
        return Chosen(proxies.load(f"bpe:{source}"), options.request(), {TOKENIZER: source})
    if options.proxy == "neural":
        compressor = choose_compressor(options, sampler, report)
        names = [*compressor.files_for(options.coder, options.bits), COMPRESSOR_CARD]
        uri = f"neural:{compressor.folder}?coder={options.coder}&bits={options.bits}"
        return Chosen(proxies.load(uri), options.request(), {name: compressor.folder / name for name in names})
    return Chosen(proxies.load(f"{options.proxy}:"), options.request(), {})


def dataset_proxy(out: Folder, described: dict[str, Any]) -> proxies.Proxy:
    """The proxy of a dataset, from the files beside it.

    Args:
        out: the dataset's folder.
        described: "name" and "request" of the dataset's description.

    Raises:
        UserError: its files are missing or damaged.
    """
    name, request = described["name"], described["request"]
    place = out.locate(PROXY_FOLDER)
    if name == "bpe":
        return proxies.load(f"bpe:{place}/{TOKENIZER}")
    if name == "neural":
        return proxies.load(f"neural:{place}?coder={request['coder']}&bits={request['bits']}")
    return proxies.load(f"{name}:")


def _digests(files: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(_read(path)).hexdigest() for name, path in sorted(files.items())}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def trained_tokenizer(options: ProxyOptions, sampler: Sampler, report: Report) -> Path:
    """A BPE tokenizer trained on the corpus, from the cache if it is there."""
    import tokenizers

    key = {"bpe": _FIT_VERSION, "size": options.vocab_size, "tokenizers": tokenizers.__version__}
    path = _cache_place("tokenizer", {**key, **sampler.identity()}).with_suffix(".json")
    if path.exists():
        report(f"tokenizer: {path} (trained before on this corpus)")
        return path
    report(f"training a BPE tokenizer of {options.vocab_size:,} tokens on the corpus")
    data = bpe.train(sampler.training(TOKENIZER_TEXT_BYTES), options.vocab_size)
    temp = _beside(path, report)
    temp.write_bytes(data)
    return _into_cache(temp, path)


def choose_compressor(options: ProxyOptions, sampler: Sampler, report: Report) -> Compressor:
    """The compressor that `--compressor` means; `auto` tries the shipped one on a sample of the corpus."""
    if options.compressor not in ("auto", "pretrained"):
        return open_compressor(options.compressor)
    shipped = open_compressor(PRETRAINED)
    if options.bits not in shipped.bits:
        if options.compressor == "pretrained":
            raise UserError(
                f"BITS={options.bits} COMPRESSOR=pretrained: a compressor of {shipped.bits} bits is shipped; "
                "leave COMPRESSOR out to fit one to the corpus"
            )
    elif options.compressor == "pretrained":
        return shipped
    sample = _sample(sampler)
    tried = shipped.bits[-1] if options.bits not in shipped.bits else options.bits
    ratio = _ratio(shipped, tried, sample)
    recorded = shipped.score(tried)
    if not len(sample.data):
        return shipped
    found = f"codes this corpus at {ratio:.2f} bytes a symbol ({recorded:.2f} on the text it was made for)"
    if options.bits in shipped.bits and ratio >= KEEP_SHARE * recorded:
        report(f"compressor: the shipped one {found}")
        return shipped
    if len(sample.data) < SAMPLE_BYTES:
        if options.bits not in shipped.bits:
            raise UserError(
                f"BITS={options.bits}: a compressor of {shipped.bits} bits is shipped, and this corpus is smaller than "
                f"{SAMPLE_BYTES >> 20} MiB, too small to fit one; use one of those or COMPRESSOR=folder"
            )
        report(
            f"compressor: the shipped one {found}; the corpus is smaller than {SAMPLE_BYTES >> 20} MiB, too small to "
            "fit a better one"
        )
        return shipped
    if options.bits not in shipped.bits:
        found = f"is of {shipped.bits} bits"
    report(f"compressor: the shipped one {found}: fitting one to the corpus (minutes, once)")
    fitted = fitted_compressor(options.bits, sampler, report)
    fitted_ratio = _ratio(fitted, options.bits, sample)
    if options.bits in shipped.bits and fitted_ratio <= ratio:
        report(f"compressor: the fitted one codes it no better ({fitted_ratio:.2f}); the shipped one is used")
        return shipped
    report(f"compressor: the fitted one codes this corpus at {fitted_ratio:.2f} bytes a symbol")
    return fitted


def fitted_compressor(bits: int, sampler: Sampler, report: Report) -> Compressor:
    """A compressor fitted to the corpus, from the cache if it is there."""
    settings = fit.FitOptions(bits=(bits,))
    folder = _cache_place("compressor", {"fit": _FIT_VERSION, "options": repr(settings), **sampler.identity()})
    if (folder / COMPRESSOR_CARD).exists():
        report(f"compressor: {folder} (fitted before to this corpus)")
        return open_compressor(folder)
    temp = _beside(folder, report)
    fit.fit(
        ((document.doc_id, document.raw) for document in sampler.documents()),
        settings,
        folder=temp,
        name=f"fitted to {sampler.corpus.spec}",
        provenance={"corpus": {"spec": sampler.corpus.spec, "listing_digest": sampler.corpus.listing_digest}},
        report=report,
    )
    return open_compressor(_into_cache(temp, folder))


def _ratio(compressor: Compressor, bits: int, sample: Text) -> float:
    return fit.bytes_per_symbol(encoder.coder(compressor.codebook(bits), compressor.segments()), sample)


def _sample(sampler: Sampler) -> Text:
    documents: list[bytes] = []
    size = 0
    for document in sampler.documents():
        documents.append(document.raw[: SAMPLE_BYTES - size])
        size += len(documents[-1])
        if size >= SAMPLE_BYTES:
            break
    return Text.of(documents)


def _cache_place(kind: str, key: dict[str, Any]) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "proxy-compression" / f"{kind}-{digest_of(key)[:16]}"


def _beside(path: Path, report: Report) -> Path:
    """A name to write to before it is renamed to `path`; elsewhere where the cache cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    except OSError as error:
        report(f"{path.parent}: no cache ({error.strerror}); what is trained now will be trained again the next time")
        return Path(tempfile.mkdtemp(prefix="proxy-compression-")) / path.name


def _into_cache(temp: Path, path: Path) -> Path:
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
