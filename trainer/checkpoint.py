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
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from schemas.errors import FormatVersionError, UserError
from schemas.manifest import seal, unseal
from schemas.shard import FORMAT_VERSION
from trainer.parallel import ALONE, Processes

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
            dcp.load(tensors, checkpoint_id=str(self.path), no_dist=not dist.is_initialized())


def save(run: Path, tensors: dict[str, Any], state: dict[str, Any], keep: int, processes: Processes = ALONE) -> Path:
    """Write a checkpoint and delete the oldest beyond `keep`; all processes of the run call it together.

    Args:
        run: the run's folder, one for all processes.
        tensors: state dict of tensors and numbers, sharded ones among them.
        state: JSON object with "step"; that of the first process counts.
        keep: checkpoints to keep; 0 keeps all.
        processes: of the run.

    Raises:
        UserError: no space or no permission, in every process; earlier checkpoints are untouched.
    """
    folder = run / FOLDER
    target = folder / f"step-{state['step']:010d}"
    temp = folder / f"{_TEMP}{target.name}"
    with _together(processes, target):
        folder.mkdir(parents=True, exist_ok=True)
        if processes.is_first:
            shutil.rmtree(temp, ignore_errors=True)
    try:
        digests: dict[str, str] = {}
        with _together(processes, target):
            _write(tensors, temp, processes)
        with _together(processes, target):
            # each process its own files, the first one the common one too
            own = [path for path in temp.iterdir() if path.name.startswith(f"__{processes.rank}_")]
            common = [path for path in temp.iterdir() if not path.name.startswith("__")] if processes.is_first else []
            digests = {path.name: _sync(path) for path in sorted([*own, *common])}
        for found in processes.gather_objects(digests):
            digests.update(found)
        with _together(processes, target):
            if processes.is_first:
                _name(temp, target, {"format_version": FORMAT_VERSION, **state, "files": digests})
    finally:
        if processes.is_first:
            shutil.rmtree(temp, ignore_errors=True)
    if keep and processes.is_first:
        for path in _names(run)[:-keep]:
            shutil.rmtree(path, ignore_errors=True)
    return target


def _name(temp: Path, target: Path, state: dict[str, Any]) -> None:
    """Give a folder that is whole its name."""
    (temp / STATE).write_bytes(seal(state))
    _sync(temp / STATE)
    shutil.rmtree(target, ignore_errors=True)
    temp.rename(target)
    _sync_folder(target.parent)


def newest(run: Path, processes: Processes = ALONE) -> Checkpoint | None:
    """The newest whole checkpoint of a run, None if it has none; damaged ones are passed over with a warning.

    The first process looks and tells the others.

    Raises:
        UserError: all are damaged, or the newest is of a newer format.
    """
    found: Checkpoint | None = None
    reason: str | None = None
    if processes.is_first:
        try:
            found = _newest(run)
        except UserError as error:
            reason = str(error)
    processes.agree(reason)
    return processes.gather_objects(found)[0]


def _newest(run: Path) -> Checkpoint | None:
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


def _write(tensors: dict[str, Any], folder: Path, processes: Processes) -> None:
    """Write tensors.

    Raises:
        OSError: no space left. torch often says of it only that a position in the file was unexpected, so the space is
            looked at while what was written is still there.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.save(tensors, checkpoint_id=str(folder), no_dist=processes.world == 1)
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
def _together(processes: Processes, place: Path) -> Iterator[None]:
    """What fails in one process fails in all, so that none waits for ever; known reasons become one line."""
    reason: str | None = None
    try:
        yield
    except (OSError, RuntimeError, dcp.api.CheckpointException) as error:
        reason = _reason(error)
        if reason is None and processes.world == 1:
            raise
        if reason is None:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"process {processes.rank}: {lines[-1][:300]}"
    if reason is not None:
        reason = f"{place}: checkpoint not written: {reason}; the ones before are whole: free some space and start the "
        reason += "same run again"
    processes.agree(reason)


def _reason(error: Exception) -> str | None:
    """Why nothing can be written there, if that is what the error says."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in repr(error):
        return "no space left on the device"
    return os.strerror(number) if number in (errno.EACCES, errno.EROFS) else None
