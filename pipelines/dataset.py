"""A dataset folder as a whole: its description, opened, compared, deleted.

`meta/dataset.json` is written before any shard: it says what the folder is going to hold, so that a folder of
another configuration is refused before work, and a killed job is recognised and finished.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import commit, drop_list, proxies
from pipelines.job import Job
from pipelines.proxies.prepare import PROXY_FOLDER, Chosen, dataset_proxy
from pipelines.reading.corpus import Corpus
from pipelines.reading.plan import PlanOptions, Unit
from pipelines.runners import unit_file
from pipelines.storage import Folder
from schemas.digests import canonical
from schemas.errors import FormatVersionError, UserError
from schemas.manifest import Manifest, Receipt, seal, unseal
from schemas.names import DATASET, MANIFEST, ROW_GROUPS, SHARD_NAME
from schemas.remote import StoreError
from schemas.secrets import redacted
from schemas.shard import FORMAT_VERSION, metadata_of

_PROXY_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PROXY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHAPE: dict[str, Any] = {
    "corpus": {},
    "proxy": {"name": str, "fingerprint": str, "lossless": bool, "vocabulary": {}, "files": {}},
    "plan": {"units": int},
    "options": {"format_version": int, "read": {"keep_columns": list}},
}
"""What a description must have for anything to be done by it."""

LOCK_FILE = Path(__file__).parent.parent / "requirements.lock"

_COMPARED = ("corpus.digest", "proxy", "options", "plan.seed")
"""What must be equal for a job to go on in a folder. Names of places and library versions need not be."""


def describe(corpus: Corpus, chosen: Chosen, job: Job, plan: PlanOptions, units: list[Unit]) -> dict[str, Any]:
    """The description of the dataset that this configuration makes, as JSON gives it back."""
    proxy = chosen.proxy
    description = {
        "corpus": {
            "spec": redacted(corpus.spec),
            "files": len(corpus.inputs),
            "bytes": corpus.listed_bytes,
            "digest": corpus.listing_digest,
            **({"parts": [part.description() for part in corpus.parts]} if corpus.parts else {}),
        },
        "proxy": {
            "name": proxy.name,
            "request": chosen.request,
            "parameters": chosen.parameters,
            "fingerprint": proxy.fingerprint,
            "lossless": proxy.lossless,
            "provable": proxy.provable,
            "vocabulary": proxy.vocabulary.to_json(),
            "files": chosen.digests(),
        },
        "plan": {"seed": plan.seed, "units": len(units)},
        "options": job.identity(),
        "versions": {name: version(name) for name in ("pyarrow", "tokenizers", "constriction", "numpy")},
        "lock_digest": hashlib.sha256(LOCK_FILE.read_bytes()).hexdigest() if LOCK_FILE.exists() else None,
    }
    normalised: dict[str, Any] = json.loads(canonical(description))
    return normalised


def write(out: Folder, description: dict[str, Any]) -> None:
    """Write the description."""
    out.write(DATASET, seal({"format_version": FORMAT_VERSION, **dict(sorted(description.items()))}))


def read(out: Folder, *, beside_others: bool = False) -> dict[str, Any] | None:
    """The description of the dataset in a folder, None for an empty or new one.

    Args:
        out: the folder.
        beside_others: allow files that are not ours, unless they would be taken for shards.

    Raises:
        UserError: it is damaged, or the folder holds something else.
    """
    try:
        fields = unseal(out.read(DATASET), out.locate(DATASET))
    except (FormatVersionError, StoreError):
        raise
    except (UserError, FileNotFoundError) as error:
        if isinstance(error, UserError) or _has_receipts(out):
            return _description_in_manifest(out)
        foreign = [name for name in out.sizes() if name.endswith(".parquet") or not beside_others]
        if foreign:
            raise UserError(
                f"OUT={out.url}: has files but no {DATASET} ({foreign[0]}, ...); choose an empty folder"
            ) from None
        return None
    fields.pop("format_version")
    return checked(fields, out.locate(DATASET))


def checked(description: dict[str, Any], place: str) -> dict[str, Any]:
    """A description whose parts are what they must be, whoever wrote it.

    Names in it become paths and URIs: none may lead out of the dataset's folder, or to another proxy's files.

    Args:
        description: of a dataset.
        place: where it was read, for messages.

    Raises:
        UserError: something in it is missing, or named as nothing of ours is.
    """
    wrong = next(_misshapen(description, _SHAPE), None)
    if wrong is not None:
        raise UserError(f"{place}: its {wrong} is missing or of another kind; it is damaged or not ours")
    proxy = description["proxy"]
    names = [name for name in proxy["files"] if not _PROXY_FILE.fullmatch(name)]
    if not _PROXY_NAME.fullmatch(proxy["name"]):
        names.append(proxy["name"])
    if names:
        raise UserError(f"{place}: names {names[0]!r}, which is nothing of a dataset; it is damaged or not ours")
    return description


def _misshapen(value: Any, shape: Any, place: str = "") -> Iterator[str]:
    if not isinstance(shape, dict):
        if not isinstance(value, shape):
            yield place
    elif not isinstance(value, dict):
        yield place or "content"
    else:
        for key, inner in shape.items():
            yield from _misshapen(value.get(key), inner, f"{place}.{key}" if place else key)


def _description_in_manifest(out: Folder) -> dict[str, Any]:
    """What a damaged description said.

    Raises:
        UserError: there is no manifest that says it too.
    """
    try:
        return _manifest(out).dataset
    except StoreError:
        raise
    except (FileNotFoundError, UserError):
        raise UserError(
            f"{out.locate(DATASET)}: missing or damaged, and there is no manifest to mend it from; "
            "make the dataset anew with ARGS=--overwrite"
        ) from None


def check_same(out: Folder, stored: dict[str, Any], wanted: dict[str, Any], *, part: bool = False) -> None:
    """Refuse to go on in a folder of another configuration.

    Args:
        out: the folder.
        stored: its description.
        wanted: the description of what is asked for.
        part: `wanted` holds only what is known already; what it lacks is not compared.

    Raises:
        UserError: with each difference.
    """
    before, now = dict(_flat(stored)), dict(_flat(wanted))
    differences = [
        f"{key} {_short(before.get(key))} -> {_short(now.get(key))}"
        for key in sorted(now if part else before.keys() | now.keys())
        if key.startswith(_COMPARED) and before.get(key) != now.get(key)
    ]
    if before.get("corpus.digest") != now["corpus.digest"]:
        old, new = (f"{flat.get('corpus.files'):,} files, {flat.get('corpus.bytes'):,} bytes" for flat in (before, now))
        change = f"{old} -> {new}" if old != new else f"{old} as before, but other names, formats, weights or caps"
        differences = [f"the corpus has changed ({change})"]
    if differences:
        raise UserError(
            f"OUT={out.url} holds another dataset: {'; '.join(differences)}. "
            "Choose another OUT, or delete it with ARGS=--overwrite"
        )


def remove(out: Folder, replaced: Collection[str] = ()) -> None:
    """Delete a dataset of ours, and nothing else: what its receipts and its description name, and these.

    Also shards that a killed job left without a receipt. In a folder that holds no dataset nothing is touched. May be
    killed: the manifest goes first, as none may name what is not there, and the description last.

    Args:
        out: the folder.
        replaced: files of the proxy that will be written anew; they stay until then, as they may be its only copy.
    """
    description = _description_to_the_end(out)
    if description is not None:
        out.remove(MANIFEST)
    ours = _has_receipts(out)
    remove_units(out, keep=set())
    if description is None:
        if ours:  # with a damaged description, that no manifest mends
            out.remove(DATASET)
        return
    lists = [name for name in sorted(out.sizes(drop_list.FOLDER)) if drop_list.FILE_NAME.fullmatch(Path(name).name)]
    files = [f"{PROXY_FOLDER}/{name}" for name in description["proxy"]["files"] if name not in replaced]
    out.do_each(out.remove, [*files, *lists, *unit_file.left_over(out), ROW_GROUPS, commit.ERROR_LOG])
    out.remove(DATASET)


def remove_units(out: Folder, keep: set[str]) -> None:
    """Delete receipts of ours other than `keep`, with the shards and rejects that they name, and stray ones of both."""
    kept = {f"{Path(name).stem}.parquet" for name in keep}
    out.do_each(partial(_remove_unit, out), sorted(out.sizes("receipts").keys() - keep))
    out.do_each(partial(_remove_if_shard, out), sorted(out.sizes().keys() - kept))
    # rejects are published first, so a kill may leave them alone
    others = (name for name in sorted(out.sizes("rejects")) if Path(name).name not in kept)
    out.do_each(out.remove, [name for name in others if SHARD_NAME.fullmatch(Path(name).name)])


def _remove_unit(out: Folder, receipt: str) -> None:
    shard = f"{Path(receipt).stem}.parquet"
    if not SHARD_NAME.fullmatch(shard):
        return
    out.remove(f"rejects/{shard}")
    if _names(out, receipt, shard):
        out.remove(shard)
    out.remove(receipt)


def _names(out: Folder, receipt: str, shard: str) -> bool:
    """Whether a receipt is whole and of this shard, not of another unit's; else the shard is stray, if it is one."""
    try:
        data = out.read(receipt)
    except FileNotFoundError:
        return False
    try:
        return Receipt.from_bytes(data, receipt).shard.name == shard
    except UserError:
        return False


