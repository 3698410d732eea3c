"""How fast each proxy goes and what it leaves: measured figures of jobs, or measured here on a sample of a corpus."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from pipelines import proxies
from pipelines.job import Job
from pipelines.planning.groups import DOCUMENT_SPREAD, spread_of
from pipelines.planning.sample import sampled
from pipelines.proxies.options import ProxyOptions
from pipelines.proxies.prepare import choose
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import Corpus
from pipelines.reading.plan import PlanOptions, row_group_bytes
from pipelines.reading.records import ReadOptions
from pipelines.shard import encode_shard
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Receipt

MEASURED_ON = "one worker on a core of an AMD EPYC (2 cores, 23 GiB), Python 3.11, proof on; benchmarks/RESULTS.md"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a proxy does to a corpus.

    Attributes:
        mb_per_second: raw bytes / 1e6 that a worker makes in a second of work.
        bytes_per_symbol: raw bytes of a comp symbol; None without a comp view.
        stored_per_raw: bytes of shards by raw bytes.
        document_bytes: mean raw bytes of a document.
        document_spread: standard deviation of the logarithm of these.
        raw_per_input: raw bytes by stored bytes of the inputs: 1 unless they are compressed or JSON.
        measured: on what.
    """

    mb_per_second: float
    bytes_per_symbol: float | None
    stored_per_raw: float
    document_bytes: float
    document_spread: float = DOCUMENT_SPREAD
    raw_per_input: float = 1.0
    measured: str = MEASURED_ON


_LIBRARIES = 14_800.0  # mean bytes of a document of site-packages
_STDLIB = 17_600.0

RATES = {
    "neural": Rates(mb_per_second=21.7, bytes_per_symbol=2.63, stored_per_raw=0.759, document_bytes=_LIBRARIES),
    "neural-range": Rates(mb_per_second=2.6, bytes_per_symbol=2.87, stored_per_raw=0.771, document_bytes=_STDLIB),
    "bpe": Rates(mb_per_second=3.3, bytes_per_symbol=3.95, stored_per_raw=0.610, document_bytes=_STDLIB),
    "gzip": Rates(mb_per_second=11.9, bytes_per_symbol=4.56, stored_per_raw=0.542, document_bytes=_STDLIB),
    "identity": Rates(mb_per_second=39.1, bytes_per_symbol=None, stored_per_raw=0.277, document_bytes=_STDLIB),
}
"""Of jobs on the sources of Python's libraries: "neural" on site-packages (221 MB), the others on the stdlib (32 MB).

Sizes are of the compressor that is shipped (benchmarks/RESULTS.md, 2026-11-28), speeds of `make bench` (2026-11-25):
they do not hang on the compressor. Another text or machine has others: measure there.
"""


def rates_of(options: ProxyOptions) -> Rates:
    """The table's figures for a proxy's options.

    Raises:
        UserError: a proxy, or a form of one, that is not in the table.
    """
    remedy = "no measured rate; measure it on a corpus here: --corpus ... --measure"
    is_range = options.proxy == "neural" and options.coder == "range"
    name = "neural-range" if is_range else options.proxy
    if name not in RATES:
        raise UserError(f"PROXY={name}: {remedy}")
    in_table = ProxyOptions(proxy=options.proxy, coder="range" if is_range else "codebook").request()
    others = [f"{key}={value}" for key, value in options.request().items() if value != in_table.get(key)]
    if others:
        raise UserError(f"PROXY={options.proxy} with {', '.join(others)}: {remedy}")
    return RATES[name]


def measure(corpus: Corpus, options: ProxyOptions, read: ReadOptions, sample_bytes: int) -> Rates:
    """The rates of one worker of this machine, from one unit made of a seeded sample of the corpus and thrown away.

    Args:
        corpus: listed.
        options: of the proxy, which is chosen or trained as a job would.
        read: how documents are read.
        sample_bytes: of input, about; of a long file that cannot be cut only the head is read.

    Raises:
        UserError: no proxy, or a sample without text.
    """
    with tempfile.TemporaryDirectory(prefix="proxy-compression-") as folder:
        heads = Path(folder, "heads")
        heads.mkdir()
        unit, seconds = sampled(corpus, read, sample_bytes, heads)
        out = Folder(str(Path(folder, "out")))
        proxy = choose(options, Sampler(corpus, read), None, None, lambda line: None).proxy
        job = Job(
            out=out,
            proxy_uri=proxy.uri,
            fingerprint=proxy.fingerprint,
            read=read,
            run_bytes=PlanOptions().resolved_unit_bytes(corpus.taken_bytes),
            row_group_bytes=row_group_bytes(corpus.taken_bytes),
        )
        _warm_up(proxies.load(proxy.uri))
        outcome = encode_shard(job, unit)
        receipt = Receipt.from_bytes(out.read(outcome.receipt), outcome.receipt)
        lengths = pq.read_table(out.path / receipt.shard.name, columns=["raw_bytes"])["raw_bytes"].to_numpy()
    if not receipt.shard.raw_bytes:
        raise UserError(f"{corpus.spec}: no text in a sample of {unit.input_bytes:,} bytes; see what it rejects first")
    measured = f"here, one worker on {receipt.shard.raw_bytes / 1e6:.1f} MB of it"
    receipt = replace(receipt, seconds={**receipt.seconds, "heads": seconds})
    return rates_from([receipt], unit.input_bytes, measured, spread_of(lengths))


def rates_from(
    receipts: list[Receipt], input_bytes: int, measured: str, document_spread: float = DOCUMENT_SPREAD
) -> Rates:
    """What receipts say.

    Args:
        receipts: of units that hold some bytes.
        input_bytes: of these units.
        measured: on what, in words.
        document_spread: see `Rates`; receipts do not say it.
    """
    raw = sum(receipt.shard.raw_bytes for receipt in receipts)
    symbols = sum(receipt.shard.comp_symbols for receipt in receipts)
    seconds = sum(sum(receipt.seconds.values()) for receipt in receipts)
    return Rates(
        mb_per_second=raw / 1e6 / seconds,
        bytes_per_symbol=raw / symbols if symbols else None,
        stored_per_raw=sum(receipt.shard.size for receipt in receipts) / raw,
        document_bytes=raw / sum(receipt.shard.rows for receipt in receipts),
        document_spread=document_spread,
        raw_per_input=raw / input_bytes,
        measured=measured,
    )


def _warm_up(proxy: proxies.Proxy) -> None:
    """Compiled loops are loaded at the first call, which a job of hours does not notice."""
    encoded = proxy.encode(b"def f(x):\n    return x\n")
    if encoded is not None and proxy.lossless:
        proxy.decode(encoded.ids)
