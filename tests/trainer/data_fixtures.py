"""Datasets for the loader's tests: in memory, or made by `preprocess` once a session; a plain twin of the packing."""

import atexit
import functools
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.plan import Unit
from schemas.draws import document_id, draw_u64
from schemas.errors import UserError
from schemas.vocabulary import Vocabulary
from trainer.data.batch import Batch
from trainer.data.loader import Loader
from trainer.data.options import LoaderOptions
from trainer.data.rows import Column, RowGroup, RowKey
from trainer.data.state import merge_states
from trainer.data.views import Schedule

TOKENIZER = Path(__file__).parent.parent / "data" / "tokenizer.json"


@dataclass
class Row:
    """A document in memory; comp ids are 320.. and spans say how many bytes each stands for."""

    raw: bytes
    comp: list[int] | None = None
    spans: list[int] | None = None
    key: RowKey | None = None
    """Where it is not that of a document of its own."""


def make_row(rng: random.Random, spans: list[int]) -> Row:
    raw = rng.randbytes(sum(spans))
    return Row(raw, [rng.randrange(64, 420) for _ in spans], spans)


class MemoryDataset:
    """What the loader needs of a `Dataset`, from rows."""

    def __init__(self, groups: list[list[Row]], *, proxy: str = "memory", symbols: int = 100) -> None:
        self.url, self.proxy_name, self.fingerprint = "memory", proxy, proxy
        self.groups, self.vocabulary = groups, Vocabulary(proxy=proxy, comp_symbols=symbols)
        self.rows = np.array([len(group) for group in groups], np.int64)
        self.raw_bytes = np.array([sum(len(row.raw) for row in group) for group in groups], np.int64)
        self.has_comp = symbols > 0
        self.has_spans = any(row.spans is not None for group in groups for row in group)
        self.row_groups_digest = hashlib.sha256(repr(groups).encode()).hexdigest()
        self.read_ordinals: list[int] = []

    def __len__(self) -> int:
        return len(self.groups)

    def largest_decoded(self, columns: tuple[str, ...]) -> int:
        return int(self.raw_bytes.max())

    def damaged_document(self, ordinal: int, doc_id: bytes, what: str) -> UserError:
        return UserError(f"row group {ordinal}: document {doc_id.hex()}: {what}")

    def read(self, ordinal: int, columns: tuple[str, ...] = ()) -> RowGroup:
        rows = self.groups[ordinal]
        self.read_ordinals.append(ordinal)
        keys = [row.key or RowKey(document_id(row.raw), n, 0, f"{ordinal}") for n, row in enumerate(rows)]

        def load(_: RowGroup, name: str) -> Column | None:
            assert name in columns, f"{name} was not asked for"
            lists: list[Any] = [getattr(row, name) for row in rows]
            if any(item is None for item in lists):
                return None
            kind = {"raw": np.uint8, "comp": np.int32, "spans": np.uint16}[name]
            values = np.array([value for item in lists for value in item], kind)
            bounds = np.cumsum([0, *map(len, lists)])
            return Column(values, bounds[:-1], bounds[1:], int(values.max(initial=0)))

        return RowGroup(keys, [len(row.raw) for row in rows], load)


def random_dataset(seed: int, groups: int, rows: int = 3, longest: int = 60, *, spans: bool = True) -> MemoryDataset:
    """Random rows, some empty, some with symbols of span 0."""
    rng = random.Random(seed)

    def row() -> Row:
        count = rng.choice([0, 1, rng.randint(1, longest), rng.randint(1, longest)])
        made = make_row(rng, [rng.randint(1, 4), *(rng.choice([0, 1, 2, 3, 5]) for _ in range(count - 1))][:count])
        return made if spans else Row(made.raw, made.comp, None)

    return MemoryDataset([[row() for _ in range(rng.randint(1, rows))] for _ in range(groups)])


def numbered_dataset(
    first: int, groups: int, rows: int, longest: int, *, seed: int = 0, proxy: str = "memory"
) -> MemoryDataset:
    """Documents whose bytes and whose comp ids tell their number, again and again: `first`, `first` + 1, ... as stored.

    A document has 1 to `longest` repetitions of six digits, which are three comp symbols of two bytes each.
    """
    rng, number, made = random.Random(seed), first, []
    for _ in range(groups):
        made.append([])
        for _ in range(rows):
            times = rng.randint(1, longest)
            digits = b"%06d" % number
            comp = [320 + int(digits[at : at + 2]) for at in (0, 2, 4)] * times
            made[-1].append(Row(digits * times, comp, [2] * len(comp)))
            number += 1
    return MemoryDataset(made, proxy=proxy)