def _remove_if_shard(out: Folder, name: str) -> None:
    if _is_shard(out, name):
        out.remove(name)


def _has_receipts(out: Folder) -> bool:
    return any(SHARD_NAME.fullmatch(f"{Path(name).stem}.parquet") for name in out.sizes("receipts"))


def _description_to_the_end(out: Folder) -> dict[str, Any] | None:
    """The description, mended if only the manifest has it: the folder is known as ours until all is deleted."""
    try:
        if (found := read_or_none(out)) is not None:
            return found
    except StoreError:
        raise
    except UserError:
        pass
    try:
        description = _description_in_manifest(out)
    except StoreError:
        raise
    except UserError:
        return None
    write(out, description)
    return description


@dataclass(frozen=True)
class Dataset:
    """A finished dataset, opened."""

    folder: Folder
    manifest: Manifest

    @property
    def proxy(self) -> proxies.Proxy:
        """Its proxy, from the files beside it, checked to be the one that made it.

        Raises:
            UserError: the proxy's files are damaged or of another version of this program.
        """
        described = self.manifest.dataset["proxy"]
        proxy = dataset_proxy(self.folder, described)
        if proxy.fingerprint != described["fingerprint"]:
            raise UserError(
                f"{self.folder.locate(PROXY_FOLDER)}: this is not the proxy that made the dataset (damaged files, or "
                "another version of a library that decides its output)"
            )
        return proxy


