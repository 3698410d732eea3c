"""Checkpoints: complete or absent, the newest one that is whole resumes.

    RUN/checkpoints/step-0000000100/   model and optimiser (torch.distributed.checkpoint), written to a temporary
                                       folder and renamed when everything is on disk
        state.json                     sealed: step, loader state, vocabulary, configuration, SHA-256 of each file

A folder that is not whole (a disk that was full, a kill) is never taken for a checkpoint: names are given by rename
alone, and `state.json` is checked before anything is loaded.
"""

import errno
import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

from schemas.errors import FormatVersionError, UserError
from schemas.manifest import seal, unseal
from schemas.shard import FORMAT_VERSION

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
STATE = "state.json"
_TEMP = ".tmp-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole.

    Attributes:
        path: its folder.
        state: what `save` was given beside the tensors.
    """

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])

    def load_into(self, tensors: dict[str, Any]) -> None:
        """Fill a state dict of the same structure in place."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(tensors, checkpoint_id=str(self.path), no_dist=True)


def save(run: Path, tensors: dict[str, Any], state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint and delete the oldest beyond `keep`.

    Args:
        run: the run's folder.
        tensors: state dict of tensors and numbers.
        state: JSON object with "step".
        keep: checkpoints to keep; 0 keeps all.

    Raises:
        UserError: no space or no permission; earlier checkpoints are untouched.
    """
    folder = run / FOLDER
    target = folder / f"step-{state['step']:010d}"
    temp = folder / f"{_TEMP}{os.getpid()}-{target.name}"
    with _plain_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write(tensors, temp)
            digests = {path.name: _sync(path) for path in sorted(temp.iterdir())}
            (temp / STATE).write_bytes(seal({"format_version": FORMAT_VERSION, **state, "files": digests}))
            _sync(temp / STATE)
            shutil.rmtree(target, ignore_errors=True)
            temp.rename(target)
            _sync_folder(folder)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
    if keep:
        for path in _names(run)[:-keep]:
            shutil.rmtree(path, ignore_errors=True)
    return target


def newest(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, None if it has none; damaged ones are passed over with a warning.

    Raises:
        UserError: all are damaged, or the newest is of a newer format.
    """
    for leftover in (run / FOLDER).glob(f"{_TEMP}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    paths = _names(run)
    for path in reversed(paths):
        try:
            return open_checkpoint(path)
        except FormatVersionError:
            raise
        except UserError as error:
            log.warning("%s; going back to the one before", error)
    if paths:
        raise UserError(f"{run / FOLDER}: all {len(paths)} checkpoints are damaged; --afresh begins the run anew")
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Open one checkpoint.

    Raises:
        UserError: missing, damaged, or of a newer format.
    """
    try:
        state = unseal((path / STATE).read_bytes(), str(path / STATE))
    except OSError as error:
        raise UserError(f"{path}: no checkpoint there ({error.strerror})") from None
    for name, digest in state.pop("files").items():
        try:
            with (path / name).open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == digest
        except OSError:
            same = False
        if not same:
            raise UserError(f"{path / name}: missing or damaged (its SHA-256 is not the one in {STATE})")
    state.pop("format_version")
    return Checkpoint(path, state)


def _write(tensors: dict[str, Any], folder: Path) -> None:
    """Write tensors.

    Raises:
        OSError: no space left. torch often says of it only that a position in the file was unexpected, so the space is
            looked at while what was written is still there.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.save(tensors, checkpoint_id=str(folder), no_dist=True)
    except (RuntimeError, dcp.api.CheckpointException) as error:
        if shutil.disk_usage(folder.parent).free < _size(tensors):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def _size(tensors: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(tensors, torch.Tensor):
        return int(tensors.numel() * tensors.element_size())
    values = tensors.values() if isinstance(tensors, dict) else tensors if isinstance(tensors, list | tuple) else ()
    return sum(map(_size, values))


def _names(run: Path) -> list[Path]:
    return sorted(path for path in (run / FOLDER).glob("step-*") if path.is_dir())


def _sync(path: Path) -> str:
    """Fsync a file and return its SHA-256."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _plain_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, dcp.api.CheckpointException) as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in repr(error)
        if full or number in (errno.EACCES, errno.EROFS):
            reason = "no space left on the device" if full else os.strerror(int(number or 0))
            raise UserError(
                f"{place}: checkpoint not written: {reason}; the ones before are whole: free some space and start the "
                "same run again"
            ) from None
        raise
