"""What an evaluation leaves in a folder, so that it can be stopped at any moment and go on.

    NAME-DIGEST8.jsonl    a line for each finished item, appended as it is done
    NAME-DIGEST8.json     the result, written last: evaluation, configuration, figures, versions

The digest is of the name and the configuration, which holds the model's own digest: another checkpoint or option is
another pair of files, never a mix. A line that a kill cut off is dropped and its item done again.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy
import torch
from rich.console import Console
from rich.table import Table

from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.files import write_whole
from schemas.remote import is_remote
from trainer.model.evabyte import EvaByte

FOLDER = "evaluations"
"""In a run's folder, unless `--out` says otherwise."""


def folder_of(run: str, out: str | None) -> Path:
    """Where a run's evaluations are kept.

    Raises:
        UserError: the run is a URL, and nothing says where else.
    """
    if out is None and is_remote(run):
        raise UserError(f"RUN={run}: results of a run on a store need a folder here; give --out")
    return Path(out) if out is not None else Path(run) / FOLDER


def model_digest(model: EvaByte) -> str:
    """SHA-256 (hex) over sizes, and the names, dtypes and bytes of all parameters; about 1 GB/s."""
    digest = hashlib.sha256(repr(sorted(asdict(model.config).items())).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def identity_of(model: EvaByte) -> dict[str, str]:
    """What of a model decides an item: its digest, the kind of its device, its dtype, the version of torch."""
    weight = model.embed_tokens.weight
    return {
        "model": model_digest(model), "device": weight.device.type, "dtype": dtype_of(model),
        "torch": torch.__version__,
    }  # fmt: skip


def dtype_of(model: EvaByte) -> str:
    """Its name, as float32."""
    return str(model.embed_tokens.weight.dtype).removeprefix("torch.")


class Journal:
    """The items of one evaluation, those of earlier calls included.

    Args:
        folder: see `folder_of`; made if it is not there.
        name: of the evaluation, as on the command line.
        configuration: all that decides an item or a figure; JSON.
        afresh: forget what is there.

    Attributes:
        items: finished ones by key, in the order in which they were finished.
        result_path: where `finish` writes.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, configuration: Mapping[str, Any], *, afresh: bool = False) -> None:
        self.name, self.configuration = name, dict(configuration)
        stem = f"{name}-{digest_of({'name': name, **self.configuration})[:8]}"
        self.result_path = folder / f"{stem}.json"
        self._path = folder / f"{stem}.jsonl"
        self.items: dict[str, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if afresh:
                self._path.unlink(missing_ok=True)
                self.result_path.unlink(missing_ok=True)
            kept = self._read()
            self._file = self._path.open("r+b" if self._path.exists() else "w+b")
            self._file.truncate(kept)
            self._file.seek(kept)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); give another --out") from None

    def _read(self) -> int:
        """Take up the whole lines; how many bytes they are."""
        kept = 0
        if self._path.exists():
            for line in self._path.read_bytes().splitlines(keepends=True):
                try:
                    stored = json.loads(line)
                    key, item = stored["key"], stored["item"]
                except (ValueError, KeyError, TypeError):
                    break
                if not line.endswith(b"\n"):
                    break
                self.items[key] = item
                kept += len(line)
        return kept

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, key: str, item: Mapping[str, Any]) -> None:
        """Keep a finished item.

        Args:
            key: unique in the evaluation.
            item: JSON; what the figures are made from.

        Raises:
            UserError: a full disk.
        """
        try:
            self._file.write(json.dumps({"key": key, "item": item}).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from None
        self.items[key] = dict(item)

    def add_all(self, items: Iterable[tuple[str, Mapping[str, Any]]], batch: int) -> None:
        """Keep items as they are made, so many at a time."""
        made = iter(items)
        while some := list(islice(made, batch)):
            for key, item in some:
                self.add(key, item)

    def finish(self, figures: Mapping[str, Any]) -> Path:
        """Write the result in place of an earlier one, whole or not at all.

        Args:
            figures: JSON; what a report shows. Times belong below a key "seconds", or two calls would differ.

        Raises:
            UserError: a full disk.
        """
        result = {
            "evaluation": self.name,
            "configuration": self.configuration,
            "figures": dict(figures),
            "versions": {
                "python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__,
            },
        }  # fmt: skip
        try:
            write_whole(self.result_path, json.dumps(result, indent=1).encode() + b"\n")
        except OSError as error:
            raise UserError(f"{self.result_path}: cannot be written ({error.strerror})") from None
        return self.result_path


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results in a folder, oldest first; a file that is none is left out."""
    found = []
    for path in sorted(folder.glob("*-*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        try:
            result = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(result, dict) and {"evaluation", "configuration", "figures"} <= result.keys():
            found.append(result)
    return found


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; the first column left, the others right."""
    table = Table(title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    Console(highlight=False, markup=False).print(table)
