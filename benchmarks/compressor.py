"""The neural proxy's figures: speed beside a tokenizer's, a large LM's segmentation beside its bare pass, distillation.

    python -m benchmarks.compressor speed                       # minutes; one thread
    python -m benchmarks.compressor lm [--device cuda]          # a 40M model with drawn weights: speed, not quality
    python -m benchmarks.compressor rounding --compressor FOLDER    # of a `paper` LM: what another rounding changes
    python -m benchmarks.compressor trigram                     # how predictable symbols are, by where segments start
    python -m benchmarks.compressor curves --work FOLDER        # an hour on two cores; trains five byte LMs, resumable

Prints Markdown tables (for RESULTS.md) and the machine.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest import mock

import numpy as np
import tyro

from benchmarks.preprocess import bare_batch, machine, timed, utf8
from compressor_model import codebook, encoder, fit, segment, transformer
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.model import ByteLM
from compressor_model.paper_training import PaperOptions
from compressor_model.sizes import Sizes
from compressor_model.small_training import SmallOptions
from compressor_model.text import Text, batches
from compressor_model.training_state import text_digest
from compressor_model.transformer import PASS_TOKENS, TransformerByteLM
from pipelines import proxies
from pipelines.measure import sample
from pipelines.measure.response import Edited, views
from pipelines.proxies import bpe
from pipelines.proxies.base import Encoded, EncodedBatch, Proxy
from pipelines.proxies.neural import joined
from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.records import ReadOptions
from schemas.draws import may_fit
from schemas.vocabulary import Vocabulary

ROUNDS = 5
RATE = 0.1
MEAN_SEGMENTS = (2.0, 2.3, 2.6, 2.9, 3.3, 3.8, 4.5, 5.5)


@dataclass(frozen=True)
class Speed:
    """Encoders on one thread, beside the bare tokenizer; start-up and memory of a worker.

    Attributes:
        corpus: as of preprocess.
        bytes: of it, in batches of 1 MB.
    """

    corpus: str = "stdlib"
    bytes: int = 8 << 20


@dataclass(frozen=True)
class LM:
    """`lm` segmentation beside the bare teacher-forced pass of the same model at the same shape.

    Attributes:
        device: cpu or cuda.
        layers: of the network; the other sizes are the defaults unless given.
        width: of the stream.
        heads: of attention.
        hidden: units of SwiGLU.
        bytes: to segment; default some passes of the device.
        peak: FLOP/s of the device in the precision used, for the share of the roofline (H100 SXM bf16: 989e12).
    """

    device: Literal["cpu", "cuda"] = "cpu"
    layers: int = Sizes.layers
    width: int = Sizes.width
    heads: int = Sizes.heads
    hidden: int = Sizes.hidden
    bytes: int | None = None
    peak: float | None = None


@dataclass(frozen=True)
class Rounding:
    """What other arithmetic changes in `lm` segmentation by a `paper` LM: what another kind of machine may do.

    Attributes:
        compressor: folder.
        corpus: as of preprocess.
        bytes: of it.
    """

    compressor: Path
    corpus: str = "stdlib"
    bytes: int = 1 << 20


@dataclass(frozen=True)
class Trigram:
    """How well a trigram of symbols predicts held-out text: a cheap stand-in for how learnable they are.

    Attributes:
        corpus: as of preprocess.
        bytes: of training text to count.
        distil_bytes: of it, for the tables.
    """

    corpus: str = "stdlib"
    bytes: int = 8 << 20
    distil_bytes: int = 4 << 20


@dataclass(frozen=True)
class Curves:
    """Bytes a symbol and stability by the entropy table's order and LM, and by the codebook's size and LM.

    Attributes:
        work: folder for trained LMs and results; a second run goes on there.
        corpus: as of preprocess.
        pieces: held-out pieces of 4,096 characters.
        paper_steps: of the Transformer (4 layers of 128 units, 0.9M parameters).
    """

    work: Path
    corpus: str = "stdlib"
    pieces: int = 200
    paper_steps: int = 700


def main(options: Speed | LM | Rounding | Trigram | Curves) -> None:
    """Run a part."""
    machine()
    {Speed: speed, LM: lm, Rounding: rounding, Trigram: trigram, Curves: curves}[type(options)](options)  # type: ignore[operator]


def speed(options: Speed) -> None:
    """Encoders and start-up."""
    sampler = Sampler(list_corpus(options.corpus), ReadOptions())
    documents = sampler.first(options.bytes)
    size = sum(map(len, documents)) / 1e6
    parts = list(batches(documents, 1 << 20))
    texts = [text for text in map(utf8, documents) if text is not None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_bytes(bpe.train(sampler.training(16 << 20), 32768))
        bare = size / timed(lambda: bare_batch(path, texts), 3)
    print(f"\n## Encoders (one thread, {size:.1f} MB of {options.corpus} in batches of 1 MB)\n")
    print("| encoder | MB/s | of bare `encode_batch` | bytes/symbol |\n|---|---|---|---|")
    print(f"| bare `encode_batch` of a 32k tokenizer | {bare:.1f} | 1.0 | |")
    for name, query in {
        "codebook": "",
        "codebook, 12 bits": "bits=12",
        "codebook, fuzz tail": "fuzz=tail",
        "codebook, packed": "windows=packed",
        "codebook, packed, fuzz tail": "windows=packed&fuzz=tail",
        "codebook, equal-info": "windows=equal-info",
        "codebook, `lm` segmentation (small LM)": "segmentation=lm",
        "range": "coder=range",
        "range, `lm` segmentation (small LM)": "coder=range&segmentation=lm",
    }.items():
        proxy = proxies.load(f"neural:{PRETRAINED}?{query}")
        slow = "lm" in query or "range" in query

        def encode(proxy: Proxy = proxy) -> int:
            found = [proxy.encode_batch(batch) for batch in parts]
            return sum(len(view.ids) for view in found if view is not None)

        seconds = timed(encode, 2 if slow else ROUNDS)
        rate = size / seconds
        print(f"| {name} | {rate:.1f} | {rate / bare:.1f} | {size * 1e6 / encode():.3f} |", flush=True)
    program = (
        "import time; start = time.perf_counter()\n"
        "from pipelines import proxies\nfrom compressor_model.artefact import PRETRAINED\n"
        "proxy = proxies.load(f'neural:{PRETRAINED}')\nproxy.encode(b'x = 1')\n"
        "print(time.perf_counter() - start)\n"
        "import sys\nfrom pathlib import Path\nfor path in sys.argv[1:]:\n"
        "    proxy.encode_batch([Path(path).read_bytes()])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, batch in enumerate(parts):
            paths.append(Path(folder) / str(number))
            paths[-1].write_bytes(b"".join(batch))
        command = [sys.executable, "-c", program, *map(str, paths)]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    start_up, memory = min(float(run[0]) for run in runs), max(int(run[1]) for run in runs)
    print(f"\nA process that imports, loads the codebook and codes its first document: {start_up:.2f} s, compiled code")
    print(f"cached; its peak memory over all batches: {memory / 1e3:.0f} MB.")


def lm(options: LM) -> None:
    """A Transformer with drawn weights: what it says does not matter to how fast it is."""
    import torch

    from compressor_model.network import ByteTransformer
    from compressor_model.transformer import precision

    sizes = Sizes(layers=options.layers, width=options.width, heads=options.heads, hidden=options.hidden)
    network = ByteTransformer(sizes)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    model = TransformerByteLM(sizes, weights, options.device)
    tokens = max(PASS_TOKENS[options.device], sizes.row)
    count = options.bytes or (200 if options.device == "cuda" else 8) * tokens
    data = np.random.default_rng(0).integers(0, 256, count).astype(np.uint8)
    segmenter = segment.LMSegmenter(model, 500)
    offsets = np.array([0, count], np.int64)
    symbols = torch.from_numpy(data[:tokens].astype(np.int64)).reshape(-1, sizes.row).to(options.device)
    bare_network = network.to(options.device).eval()

    def wait() -> None:
        if options.device == "cuda":
            torch.cuda.synchronize()

    def bare() -> None:
        with torch.inference_mode(), precision(options.device):
            for _ in range(max(1, count // tokens)):
                bare_network(symbols)
        wait()

    def segmented() -> None:
        segmenter.marks(data, offsets)
        wait()

    bare_rate = max(1, count // tokens) * tokens / timed(bare, 3)
    rate = count / timed(segmented, 3)
    flops = 2 * parameters
    print(
        f"\n## `lm` segmentation ({parameters / 1e6:.1f}M parameters, {options.device}, passes of {tokens:,} bytes)\n"
    )
    print(
        "| | bytes/s | of the bare pass | TFLOP/s (2 x parameters a byte)"
        + (" | of the peak |" if options.peak else " |")
    )
    print("|---|---|---|---|" + ("---|" if options.peak else ""))
    for name, value in (("bare teacher-forced pass", bare_rate), ("`lm` segmentation", rate)):
        peak = f" {value * flops / options.peak:.2f} |" if options.peak else ""
        print(f"| {name} | {value:,.0f} | {value / bare_rate:.2f} | {value * flops / 1e12:.3f} |{peak}")


def rounding(options: Rounding) -> None:
    """Entropies by fp32 as it is, by fp32 without oneDNN, and by bf16, in turns on the same text."""
    import torch

    compressor = open_compressor(options.compressor)
    model = compressor.lm()
    text = Text.of(Sampler(list_corpus(options.corpus), ReadOptions()).first(options.bytes))
    expected = model.entropies(text).astype(np.int64)
    marks = expected > compressor.lm_threshold
    print(f"\n## Rounding ({len(text.data) / 1e6:.1f} MB of {options.corpus}, {marks.sum():,} segments)\n")
    print("| arithmetic | entropies that differ | mean, 1/256 bit | segment starts that differ, of the starts |")
    print("|---|---|---|---|")
    with torch.backends.mkldnn.flags(enabled=False):
        other = model.entropies(text).astype(np.int64)
    print(_differences("fp32, another matrix product (oneDNN off)", expected, other, compressor.lm_threshold))
    as_on_gpus = torch.autocast("cpu", torch.bfloat16)
    with mock.patch.object(transformer, "precision", return_value=as_on_gpus):
        other = model.entropies(text).astype(np.int64)
    print(_differences("bf16 (as on a GPU)", expected, other, compressor.lm_threshold))


def _differences(name: str, expected: Any, other: Any, threshold: int) -> str:
    starts = ((expected > threshold) != (other > threshold)).sum() / (expected > threshold).sum()
    difference = np.abs(expected - other)
    return f"| {name} | {(difference > 0).mean():.3%} | {difference.mean():.4f} | {starts:.4%} |"


class Pair(Proxy):
    """A codebook and a segmenter from wherever, as a proxy."""

    name = "neural"

    def __init__(self, book: codebook.Codebook, segmenter: segment.Segmenter) -> None:
        self.vocabulary = Vocabulary(proxy="neural", comp_symbols=1 << book.bits)
        self._coder, self._segmenter = encoder.coder(book), segmenter

    def encode(self, raw: bytes) -> Encoded:
        """See `Proxy`."""
        batch = self.encode_batch([raw])
        return Encoded(batch.ids, batch.spans)

    def encode_batch(self, raws: Sequence[bytes]) -> EncodedBatch:
        """See `Proxy`."""
        data, offsets = joined(raws)
        return EncodedBatch(*self._coder.encode(data, offsets, self._segmenter.marks(data, offsets)))

    def decode(self, ids: Any) -> bytes:
        """See `Proxy`."""
        return self._coder.decode(ids)


def trigram(options: Trigram) -> None:
    """Bits per raw byte of held-out documents, by interpolated Witten-Bell trigrams of symbols."""
    sampler = Sampler(list_corpus(options.corpus), ReadOptions())
    training = list(sampler.training(options.bytes))
    held_out = [document.raw for document in sampler.documents() if not may_fit(document.doc_id)]
    compressor = open_compressor(PRETRAINED)
    model, book = compressor.lm(), compressor.codebook(16)
    text = Text.of(training).first(options.distil_bytes)
    entropies = model.entropies(text)
    found: dict[str, Proxy] = {}
    for order in (2, 3, 4):
        table = segment.distil(entropies, text, 3.3, order)
        values = segment.TableSegmenter(table).entropies(text.data, text.offsets)
        for mean in (2.9, 3.3, 3.8):
            segmenter = segment.TableSegmenter(table, segment.threshold_for(values, mean))
            found[f"{order} bytes, mean segment {mean}"] = Pair(book, segmenter)
    threshold = segment.threshold_for(entropies, 3.3)
    found["the LM itself, mean segment 3.3"] = Pair(book, segment.LMSegmenter(model, threshold))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_bytes(bpe.train(iter(training), 32768))
        found["BPE 32k"] = proxies.load(f"bpe:{path}")
    print(f"\n## Trigrams of symbols ({sum(map(len, training)) / 1e6:.1f} MB counted)\n")
    print("| segments start by | bytes/symbol | bits per raw byte |\n|---|---|---|")
    for name, proxy in found.items():
        ratio, bits = _trigram_bits(proxy, training, held_out)
        print(f"| {name} | {ratio:.3f} | {bits:.3f} |", flush=True)


def _trigram_bits(proxy: Proxy, training: list[bytes], held_out: list[bytes]) -> tuple[float, float]:
    """Raw bytes a symbol, and bits a raw byte."""
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for view in views(proxy, training):
        before, last = -1, -1
        for symbol in view.ids:
            for context in ((), (last,), (before, last)):
                counts[context][symbol] += 1
            before, last = last, symbol
    totals = {context: (followers.total(), len(followers)) for context, followers in counts.items()}
    bits, symbols = 0.0, 0
    for view in views(proxy, held_out):
        before, last = -1, -1
        for symbol in view.ids:
            p = 1 / proxy.vocabulary.size
            for context in ((), (last,), (before, last)):
                if context in totals:
                    total, kinds = totals[context]
                    p = (counts[context][symbol] + kinds * p) / (total + kinds)
            bits -= math.log2(p)
            before, last = last, symbol
        symbols += len(view.ids)
    raw = sum(map(len, held_out))
    return raw / symbols, bits / raw


@dataclass(frozen=True)
class Remembering:
    """A byte LM that computes the entropies of a text once, whatever run asks."""

    model: ByteLM
    folder: Path

    def entropies(self, text: Text) -> Any:
        """See `ByteLM`."""
        path = self.folder / f"entropies-{text_digest(text)[:16]}.npy"
        if not path.exists():
            np.save(path, self.model.entropies(text))
        return np.load(path)

    def next_frequencies(self, strings: Sequence[bytes]) -> Any:
        """See `ByteLM`."""
        return self.model.next_frequencies(strings)


@dataclass
class Point:
    """A combination and what it does."""

    part: str
    table: str
    order: str
    codebook: str
    bits: int
    mean_segment: float
    bytes_per_symbol: float = 0.0
    distance: float = 0.0
    error: float = field(default=0.0)


def curves(options: Curves) -> None:
    """Train, distil, measure, print."""
    options.work.mkdir(parents=True, exist_ok=True)
    sampler = Sampler(list_corpus(options.corpus), ReadOptions())
    text, _ = fit._split(((d.doc_id, d.raw) for d in sampler.documents()), 32 << 20)
    digest = text_digest(text)
    distil_text = text.first(8 << 20)
    pieces = sample.pieces(sampler, count=options.pieces, length=4096, seed=0, all_documents=False)
    edited = Edited.of(pieces, (RATE,), 0)
    held_out_documents = [d.raw for d in sampler.documents() if not may_fit(d.doc_id)]
    models: dict[str, Any] = {}
    print("\n## Distillation\n\n| byte LM | parameters | held-out bits per byte |\n|---|---|---|")
    for name, lm_options in {
        "small, 2^12 rows": SmallOptions(rows=1 << 12),
        "small, 2^14 rows": SmallOptions(),
        "small, 2^15 rows": SmallOptions(rows=1 << 15),
        "small, 2^14 rows, 9,000 steps": SmallOptions(steps=9000),
        "Transformer, 0.9M": PaperOptions(
            layers=4, width=128, heads=4, hidden=352, row=512, context=128, batch=8192, steps=options.paper_steps,
            learning_rate=2e-3, device="cpu",
        ),
    }.items():  # fmt: skip
        folder = options.work / f"lm-{name.replace(', ', '-').replace(' ', '-').replace('^', '')}"
        if not (folder / "card.json").exists():
            fit.fit(
                ((d.doc_id, d.raw) for d in sampler.documents()), fit.FitOptions(bits=(12,), lm=lm_options),
                folder=folder, name=name, provenance={"command": "benchmarks"}, report=_say, resumable=True,
            )  # fmt: skip
        compressor = open_compressor(folder)
        assert compressor.card["lm"]["text_sha256"] == digest
        loaded = compressor.lm()
        models[name] = Remembering(loaded, folder)
        arrays = loaded.weights() if isinstance(loaded, TransformerByteLM) else vars(loaded)
        parameters = sum(array.size for array in arrays.values() if isinstance(array, np.ndarray))
        bits = compressor.card["lm"]["bits_per_byte"]
        print(f"| {name} | {parameters / 1e6:.2f}M | {bits:.3f} |", flush=True)
    default = "small, 2^14 rows"
    books: dict[tuple[str, int], codebook.Codebook] = {}

    def book(name: str, bits: int) -> codebook.Codebook:
        if (name, bits) not in books:
            _say(f"codebook of {bits} bits from {name}")
            books[name, bits] = codebook.build(bits, models[name].next_frequencies)
        return books[name, bits]

    def measured(point: Point, segmenter: segment.Segmenter) -> Point:
        from rapidfuzz.distance import Levenshtein

        proxy = Pair(book(point.codebook, point.bits), segmenter)
        batch = proxy.encode_batch(held_out_documents)
        point.bytes_per_symbol = sum(map(len, held_out_documents)) / len(batch.ids)
        before, after = views(proxy, edited.before), views(proxy, edited.after["deletion", f"{RATE:g}"])
        values = [Levenshtein.normalized_distance(a.ids, b.ids) for a, b in zip(before, after, strict=True)]
        point.distance, point.error = float(np.mean(values)), float(np.std(values) / len(values) ** 0.5)
        _say(f"{point}")
        points.append(point)
        return point

    points: list[Point] = []
    tables: dict[tuple[str, int], segment.EntropyTable] = {}
    for name, model in models.items():
        entropies = model.entropies(distil_text)
        for order in (2, 3, 4):
            table = segment.distil(entropies, distil_text, 3.3, order)
            tables[name, order] = table
            values = segment.TableSegmenter(table).entropies(distil_text.data, distil_text.offsets)
            thresholds = {segment.threshold_for(values, mean): mean for mean in reversed(MEAN_SEGMENTS)}
            for threshold, mean in sorted(thresholds.items()):
                measured(Point("table", name, str(order), default, 16, mean), segment.TableSegmenter(table, threshold))
        for mean in MEAN_SEGMENTS:
            threshold = segment.threshold_for(entropies, mean)
            measured(Point("table", name, "LM", default, 16, mean), segment.LMSegmenter(model, threshold))
    for name in models:
        for bits in (12, 13, 14, 15, 16):
            measured(Point("codebook", default, "2", name, bits, 3.3), segment.TableSegmenter(tables[default, 2]))
    (options.work / "points.json").write_text(json.dumps([vars(point) for point in points], indent=1) + "\n")
    _print_curves(points)


def _print_curves(points: list[Point]) -> None:
    names = list(dict.fromkeys(point.table for point in points if point.part == "table"))
    lengths = (2.4, 2.7, 3.0, 3.3, 3.7)
    print("\n### Where segments start: symbols changed by 10 % deletion at equal bytes a symbol (16 bits)\n")
    print("| entropies by | from | " + " | ".join(f"{length}" for length in lengths) + " |")
    print("|---|---|" + "---|" * len(lengths))
    for order in ("2", "3", "4", "LM"):
        for name in names:
            found = [point for point in points if (point.part, point.order, point.table) == ("table", order, name)]
            curve = sorted((point.bytes_per_symbol, point.distance) for point in found)
            cells = (f"{np.interp(length, *zip(*curve, strict=True)):.3f}" for length in lengths)
            print(f"| {f'{order} bytes' if order != 'LM' else 'the LM itself'} | {name} | {' | '.join(cells)} |")
    sizes = sorted({point.bits for point in points if point.part == "codebook"})
    print("\n### The codebook: bytes a symbol, symbols changed (table of 2 bytes, mean segment 3.3)\n")
    print("| from | " + " | ".join(f"{bits} bits" for bits in sizes) + " |\n|---|" + "---|" * len(sizes))
    for name in names:
        row = [point for point in points if (point.part, point.codebook) == ("codebook", name)]
        cells = (f"{point.bytes_per_symbol:.3f}, {point.distance:.3f}" for point in row)
        print(f"| {name} | {' | '.join(cells)} |")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


Command = (
    Annotated[Speed, tyro.conf.subcommand("speed")]
    | Annotated[LM, tyro.conf.subcommand("lm")]
    | Annotated[Rounding, tyro.conf.subcommand("rounding")]
    | Annotated[Trigram, tyro.conf.subcommand("trigram")]
    | Annotated[Curves, tyro.conf.subcommand("curves")]
)

if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(tyro.cli(Command))  # type: ignore[arg-type]
