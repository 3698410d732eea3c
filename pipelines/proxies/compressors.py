"""Which compressor a corpus gets: the shipped one where it suits the text, else one fitted to it."""

from compressor_model import fit
from compressor_model.artefact import CARD, PRETRAINED, Compressor, open_compressor
from compressor_model.train import MIN_TEXT_BYTES
from pipelines.proxies import cache, neural
from pipelines.proxies.cache import Report
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.sampler import Sampler
from schemas.errors import UserError
from schemas.secrets import redacted

SAMPLE_BYTES = 8 << 20
"""Text on which a compressor is tried, and the least of it that is worth fitting one to."""

KEEP_SHARE = 0.9
"""A compressor that reaches this share of its recorded bytes per symbol suits the corpus."""

_FIT_VERSION = 2


def choose_compressor(options: ProxyOptions, sampler: Sampler, report: Report) -> Compressor:
    """The compressor that `--compressor` means; `auto` tries the shipped one on a sample of the corpus."""
    if options.compressor not in ("auto", "pretrained"):
        return open_compressor(options.compressor)
    shipped = open_compressor(PRETRAINED)
    bits = options.bits
    if options.coder == "range" and bits not in shipped.bits:
        bits = shipped.bits[-1]  # it needs no codebook: this one is for the trial
    if bits not in shipped.bits:
        if options.compressor == "pretrained":
            raise UserError(
                f"BITS={bits} COMPRESSOR=pretrained: a compressor of {shipped.bits} bits is shipped; "
                "leave COMPRESSOR out to fit one to the corpus"
            )
    elif options.compressor == "pretrained":
        return shipped
    sample = sampler.first(SAMPLE_BYTES)
    tried = bits if bits in shipped.bits else shipped.bits[-1]
    ratio = _ratio(shipped, tried, sample)
    recorded = shipped.score(tried)
    if not any(sample):
        return shipped
    found = f"codes this corpus at {ratio:.2f} bytes a symbol ({recorded:.2f} on the text it was made for)"
    if bits in shipped.bits and ratio >= KEEP_SHARE * recorded:
        report(f"compressor: the shipped one {found}")
        return shipped
    lacks = _lacks(sample, sampler)
    if lacks:
        if bits not in shipped.bits:
            raise UserError(
                f"BITS={bits}: a compressor of {shipped.bits} bits is shipped, and this corpus {lacks}, too small to "
                "fit one; use one of those or COMPRESSOR=folder"
            )
        report(f"compressor: the shipped one {found}; the corpus {lacks}, too small to fit a better one")
        return shipped
    if bits not in shipped.bits:
        found = f"is of {shipped.bits} bits"
    report(f"compressor: the shipped one {found}")
    fitted = fitted_compressor(bits, sampler, report)
    fitted_ratio = _ratio(fitted, bits, sample)
    if bits in shipped.bits and fitted_ratio <= ratio:
        report(f"compressor: the fitted one codes it no better ({fitted_ratio:.2f}); the shipped one is used")
        return shipped
    report(f"compressor: the fitted one codes this corpus at {fitted_ratio:.2f} bytes a symbol")
    return fitted


def fitted_compressor(bits: int, sampler: Sampler, report: Report) -> Compressor:
    """A compressor fitted to the corpus, from the cache if it is there."""
    settings = fit.FitOptions(bits=(bits,))
    folder = cache.place("compressor", {"fit": _FIT_VERSION, "options": repr(settings), **sampler.identity()})
    if (folder / CARD).exists():
        report(f"compressor: {folder} (fitted before to this corpus)")
        return open_compressor(folder)
    report("compressor: fitting one to the corpus (minutes, once)")
    temp = cache.beside(folder, report)
    fit.fit(
        ((document.doc_id, document.raw) for document in sampler.documents()),
        settings,
        folder=temp,
        name=f"fitted to {redacted(sampler.corpus.spec)}",
        provenance={"corpus": {"spec": redacted(sampler.corpus.spec), "listing_digest": sampler.corpus.listing_digest}},
        report=report,
    )
    return open_compressor(cache.settle(temp, folder))


def _lacks(sample: list[bytes], sampler: Sampler) -> str:
    """In words, why nothing can be fitted to the corpus; empty if something can."""
    if sum(map(len, sample)) < SAMPLE_BYTES:
        return f"is smaller than {SAMPLE_BYTES >> 20} MiB"
    if sum(map(len, sampler.training(MIN_TEXT_BYTES))) < MIN_TEXT_BYTES:  # one large document, held out
        return f"has less than {MIN_TEXT_BYTES >> 10} KiB that is not held out"
    return ""


def _ratio(compressor: Compressor, bits: int, sample: list[bytes]) -> float:
    """Bytes a symbol of the codebook with the compressor's own table and threshold, whatever will be used."""
    proxy = neural.build(compressor, neural.Parameters(bits=bits))
    return sum(map(len, sample)) / max(1, len(proxy.encode_batch(sample).ids))
