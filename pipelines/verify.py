"""`python -m pipelines verify`: is every byte of a dataset what it was made to be?

Checks the manifest against receipts, description, row-group table, proxy files and the files that are there, and
each unit (`verify_shard`, `verify_rows`) in a process; gives lines that name the place of each fault. The views are
proven again by decoding them. Memory: one row group a process and, here, the manifest.
Cost on one core of a shared machine, start included: 50 MB/s of raw bytes with neural views, 70 without decoding.
"""

import multiprocessing
import multiprocessing.connection
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from pipelines import commit, dataset
from pipelines.proxies.prepare import PROXY_FOLDER, dataset_proxy
from pipelines.runners import local_pool
from pipelines.storage import Folder
from pipelines.verify_shard import NOT_AS_SEALED, Checked, Task, check_unit, groups_digest, is_as_sealed
from schemas.errors import UserError
from schemas.machine import available_cores
from schemas.manifest import Manifest, Receipt, RejectsEntry, RowGroupEntry, ShardEntry
from schemas.names import DATASET, MANIFEST, ROW_GROUPS, SHARD_NAME
from schemas.remote import StoreError
from schemas.secrets import redacted

WORKER_BYTES = 64 << 20
"""Of shards for each further process, which takes a second or two to start."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Check every byte of a dataset.

    Attributes:
        data: the dataset's folder, local or a URL.
        decode: decode each comp view and compare it with the raw bytes.
        workers: processes; default all cores, fewer for a small dataset.
    """

    data: str = "data/stdlib-neural"
    decode: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers {self.workers}: give 1 or more")


def run(options: VerifyOptions) -> None:
    """The command: print the faults, or one line that says what was checked.

    Raises:
        UserError: there are faults, or no finished dataset.
    """
    start = time.monotonic()
    faults = verify(options)
    if faults:
        sys.stdout.write("".join(f"{redacted(fault)}\n" for fault in faults))
        sys.stdout.flush()
        raise UserError(
            f"DATA={redacted(options.data)}: {len(faults)} fault{'s' if len(faults) > 1 else ''}; the same preprocess "
            "command run again redoes damaged units (files that are not of the dataset are yours to delete)"
        )
    seconds = time.monotonic() - start
    manifest = dataset.open_dataset(options.data).manifest
    totals = manifest.totals
    decoded = options.decode and is_provable(manifest.dataset) and totals.comp_symbols
    sys.stdout.write(
        f"{redacted(options.data)}: whole; {totals.rows:,} documents in {len(manifest.shards)} shards, "
        f"{totals.rejects:,} rejects, "
        f"{totals.raw_bytes / 1e6:.1f} MB raw, {totals.comp_symbols:,} symbols{' decoded' if decoded else ''}; "
        f"{seconds:.1f} s, {totals.raw_bytes / 1e6 / seconds:.1f} MB/s\n"
    )


def verify(options: VerifyOptions) -> list[str]:
    """The faults of a finished dataset, one line each; empty if it is whole.

    Raises:
        UserError: there is no finished dataset.
        StoreError: the store gives no answer, or TMPDIR has no room: nothing can be said of the dataset.
    """
    local_pool.use_one_thread()
    folder = Folder(options.data)
    faults: list[str] = []
    manifest = _manifest(options.data, faults)
    described = _description(folder, manifest, faults)
    if described is None:
        return faults  # nothing to check against
    proxy_uri = _check_proxy(folder, described, options.decode, faults)
    tasks = _tasks(folder, manifest, described, proxy_uri, faults)
    faults += _unexpected(folder, tasks)
    checked = list(_checked(tasks, options))
    faults += [fault for unit in checked for fault in unit.faults]
    receipts = [unit.receipt for unit in checked if unit.receipt is not None]
    if manifest is not None and len(receipts) == len(tasks):
        faults += _check_manifest(manifest, described, receipts)
    if manifest is not None:
        faults += _check_row_groups(folder, manifest, dict(zip((task.stem for task in tasks), checked, strict=True)))
    return faults


