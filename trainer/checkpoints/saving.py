"""Checkpoints: complete or absent, written while training goes on; the newest one that is whole resumes.

    CHECKPOINTS/step-0000000100/   model and optimiser (torch.distributed.checkpoint), each process its own shards
        state.json                 sealed: step, loader state, vocabulary, configuration, SHA-256 of each file

What is not whole (a disk that was full, a kill) is never taken for a checkpoint: `state.json` comes last and is
checked, with all that it names, before anything is loaded. `stores.py` knows the places.
"""

import errno
import logging
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from schemas.errors import FormatVersionError, UserError
from schemas.manifest import seal, unseal
from schemas.shard import FORMAT_VERSION
from trainer.checkpoints.stores import STATE, Store
from trainer.parallel import ALONE, Processes

log = logging.getLogger(__name__)

# what torch says of a process that saves alone; filters cannot be changed for a while from a second thread
warnings.filterwarnings("ignore", "torch.distributed is disabled")


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint after so many steps; names sort as steps do."""
    return f"step-{step:010d}"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole, its files at hand; `load_into` it once.

    Attributes:
        place: path or URL, for messages.
        state: what `Saver.save` was given beside the tensors.
    """

    place: str
    state: dict[str, Any]
    _folder: Path
    _store: Store
    _processes: Processes

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])

    def load_into(self, tensors: dict[str, Any]) -> None:
        """Fill a state dict of the same structure in place; all processes together.

        Raises:
            UserError: the files do not hold it.
        """
        reason: str | None = None
        try:
            dcp.load(tensors, checkpoint_id=str(self._folder), no_dist=not dist.is_initialized())
        except (OSError, RuntimeError, ValueError, dcp.api.CheckpointException) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"{self.place}: cannot be loaded ({lines[-1][:300]}); delete it, and the one before is taken"
        self.release()
        self._processes.agree(reason)

    def release(self) -> None:
        """Give up a checkpoint that is not loaded after all."""
        self._store.release(self._folder, self._processes)