def open_dataset(url: str) -> Dataset:
    """Open a finished dataset.

    Raises:
        UserError: there is none, it is not finished, damaged, or of a newer format.
    """
    folder = Folder(url)
    try:
        return Dataset(folder, _manifest(folder))
    except (FileNotFoundError, NotADirectoryError):
        if read_or_none(folder) is not None:
            raise UserError(
                f"DATA={url}: not finished (no {MANIFEST}); run the same preprocess command again"
            ) from None
        raise UserError(f"DATA={url}: no dataset there; make one with: make preprocess OUT={url}") from None


def _manifest(folder: Folder) -> Manifest:
    place = folder.locate(MANIFEST)
    manifest = Manifest.from_bytes(folder.read(MANIFEST), place)
    checked(manifest.dataset, place)
    return manifest


def read_or_none(folder: Folder) -> dict[str, Any] | None:
    """The description with its format version, or None where there is none, whatever else is there.

    Raises:
        UserError: it is damaged.
    """
    place = folder.locate(DATASET)
    try:
        return checked(unseal(folder.read(DATASET), place), place)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_shard(out: Folder, name: str) -> bool:
    """Whether a file has a shard's name and, inside, our metadata."""
    if not SHARD_NAME.fullmatch(name):
        return False
    try:
        with out.open(name) as file:
            metadata_of(pq.read_schema(file), name)
    except StoreError:
        raise
    except (UserError, OSError, pa.ArrowException):
        return False
    return True


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
