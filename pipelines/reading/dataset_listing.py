"""Datasets of ours in a listing: of each the shards that its manifest names, not what is about or left beside them.

A dataset is told by its description, or by a shard's name beside one. One manifest a dataset is read, nothing else.
"""

import bisect
from collections.abc import Callable, Iterator, Mapping, Set
from itertools import accumulate

from pipelines.reading.inputs import shown
from pipelines.storage import Folder
from schemas.errors import FormatVersionError, UserError
from schemas.manifest import Manifest, unseal
from schemas.names import DATASET, MANIFEST, SHARD_NAME
from schemas.remote import StoreError


def without_strangers(spec: str, root: str, sizes: Mapping[str, int], is_wanted: Callable[[str], bool]) -> Set[str]:
    """The paths that are inputs: all but those in datasets' folders, and of these the shards.

    Args:
        spec: of the corpus, for messages.
        root: below which the paths lie.
        sizes: by path, in bytes.
        is_wanted: whether a path is asked for.

    Raises:
        UserError: a dataset is not finished, or a shard that is asked for is not of its size or, where the whole
            dataset is listed, missing.
    """
    described = {path.removesuffix(DATASET) for path in sizes if f"/{path}".endswith(f"/{DATASET}")}
    with_shards = {path.removesuffix(name) for path in sizes if SHARD_NAME.fullmatch(name := path.rpartition("/")[2])}
    if not described and not with_shards:
        return sizes.keys()
    named: set[str] = set()
    datasets: list[str] = []
    wanted = {place for path in sizes if is_wanted(path) for place in _folders(path)}
    for place in sorted((described | with_shards) & wanted):  # what lies in a dataset comes after it
        if _lies_in_one(place, datasets):
            continue
        folder = Folder(f"{root if root.endswith('/') else f'{root}/'}{place.rstrip('/')}" if place else root)
        whole = place in described
        if not whole and not folder.exists(DATASET):
            continue  # shards that were copied from one
        if place not in with_shards and not _is_ours(folder):
            continue  # of this name only
        shards = _manifest(folder.url if place else spec, folder).shards
        there = folder.sizes() if whole and any(place + shard.name not in sizes for shard in shards) else {}
        for shard in shards:
            path = place + shard.name
            named.add(path)
            size = sizes.get(path)
            if size is None and (not whole or shard.name in there):
                continue  # passed over by a glob
            if size != shard.size and is_wanted(path):
                state = "missing" if size is None else f"{size:,} bytes instead of {shard.size:,}"
                raise UserError(
                    f"{shown(folder.locate(shard.name))}: {state}; run the command that makes this dataset again, "
                    "then this one"
                )
        datasets.append(place)
    return {path for path in sizes if path in named or not _lies_in_one(path, datasets)}


def _folders(path: str) -> Iterator[str]:
    """The folders above a path, each with its slash, and the root."""
    return accumulate((f"{name}/" for name in path.split("/")[:-1]), initial="")


def _lies_in_one(path: str, datasets: list[str]) -> bool:
    """Whether a path lies in the folder of one of these, of which none lies in another."""
    at = bisect.bisect_right(datasets, path)
    return at > 0 and path.startswith(datasets[at - 1])


def _is_ours(folder: Folder) -> bool:
    try:
        unseal(folder.read(DATASET), DATASET)
    except FormatVersionError:
        return True
    except StoreError:
        raise
    except UserError:
        return False
    return True


def _manifest(place: str, folder: Folder) -> Manifest:
    try:
        return Manifest.from_bytes(folder.read(MANIFEST), shown(folder.locate(MANIFEST)))
    except FileNotFoundError:
        raise UserError(
            f"{shown(place)}: a dataset that is not finished (no {MANIFEST}); run the command that makes it again, "
            "then this one"
        ) from None