def number_of(symbols: list[int]) -> int:
    """The number that a numbered document's symbols tell, all of one view."""
    if symbols[0] < 320:
        return int(bytes(symbol - 64 for symbol in symbols[:6]))
    return int("".join(f"{symbol - 320:02d}" for symbol in symbols[:3]))


def plain_deal(dataset: Any, *, index: int, seed: int, lanes: int, epoch: int) -> list[list[int]]:
    """Row groups of each lane by the design's words: in permuted order, each to the lane with the fewest bytes."""
    draws = [(draw_u64("unit", seed=seed, epoch=epoch, record=n, piece=index), n) for n in range(len(dataset))]
    totals: list[int] = [0] * lanes
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    for _, ordinal in sorted(draws):
        lane = totals.index(min(totals))
        dealt[lane].append(ordinal)
        totals[lane] += int(dataset.raw_bytes[ordinal])
    return dealt


def loader_of(datasets: Any, **options: Any) -> Loader:
    """A loader of one or several datasets in memory."""
    several = datasets if isinstance(datasets, list) else [datasets]
    given = {"batch": 4, "sequence": 64, "steps": 300, "seed": 1, "prefetch": 0, **options}
    return Loader(LoaderOptions(data=tuple(d.url for d in several), **given), several)


def digest(arrays: Any) -> str:
    """Of all arrays: their types, shapes and bytes."""
    h = hashlib.sha256()
    for array in arrays:
        h.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def global_digest(batches: list[Batch]) -> str:
    """Digest of the global batch that the ranks' batches of one step make: rank k has lanes k, k + W, ..."""
    ranks = zip(*(batch.arrays for batch in batches), strict=True)
    return digest(np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]) for parts in ranks)


def run_world(datasets: Any, steps: int, world: int, state: Any = None, **options: Any) -> tuple[list[str], Any]:
    """Digests of global batches of some steps at a world size, and the merged state after them."""
    loaders = [loader_of(datasets, rank=rank, world=world, **options) for rank in range(world)]
    for loader in loaders:
        if state is not None:
            loader.load_state(state)
    digests = [global_digest([next(loader) for loader in loaders]) for _ in range(steps)]
    merged = merge_states([loader.state() for loader in loaders])
    for loader in loaders:
        loader.close()
    return digests, merged


def run_here(work: Callable[[Unit], object], units: list[Unit], *_: object) -> None:
    for unit in units:
        work(unit)