def _manifest(data: str, faults: list[str]) -> Manifest | None:
    folder = Folder(data)
    try:
        manifest = dataset.open_dataset(data).manifest
        if not is_as_sealed(folder.read(MANIFEST), MANIFEST):
            faults.append(f"{MANIFEST}: {NOT_AS_SEALED}")
        return manifest
    except StoreError:
        raise
    except UserError as error:
        if MANIFEST not in folder.sizes():
            raise
        faults.append(f"{_relative(data, error)}; `make manifest DATA={data}` makes it anew")
        return None


def _description(folder: Folder, manifest: Manifest | None, faults: list[str]) -> dict[str, Any] | None:
    try:
        described = dataset.read_or_none(folder)
    except StoreError:
        raise
    except UserError as error:
        faults.append(_relative(folder.url, error))
        return None if manifest is None else manifest.dataset
    if described is None:
        faults.append(f"{DATASET}: missing")
        return None if manifest is None else manifest.dataset
    described.pop("format_version")
    if not is_as_sealed(folder.read(DATASET), DATASET):
        faults.append(f"{DATASET}: {NOT_AS_SEALED}")
    if manifest is not None:
        for key in sorted(described.keys() | manifest.dataset.keys()):
            if described.get(key) != manifest.dataset.get(key):
                faults.append(f"{DATASET}: other {key} than in {MANIFEST}")
    return described if manifest is None else manifest.dataset


def _relative(url: str, error: UserError) -> str:
    """An error's line with the file named as in the other lines, relative to the dataset."""
    return str(error).removeprefix(f"{url.rstrip('/')}/")


def is_provable(described: dict[str, Any]) -> bool:
    """Whether a dataset's views can be compared with their documents; earlier versions said only `lossless`."""
    proxy = described["proxy"]
    return bool(proxy.get("provable", proxy["lossless"]))


def _check_proxy(folder: Folder, described: dict[str, Any], decode: bool, faults: list[str]) -> str | None:
    """Check the proxy's files; the proxy's URI if views can and shall be decoded."""
    before = len(faults)
    for name, digest in described["proxy"]["files"].items():
        try:
            if folder.digest(f"{PROXY_FOLDER}/{name}", digest) != digest:
                faults.append(f"{PROXY_FOLDER}/{name}: differs from its SHA-256; views are not decoded")
        except FileNotFoundError:
            faults.append(f"{PROXY_FOLDER}/{name}: missing; views are not decoded")
    can_decode = is_provable(described) and described["proxy"]["vocabulary"]["comp_symbols"]
    if len(faults) > before or not can_decode or not decode:
        return None
    try:
        # Its fingerprint may differ: with another zlib, say, gzip gives other views, but decodes these.
        proxy = described["proxy"]
        if "parameters" in proxy:  # decoding runs no LM, wherever the views were made
            proxy = {**proxy, "parameters": {**proxy["parameters"], "device": "cpu"}}
        return dataset_proxy(folder, proxy).uri
    except StoreError:
        raise
    except UserError as error:
        faults.append(f"{error}; views are not decoded (--no-decode leaves this out)")
        return None


def _tasks(
    folder: Folder, manifest: Manifest | None, described: dict[str, Any], proxy_uri: str | None, faults: list[str]
) -> list[Task]:
    lines: list[tuple[int, str, ShardEntry | None, RejectsEntry | None]]
    if manifest is None:
        lines = [(unit, stem, None, None) for unit, stem in _units_found(folder, described["plan"]["units"], faults)]
    else:
        pairs = zip(manifest.shards, manifest.rejects, strict=True)
        lines = [(unit, Path(shard.name).stem, shard, rejects) for unit, (shard, rejects) in enumerate(pairs)]
    return [
        Task(
            folder=folder,
            stem=stem,
            unit=unit,
            shard=shard,
            rejects=rejects,
            described=described,
            proxy_uri=proxy_uri,
        )
        for unit, stem, shard, rejects in lines
    ]


def _units_found(folder: Folder, units: int, faults: list[str]) -> Iterator[tuple[int, str]]:
    """Each unit with the stem of its files, by their names: of several that which has most files, a receipt first."""
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for sub, weight in (("receipts", 3), ("", 2), ("rejects", 2)):
        for stem in sorted(Path(name).stem for name in folder.sizes(sub)):
            if SHARD_NAME.fullmatch(f"{stem}.parquet"):
                _, index, _, count, _ = stem.split("-")
                if int(count) == units:
                    found[int(index)][stem] += weight
    for unit in range(units):
        if unit in found:
            yield unit, max(sorted(found[unit]), key=found[unit].__getitem__)
        else:
            faults.append(f"unit {unit} of {units}: shard, rejects and receipt are missing")


