"""A training's state on disk: one file that is replaced whole, so that any kill leaves one to go on from."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor_model.text import Text
from compressor_model.trainee import Trainee
from schemas.errors import UserError
from schemas.files import sync

_STATE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a training's state is kept.

    Attributes:
        folder: of its own; gone after `held` when nothing is in it.
        describes: what decides the weights: a state of anything else is refused.
        afresh: begin anew whatever lies there.
    """

    folder: Path
    describes: dict[str, Any]
    afresh: bool = False

    @property
    def file(self) -> Path:
        """The one file."""
        return self.folder / _STATE

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep other trainings out of it; the lock ends with the process, however it ends.

        Raises:
            UserError: another one is there, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"--out {self.folder.parent}: cannot be written ({error.strerror}); give another") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise UserError(
                f"{self.folder}: another fit is training there; wait for it, or give another --out"
            ) from None
        try:
            yield
        finally:
            with suppress(OSError):  # unless there is a state to go on from
                self.folder.rmdir()
            os.close(descriptor)

    def remove(self) -> None:
        """Delete it, and what a kill in the middle of a save left."""
        for path in (self.file, self._temp):
            path.unlink(missing_ok=True)

    @property
    def _temp(self) -> Path:
        return self.file.with_suffix(".tmp")

    def save(self, trainee: Trainee, step: int, seconds: float) -> None:
        """Write weights and optimiser after `step` steps; the file that was there stays until this one is whole."""
        from safetensors.torch import save

        metadata = {"step": str(step), "seconds": repr(seconds), "describes": json.dumps(self.describes)}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._temp.write_bytes(save(trainee.tensors(), metadata))
        sync(self._temp)
        self._temp.replace(self.file)
        sync(self.folder)

    def restore(self, trainee: Trainee) -> tuple[int, float]:
        """Steps done and seconds they took; (0, 0.0) where nothing is saved.

        Raises:
            UserError: saved by a training of something else, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        if self.afresh:
            self.remove()
        if not self.file.exists():
            return 0, 0.0
        try:
            with safe_open(self.file, framework="pt") as file:
                metadata = file.metadata()
                found = json.loads(metadata["describes"])
                if found != self.describes:
                    raise UserError(self._difference(found))
                saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            trainee.load(saved)
            return int(metadata["step"]), float(metadata["seconds"])
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.file}: damaged; --afresh begins the training anew") from None

    def _difference(self, found: dict[str, Any]) -> str:
        names = sorted(found.keys() | self.describes.keys())
        changed = [
            f"{name} {_short(found.get(name))}, now {_short(self.describes.get(name))}"
            for name in names
            if found.get(name) != self.describes.get(name)
        ]
        return (
            f"{self.folder}: a training with other options is under way there ({'; '.join(changed)}); "
            "give those options, another --out, or --afresh to begin anew"
        )


def text_digest(text: Text) -> str:
    """SHA-256 (hex) of a text's bytes and of where its documents start."""
    digest = hashlib.sha256(text.data.tobytes())
    digest.update(text.offsets.astype("<i8").tobytes())
    return digest.hexdigest()


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)
