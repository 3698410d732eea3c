"""Which proxies are at hand to cut a dataset's text by: its own, and others that can be had without training."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from compressor_model.artefact import CARD, PRETRAINED
from pipelines import proxies
from pipelines.dataset import Dataset
from pipelines.measure import variants
from pipelines.proxies import Proxy
from pipelines.proxies.neural import Parameters
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.prepare import PROXY_FOLDER
from schemas.errors import UserError
from schemas.files import sha256


@dataclass(frozen=True)
class AtHand:
    """A proxy that a text can be cut by.

    Attributes:
        label: its short name.
        proxy: None where it is not there, or where a dataset's own files cannot be used.
        reason: why it is not there.
    """

    label: str
    proxy: Proxy | None
    reason: str = ""


def at_hand(data: Dataset, *, tokenizer: str | None, compressor: str | None) -> list[AtHand]:
    """The dataset's own proxy first, then codebook, codebook-fuzzy, range, bpe and gzip, as far as they are there.

    Args:
        data: the dataset; if its proxy is neural, its codebook is used for the other neural forms.
        tokenizer: a tokenizers JSON file for bpe.
        compressor: folder of a compressor; default the dataset's, else the shipped one.

    Raises:
        UserError: a tokenizer or compressor that was given cannot be read.
    """
    described = data.manifest.dataset["proxy"]
    own = AtHand(own_label(described), None)
    try:
        own = replace(own, proxy=data.proxy)
    except UserError as error:
        own = replace(own, reason=str(error))
    found = [own]
    form = form_of(described)
    folder = compressor or (data.folder.locate(PROXY_FOLDER) if form else str(PRETRAINED))
    for label in ("codebook", "codebook-fuzzy", "range"):
        if label == own.label:
            continue
        wanted = {key: str(variants.VARIANTS[label][key]) for key in ("coder", "segmentation", "windows", "fuzz")}
        if form.get("segmentation") != "table":
            form.pop("threshold", None)  # in another unit
        place = folder
        if label == "range" and compressor is None and form:  # the dataset has no byte LM unless it needs one
            place = str(PRETRAINED) if described["files"].get(CARD) == sha256(PRETRAINED / CARD) else folder
        try:
            parameters = Parameters.of({"bits": "16", **form, **wanted})
            found.append(AtHand(label, proxies.load(proxies.uri_of("neural", place, parameters.query()))))
        except UserError as error:
            if compressor is not None:
                raise
            found.append(AtHand(label, None, str(error)))
    if tokenizer is not None:
        found.append(AtHand("bpe", proxies.load(proxies.uri_of("bpe", str(tokenizer)))))
    elif own.label not in ("bpe", "tokenizer"):
        found.append(AtHand("bpe", None, "no tokenizer is at hand; give --tokenizer FILE, or --with-measure"))
    return found if own.label == "gzip" else [*found, AtHand("gzip", proxies.load("gzip:"))]


def own_label(described: dict[str, Any]) -> str:
    """The short name of a dataset's proxy, as the measurements write it."""
    form = form_of(described)
    fields = {key: form[key] for key in ("coder", "segmentation", "windows", "fuzz") if key in form}
    if fields:
        with suppress(UserError):  # of a version that has other forms
            return variants.label(ProxyOptions(proxy="neural", **fields))  # type: ignore[arg-type]
    return "raw" if described["name"] == "identity" else str(described["name"])


def form_of(described: dict[str, Any]) -> dict[str, str]:
    """The parameters of a neural proxy; nothing of others."""
    parameters = described.get("parameters")
    if described["name"] != "neural" or not isinstance(parameters, dict):
        return {}
    return {key: value for key, value in parameters.items() if isinstance(value, str)}