@functools.cache
def made_dataset(proxy: str) -> Path:
    """The folder of a small dataset on disk, which no test may change: 90 documents, one empty, one twice, one long."""
    folder = Path(tempfile.mkdtemp(prefix="loader-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = random.Random(0)
    corpus = folder / "corpus"
    corpus.mkdir()
    words = [f"name_{n} = value[{n}]\n" for n in range(50)] + ["def f(self):\n", "    return None\n", "\n", "é→中\n"]
    for n in range(58):
        (corpus / f"text{n:03d}.py").write_text("".join(rng.choices(words, k=rng.randint(1, 120))))
    (corpus / "empty.py").write_bytes(b"")
    (corpus / "twice.py").write_bytes((corpus / "text001.py").read_bytes())
    (corpus / "long.py").write_text("".join(rng.choices(words, k=1500)))
    (corpus / "bytes.bin").write_bytes(bytes(range(256)) * 4)
    lines = [json.dumps({"text": "".join(rng.choices(words, k=40))}) for _ in range(30)]
    (corpus / "some.jsonl").write_text("\n".join(lines))  # a unit of its own
    return preprocessed(corpus, folder / "data", proxy, unit_bytes=20_000, row_group_bytes=4096)


def preprocessed(corpus: Path, out: Path, proxy: str, **options: Any) -> Path:
    """The dataset that `preprocess` makes of a folder, in this process."""
    given: dict[str, Any] = {"neural": {"compressor": "pretrained", "bits": 12}, "bpe": {"tokenizer": str(TOKENIZER)}}
    chosen = ProxyOptions(proxy=proxy, **given.get(proxy, {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.runners.beam.run", run_here)
        preprocess(PreprocessOptions(corpus=str(corpus), out=str(out), proxy=chosen, quiet=True, **options))
    return out


# The plain twin of lanes' sequences: lists of Python integers, one at a time, as the design's words say.

OPEN, CLOSE = {0: 12, 1: 14}, {0: 13, 1: 15}


@dataclass
class Slot:
    """One id of a sequence: its rendering and place there; None for padding and re-opened openers."""

    id: int
    view: int
    doc: int
    position: int
    rendering: list[tuple[int, int]] | None = None
    place: int = 0


def twin_rendering(views: tuple[int, ...], raw: list[int], comp: list[int], sentinels: bool) -> list[tuple[int, int]]:
    """(id, view) of each symbol."""
    out = [(1, 2)]
    for view in views:
        content = [(64 + b, 0) for b in raw] if view == 0 else [(symbol, 1) for symbol in comp]
        out += [(OPEN[view], view), *content, (CLOSE[view], view)] if sentinels else content
    return [*out, (2, 2)]


def twin_sequences(
    documents: Any, schedule: Schedule, steps: int, length: int, pair_symbols: int, sentinels: bool
) -> list[list[Slot]]:
    """Sequences of one lane from its endless (Row, key, epoch) of documents that are not empty."""
    sequences: list[list[Slot]] = [[]]
    fixed = 6 if sentinels else 2

    def full() -> bool:
        return len(sequences[-1]) == length

    def new_doc() -> int:
        return sequences[-1][-1].doc + 1 if sequences[-1] else 0

    def emit(rendering: list[tuple[int, int]]) -> None:
        start, doc = len(sequences[-1]), new_doc()
        for place, (symbol, view) in enumerate(rendering):
            if full():
                if len(sequences) == steps:
                    return
                sequences.append([])
                start, doc = 0, 0
                if place and sentinels and view != 2 and symbol not in OPEN.values():
                    sequences[-1].append(Slot(OPEN[view], view, 0, 0))
            at = len(sequences[-1])
            sequences[-1].append(Slot(symbol, view, doc, at - start, rendering, place))

    for row, key, epoch in documents:
        if full():
            if len(sequences) == steps:
                return sequences
            sequences.append([])
        views = schedule.view(key, epoch, len(sequences) - 1).value
        if len(views) == 1 or row.spans is None:
            emit(twin_rendering(views, list(row.raw), row.comp or [], sentinels))
            continue
        bounds = [n for n, span in enumerate(row.spans) if span > 0] + [len(row.spans)]
        a = 0

        def cost(a: int, b: int, row: Row = row) -> int:
            assert row.spans is not None
            return sum(row.spans[a:b]) + b - a + fixed

        while a < len(row.spans):
            if full():
                if len(sequences) == steps:
                    return sequences
                sequences.append([])
            left = length - len(sequences[-1])
            limit = min(left, pair_symbols)
            fitting = [b for b in bounds if b > a and cost(a, b) <= limit]
            end = max(fitting) if fitting else min(b for b in bounds if b > a)
            if limit < min(cost(a, len(row.spans)), pair_symbols / 8) or left < cost(a, end) <= length:
                start, doc = len(sequences[-1]), new_doc()
                sequences[-1] += [Slot(0, 2, doc, n) for n in range(length - start)]
                continue
            first, last = sum(row.spans[:a]), sum(row.spans[:end])
            emit(twin_rendering(views, list(row.raw[first:last]), row.comp[a:end], sentinels))
            a = end
    raise AssertionError("documents are endless")


def twin_labels(slot: Slot, main: int, raw: int, reference: bool = False) -> tuple[list[int], list[float]]:
    """Labels and weights of one position by the formulas of design section 7."""
    labels, m = [], []
    for h in range(main + raw):
        exists = slot.rendering is not None and slot.place + 1 + h < len(slot.rendering)
        y = slot.rendering[slot.place + 1 + h][0] if exists else 0
        following = [s for s, _ in slot.rendering[slot.place + 1 : slot.place + 2 + h]] if slot.rendering else []
        ours = not any(s in (1, 12, 14) for s in following) and 2 not in following[:h]
        kind = h < main or (slot.view == 0 and y < 320)
        m.append(int(exists and (ours or reference) and kind))
        labels.append(y if m[-1] else 0)
    return labels, [x / sum(m) if x else 0.0 for x in m]