def _unexpected(folder: Folder, tasks: list[Task]) -> list[str]:
    """Files where a reader would take them for the dataset's; that one is missing, its unit's check says."""
    stems = {task.stem for task in tasks}
    return [
        f"{name}: not of this dataset; delete it"
        for sub, suffix in (("", ".parquet"), ("rejects", ".parquet"), ("receipts", ".json"))
        for name in sorted(folder.sizes(sub))
        if Path(name).suffix == suffix and not Path(name).name.startswith(".") and Path(name).stem not in stems
    ]


def _checked(tasks: list[Task], options: VerifyOptions) -> Iterator[Checked]:
    """The units in order, each checked in a process; with one worker in this one."""
    stored = sum(task.shard.size for task in tasks if task.shard is not None)
    workers = options.workers or min(available_cores(), 1 + stored // WORKER_BYTES)
    workers = min(workers, len(tasks))
    console = Console(stderr=True)

    def shown(results: Iterator[Checked]) -> Iterator[Checked]:
        if not console.is_terminal:
            return results
        return iter(track(results, "verify", total=len(tasks), console=console, transient=True))

    if workers <= 1:
        yield from shown(map(check_unit, tasks))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield from shown(pool.map(check_unit, tasks))
        except BrokenProcessPool:
            raise UserError("a worker process died (out of memory, or killed?); use fewer --workers") from None


def _start_worker() -> None:
    """A worker ends silently on Ctrl-C, and when its driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    local_pool.end_with_driver()


def _check_manifest(manifest: Manifest, described: dict[str, Any], receipts: list[Receipt]) -> list[str]:
    totals = asdict(commit.totals_of(receipts))
    pairs = [(f"totals.{key}", value, totals[key]) for key, value in asdict(manifest.totals).items()]
    pairs += [
        ("rejected", manifest.rejected, dict(sorted(commit.rejected_of(receipts).items()))),
        ("number of shards", len(manifest.shards), described["plan"]["units"]),
        ("vocabulary", manifest.vocabulary.to_json(), described["proxy"]["vocabulary"]),
        ("totals.documents", manifest.totals.documents, manifest.totals.accounted),
    ]
    return [f"{MANIFEST}: {what} {found}, expected {expected}" for what, found, expected in pairs if found != expected]


def _check_row_groups(folder: Folder, manifest: Manifest, units: dict[str, Checked]) -> list[str]:
    try:
        if folder.digest(ROW_GROUPS, manifest.row_groups_sha256) != manifest.row_groups_sha256:
            return [f"{ROW_GROUPS}: differs from its SHA-256; `make manifest` makes it anew"]
    except FileNotFoundError:
        return [f"{ROW_GROUPS}: missing; `make manifest` makes it anew"]
    found = {Path(shard).stem: digest for shard, digest in _table_digests(folder)}
    expected = {stem: unit.groups_digest for stem, unit in units.items() if unit.receipt is not None}
    empty = groups_digest([])
    return [
        f"{ROW_GROUPS}: row groups of {stem}.parquet are not those of its receipt"
        for stem in sorted(found.keys() | expected.keys())
        if (stem in expected or stem not in units) and found.get(stem, empty) != expected.get(stem, empty)
    ]


def _table_digests(folder: Folder) -> Iterator[tuple[str, str]]:
    """Shard and digest of its row groups, read in batches; `group` must count from 0."""
    # Pre-buffering gives a Python file's buffers to threads, which now and then abort the process at its end.
    with folder.open(ROW_GROUPS) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
        rows = (row for batch in parquet.iter_batches(4096, use_threads=False) for row in batch.to_pylist())
        for shard, members in groupby(rows, key=lambda row: row.pop("shard")):
            listed = list(members)
            in_order = [row.pop("group") for row in listed] == list(range(len(listed)))
            entries = [RowGroupEntry(**{**row, "digests": b"".join(row["digests"]).hex()}) for row in listed]
            yield shard, groups_digest(entries) if in_order else "groups out of order"
