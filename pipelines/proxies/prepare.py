"""From options to a proxy: which tokenizer or compressor, trained on the corpus if need be, copied into the dataset.

A dataset is self-contained: what its proxy needs lies in `meta/proxy`, and its URI points there. What is trained
here is cached by the corpus (paths, sizes, times) and the options, so that a second dataset of the same corpus,
or a resumed one, does not train again.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor_model.artefact import CARD as COMPRESSOR_CARD
from compressor_model.artefact import Compressor
from compressor_model.train import resolve_device
from pipelines import proxies
from pipelines.proxies import bpe, cache, neural, target_ratio
from pipelines.proxies.cache import Report
from pipelines.proxies.compressors import choose_compressor
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.sampler import Sampler
from pipelines.storage import Folder
from schemas.errors import UserError

PROXY_FOLDER = "meta/proxy"
TOKENIZER = "tokenizer.json"

TOKENIZER_TEXT_BYTES = 64 << 20
"""A tokenizer is trained on at most this much of the corpus: a minute, and more text changes few merges."""

_TRAIN_VERSION = 1


@dataclass(frozen=True)
class Chosen:
    """A proxy that was chosen, before anything of it is in the dataset.

    Attributes:
        proxy: loaded from where its files are now.
        request: the options that it was chosen by.
        parameters: what its URI says besides the path; with the files, all that is needed to rebuild it.
        files: what the dataset needs of it: name there -> bytes. Held, since they may have been read from a dataset
            that is deleted before they are installed.
    """

    proxy: proxies.Proxy
    request: dict[str, Any]
    parameters: dict[str, str]
    files: dict[str, bytes]

    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each file."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(self.files.items())}

    def install(self, out: Folder) -> proxies.Proxy:
        """Copy the files into the dataset, and load the proxy from there."""
        for name, data in sorted(self.files.items()):
            out.write(f"{PROXY_FOLDER}/{name}", data)
        return dataset_proxy(out, {"name": self.proxy.name, "parameters": self.parameters})


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
        same = before["request"] == options.request() and stored["corpus"]["digest"] == sampler.corpus.listing_digest
        with suppress(UserError):
            if same:
                files = {name: _read(out.path / PROXY_FOLDER / name) for name in before["files"]}
                kept = Chosen(dataset_proxy(out, before), options.request(), before.get("parameters", {}), files)
                if kept.digests() == before["files"]:
                    return kept
    if options.proxy == "bpe":
        source = Path(options.tokenizer) if options.tokenizer else trained_tokenizer(options, sampler, report)
        return Chosen(
            proxies.load(proxies.uri_of("bpe", str(source))), options.request(), {}, {TOKENIZER: _read(source)}
        )
    if options.proxy == "neural":
        compressor = choose_compressor(options, sampler, report)
        parameters = _parameters(options, compressor, sampler, report)
        needed = compressor.files_for(parameters.coder, parameters.bits, parameters.segmentation)
        proxy = proxies.load(proxies.uri_of("neural", str(compressor.folder), parameters.query()))
        assert isinstance(proxy, neural.NeuralProxy)
        return Chosen(
            proxy,
            options.request(),
            proxy.parameters.query(),
            {name: _read(compressor.folder / name) for name in [*needed, COMPRESSOR_CARD]},
        )
    return Chosen(proxies.load(f"{options.proxy}:"), options.request(), {}, {})


def dataset_proxy(out: Folder, described: dict[str, Any]) -> proxies.Proxy:
    """The proxy of a dataset, from the files beside it.

    Args:
        out: the dataset's folder.
        described: "name" and "parameters" of the dataset's description.

    Raises:
        UserError: its files are missing or damaged, or an earlier version described it.
    """
    name = described["name"]
    place = out.locate(PROXY_FOLDER)
    if name == "neural" and "parameters" not in described:
        raise UserError(
            f"{out.url}: made by an earlier version of this program, which did not say all of its proxy; make it anew "
            "with ARGS=--overwrite"
        )
    if name == "bpe":
        return proxies.load(proxies.uri_of("bpe", f"{place}/{TOKENIZER}"))
    if name == "neural":
        return proxies.load(proxies.uri_of("neural", place, described["parameters"]))
    return proxies.load(f"{name}:")


def _parameters(options: ProxyOptions, compressor: Compressor, sampler: Sampler, report: Report) -> neural.Parameters:
    """The neural proxy's parameters, with the device decided, and tau if it is not to be the compressor's."""
    parameters = neural.Parameters.of(options.form_fields())
    if compressor.lm_kind == "paper" and (parameters.coder == "range" or parameters.segmentation == "lm"):
        parameters = replace(parameters, device=resolve_device(options.lm_device, "--lm-device"))
    if options.tau is not None:
        return replace(parameters, threshold=round(options.tau * neural.UNITS[parameters.segmentation]))
    if options.target_ratio is None:
        return parameters
    proxy = neural.build(compressor, parameters)
    found = target_ratio.search(proxy, sampler.first(target_ratio.SAMPLE_BYTES[parameters.coder]), options.target_ratio)
    tau = found.threshold / proxy.segmenter.units
    report(f"tau: {tau:g} bits give {found.ratio:.3f} bytes a symbol on a sample of the corpus")
    return replace(proxy.parameters, threshold=found.threshold)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def trained_tokenizer(options: ProxyOptions, sampler: Sampler, report: Report) -> Path:
    """A BPE tokenizer trained on the corpus, from the cache if it is there."""
    import tokenizers

    key = {"bpe": _TRAIN_VERSION, "size": options.vocab_size, "tokenizers": tokenizers.__version__}
    path = cache.place("tokenizer", {**key, **sampler.identity()}).with_suffix(".json")
    if path.exists():
        report(f"tokenizer: {path} (trained before on this corpus)")
        return path
    report(f"training a BPE tokenizer of {options.vocab_size:,} tokens on the corpus")
    data = bpe.train(sampler.training(TOKENIZER_TEXT_BYTES), options.vocab_size)
    temp = cache.beside(path, report)
    temp.write_bytes(data)
    return cache.settle(temp, path)
