"""A dataset and the corpus that it is made of must lie apart: each would be taken for, or deleted with, the other."""

import os
import re

from fsspec.utils import glob_translate

from pipelines.reading.corpus import Corpus, is_included, is_skipped
from pipelines.reading.inputs import local_place
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.names import DATASET, MANIFEST, ROW_GROUPS
from schemas.remote import filesystem, is_remote
from schemas.secrets import redacted
from schemas.terminal import visible


def refuse_inside(out: Folder, corpus: Corpus) -> None:
    """Refuse an OUT that holds inputs, or that the next listing would find: in a folder that it takes, or by a glob.

    Judged by what was listed, links followed. Costs: about 2 us an input; 1 more where OUT is a local folder that
    exists.

    Raises:
        UserError: with both places.
    """
    there = _place(str(out.path.absolute()) if out.is_local else out.url)
    roots = {root: _place(root) for root in {file.root for file in corpus.inputs}}
    reached = ""
    for spec, root, include in corpus.places:
        name = spec if is_remote(spec) else str(local_place(spec).absolute())
        is_part = name != root and _lies_in(name, root) and "**" not in name  # one file, or a glob
        if not _lies_in(there, roots[root]):
            continue
        if is_part and _is_reached(there, roots[root], name.removeprefix(root), include):
            reached = spec
        elif not is_part:
            raise UserError(
                f"OUT={redacted(out.url)} lies inside the corpus {redacted(root)}; choose a folder outside of it"
            )
    follows_links = out.is_local and out.path.is_dir()  # else nothing lies there that a link could lead to
    for file in corpus.inputs:
        place = _below(roots[file.root], file.path)
        if follows_links and not is_remote(file.root) and os.path.islink(place):  # noqa: PTH114 - of millions
            place = _place(place)
        if _lies_in(place, there):
            raise UserError(
                f"OUT={redacted(out.url)} holds {visible(file.path)}, which is an input; choose another folder"
            )
    if reached:
        raise UserError(
            f"OUT={redacted(out.url)} is in reach of the corpus {redacted(reached)}: the next run would take the "
            "dataset for a part of it; choose another folder"
        )


_OF_A_DATASET = ("part-00000-of-00001-0123abcd.parquet", MANIFEST, DATASET, ROW_GROUPS, "meta/proxy/lm.bin")
"""Names like those that a dataset gets."""


def _is_reached(there: str, root: str, pattern: str, include: tuple[str, ...]) -> bool:
    """Whether a pattern below a root would list files of the dataset, once they are there."""
    expression = re.compile(glob_translate(pattern.lstrip("/")))
    paths = [_below(there, made).removeprefix(root).lstrip("/") for made in _OF_A_DATASET]
    return any(
        expression.match(path) and is_included(path, include) and not any(map(is_skipped, path.split("/")))
        for path in paths
    )


def _place(location: str) -> str:
    """The one name of a place: a path without links, or protocol and path of a URL."""
    if not is_remote(location):
        return str(local_place(location).resolve())
    fs, path = filesystem(location)
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return f"{protocol}://{path.strip('/')}"


def _below(place: str, path: str) -> str:
    return place + path if place.endswith("/") else f"{place}/{path}"


def _lies_in(place: str, folder: str) -> bool:
    return place == folder or place.startswith(_below(folder, ""))