class Saver:
    """Writes a run's checkpoints, one at a time.

    In the background a copy of the tensors is taken into main memory and a thread writes that one, so training waits
    for the copy only. Processes agree by a group of their own there: the order of calls in the other is training's.

    Args:
        store: of the checkpoints.
        keep: to keep; 0 keeps all.
        processes: of the run.
        background: write while training goes on.
    """

    def __init__(self, store: Store, keep: int, processes: Processes = ALONE, *, background: bool = True) -> None:
        self._store, self._keep = store, keep
        self._background = background
        self._processes = processes.aside() if background else processes
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        """Begin to write a checkpoint, after the one under way; all processes of the run call it together.

        Args:
            tensors: state dict of tensors and numbers, sharded ones among them; may change after the call.
            state: JSON object with "step"; that of the first process counts.

        Raises:
            UserError: see `wait`.
        """
        self.wait()
        if not self._background:
            self._write(tensors, state)
            return
        stager = DefaultStager(StagingOptions(False, False, False, False))
        copy = stager.stage(tensors)
        stager.close()
        self._thread = threading.Thread(target=self._try, args=(copy, state), name="checkpoint")
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether the one under way is known to have failed; `wait` says why."""
        return self._error is not None

    def wait(self) -> None:
        """Until the one under way is written.

        Raises:
            UserError: no space, no permission, no answer, in every process; earlier checkpoints are untouched.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """Let the one under way be written before the process ends, whatever ends it."""
        try:
            self.wait()
        except Exception as error:  # noqa: BLE001 - the error that ends the run is the one to show
            log.warning("%s", error)

    def _try(self, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        try:
            if self._processes.device.type == "cuda":  # a new thread has the first one
                torch.cuda.set_device(self._processes.device)
            self._write(tensors, state)
        except BaseException as error:  # noqa: BLE001 - raised again by `wait`
            self._error = error

    def _write(self, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        store, processes, name = self._store, self._processes, checkpoint_name(state["step"])
        place = store.locate(name)
        with _together(processes, place):
            folder = store.begin(name, processes)
        try:
            digests: dict[str, str] = {}
            with _together(processes, place):
                _write_tensors(tensors, folder, processes)
            with _together(processes, place):
                digests = store.publish(folder, name, _own_files(folder, processes))
            for found in processes.gather_objects(digests):
                digests.update(found)
            with _together(processes, place):
                if processes.is_first:
                    store.commit(folder, name, seal({"format_version": FORMAT_VERSION, **state, "files": digests}))
        finally:
            store.discard(folder, processes)
        if processes.is_first:
            self._rotate(name)

    def _rotate(self, name: str) -> None:
        """Delete the oldest beyond `keep`, and what lies ahead of the one just written: it is of a run given up.

        A checkpoint that cannot be deleted does not matter to the one that was written.
        """
        try:
            names = self._store.names()
            older = [other for other in names if other < name]
            surplus = older[: max(len(older) - self._keep + 1, 0)] if self._keep else []
            for other in [*surplus, *(other for other in names if other > name)]:
                self._store.remove(other)
        except (OSError, UserError) as error:
            log.warning("old checkpoints are not deleted: %s", error)


def newest(store: Store, processes: Processes = ALONE) -> Checkpoint | None:
    """The newest whole checkpoint, None if there is none; damaged ones are passed over with a warning.

    All processes call it together and get the same one.

    Raises:
        UserError: all are damaged, or the newest is of a newer format.
    """
    names: list[str] = []
    reason: UserError | None = None
    if processes.is_first:
        try:
            names = store.names()
        except UserError as error:
            reason = error
    processes.agree(reason)
    names = processes.gather_objects(names)[0]
    for name in reversed(names):
        try:
            return open_checkpoint(store, name, processes)
        except FormatVersionError:
            raise
        except UserError as error:
            if processes.is_first:
                log.warning("%s; going back to the one before", error)
    if names:
        raise UserError(f"{store.place}: all {len(names)} checkpoints are damaged; --afresh begins the run anew")
    return None


def open_checkpoint(store: Store, name: str, processes: Processes = ALONE) -> Checkpoint:
    """Open one checkpoint, each of its files verified by one process.

    Raises:
        UserError: missing, damaged, or of a newer format; the same in every process.
    """
    state: dict[str, Any] = {}
    reason: UserError | None = None
    if processes.is_first:
        try:
            state = unseal(store.state(name), store.locate(f"{name}/{STATE}"))
        except OSError as error:
            reason = UserError(f"{store.locate(name)}: no checkpoint there ({error.strerror or error})")
        except UserError as error:
            reason = error
    processes.agree(reason)
    state = dict(processes.gather_objects(state)[0])
    folder = store.place_to_read(name, processes)
    try:
        store.fetch(name, state.pop("files"), folder, processes)
    except UserError as error:
        reason = error
    try:
        processes.agree(reason)
    except UserError:
        store.release(folder, processes)
        raise
    state.pop("format_version")
    return Checkpoint(store.locate(name), state, folder, store, processes)


def _own_files(folder: Path, processes: Processes) -> list[Path]:
    """What this process wrote; the common file is the first one's."""
    own = [path for path in folder.iterdir() if path.name.startswith(f"__{processes.rank}_")]
    common = [path for path in folder.iterdir() if not path.name.startswith("__")] if processes.is_first else []
    return sorted([*own, *common])


def _write_tensors(tensors: dict[str, Any], folder: Path, processes: Processes) -> None:
    """Write tensors.

    Raises:
        OSError: no space left. torch often says of it only that a position in the file was unexpected, so the space is
            looked at while what was written is still there.
    """
    if processes.world > 1 and not dist.is_initialized():  # torch would save as if it were alone
        raise RuntimeError("the other processes are gone")
    try:
        dcp.save(tensors, checkpoint_id=str(folder), no_dist=processes.world == 1, process_group=processes.group)
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


@contextmanager
def _together(processes: Processes, place: str) -> Iterator[None]:
    """What fails in one process fails in all, so that none waits for ever; known reasons become one line."""
    reason: str | None = None
    try:
        yield
    except Exception as error:
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
    if isinstance(error, UserError):
        return str(error)
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in repr(error):
        return "no space left on the device"
    return os.strerror(number) if number in (errno.EACCES, errno.EROFS) else None
