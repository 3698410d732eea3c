"""The proxies that are compared, by short names, and how each is built from the options given.

A variant says what its name says and leaves the rest (bits, compressor, tau, vocabulary) as the options have it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipelines.proxies import Proxy
from pipelines.proxies.cache import Report
from pipelines.proxies.compressors import choose_compressor
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.prepare import choose
from pipelines.proxies.sampler import Sampler
from schemas.errors import UserError


def _neural(**form: str) -> dict[str, Any]:
    plain = {"coder": "codebook", "segmentation": "table", "windows": "segment", "fuzz": "none"}
    return {"proxy": "neural", **plain, **form}


VARIANTS: dict[str, dict[str, Any]] = {
    "codebook": _neural(),
    "codebook-packed": _neural(windows="packed"),
    "codebook-equal-info": _neural(windows="equal-info"),
    "codebook-fuzzy": _neural(fuzz="tail"),
    "codebook-packed-fuzzy": _neural(windows="packed", fuzz="tail"),
    "codebook-lm": _neural(segmentation="lm"),
    "range": _neural(coder="range"),
    "range-lm": _neural(coder="range", segmentation="lm"),
    "bpe": {"proxy": "bpe", "tokenizer": None},
    "tokenizer": {"proxy": "bpe"},
    "gzip": {"proxy": "gzip"},
    "raw": {"proxy": "identity"},
}
"""What each name changes in `ProxyOptions`."""

CHOSEN = "chosen"
"""The name of whatever the options say."""


@dataclass(frozen=True)
class Built:
    """A variant: its proxy, or why there is none."""

    name: str
    proxy: Proxy | None
    reason: str = ""


def check(names: tuple[str, ...], options: ProxyOptions) -> None:
    """Refuse what is no variant.

    Raises:
        UserError: an unknown name, or `tokenizer` without a file.
    """
    for name in names:
        if name not in VARIANTS and name != CHOSEN:
            raise UserError(f"--variants {name}: unknown; there are {', '.join([*VARIANTS, CHOSEN])}")
        if name == "tokenizer" and options.tokenizer is None:
            raise UserError("--variants tokenizer: say which with --tokenizer FILE")


def label(options: ProxyOptions) -> str:
    """The short name of what options say: of `VARIANTS` where it is one, else in the same manner."""
    if options.proxy == "neural":
        parts = [options.coder]
        parts += [options.windows] if options.windows != "segment" else []
        parts += ["fuzzy"] if options.fuzz != "none" else []
        parts += ["lm"] if options.segmentation == "lm" else []
        return "-".join(parts)
    if options.proxy == "bpe":
        return "tokenizer" if options.tokenizer else "bpe"
    return "raw" if options.proxy == "identity" else options.proxy


def named(name: str, options: ProxyOptions) -> ProxyOptions:
    """The options of a short name; of any other they are as given.

    Raises:
        UserError: they do not go together, as a target ratio and windows without segments.
    """
    return replace(options, **VARIANTS.get(name, {}))


def requested(names: tuple[str, ...], options: ProxyOptions) -> list[str]:
    """The names asked for, each once; none asked: the one that the options choose, else all."""
    if names:
        return list(dict.fromkeys(label(options) if name == CHOSEN else name for name in names))
    if label(options) != label(ProxyOptions()):
        return [label(options)]
    return [name for name in VARIANTS if name != "tokenizer" or options.tokenizer]


def build(names: list[str], options: ProxyOptions, sampler: Sampler, say: Report) -> Iterator[Built]:
    """Build one after another, so that one is in memory at a time.

    Args:
        names: as of `requested`.
        options: see `ProxyOptions`.
        sampler: the corpus.
        say: called with a line for people.

    Raises:
        UserError: a variant cannot be built and is the only one.
    """
    compressor = options.compressor
    for number, name in enumerate(names, 1):
        say(f"[{number}/{len(names)}] {name}")
        try:
            wanted = named(name, options)
            if wanted.proxy == "neural":
                if compressor == "auto":  # tried on the corpus once, not for each variant
                    compressor = str(choose_compressor(wanted, sampler, say).folder)
                wanted = replace(wanted, compressor=compressor)
            built = Built(name, choose(wanted, sampler, None, None, say).proxy)
        except UserError as error:
            if len(names) == 1:
                raise
            say(f"{name}: left out: {error}")
            built = Built(name, None, str(error))
        yield built
