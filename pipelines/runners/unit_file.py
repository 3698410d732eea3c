"""The units of a job as one file in its dataset's folder, so that what a runner carries is small.

A unit names dozens of places of the corpus, or a thousand files: 7 kB and more. As elements the 50,000 units of 3 TB
would be 350 MB, which Beam compresses, unpacks and copies a dozen times before the first unit runs, and which the
graphs of some runners have no room for. So elements are places in this file, 40 bytes each, and a worker reads its
unit there: one more HEAD and GET. A part is unpickled only if it has the digest that came with the element, from the
driver. The file has a name of its own for each pass; who ends in order deletes it, and `left_over` finds others.
"""

import hashlib
import pickle
import re
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import zstandard

from pipelines.reading.plan import Unit
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.secrets import redacted

Place = tuple[int, int, bytes]
"""Offset and length of a unit in the file, and the blake2b-128 of its bytes. A tuple of what every Beam coder knows."""

_FOLDER = "meta"
_NOT_THERE = (
    "not there; see that all workers reach OUT under this name (a store, or a shared folder by its full path) and that "
    "no other job writes there"
)
_NAME = re.compile(rf"{_FOLDER}/units-[0-9a-f]{{32}}\.bin")


@dataclass(frozen=True)
class UnitFile:
    """Where the units are; picklable.

    Attributes:
        out: the dataset's folder.
        name: of the file in it.
    """

    out: Folder
    name: str

    def read(self, place: Place) -> Unit:
        """The unit at a place.

        Raises:
            UserError: it is not there, or damaged; or the store does not answer.
        """
        start, length, digest = place
        for _ in range(2):  # what a store gives back damaged is asked for once more
            try:
                with self.out.open(self.name) as file:
                    file.seek(start)
                    data = file.read(length)
            except FileNotFoundError:
                raise self._unusable(_NOT_THERE) from None
            if _digest(data) == digest:
                unit: Unit = pickle.loads(zstandard.decompress(data))
                return unit
        raise self._unusable("damaged on its way; see that store and network give back what was written")

    def _unusable(self, fault: str) -> UserError:
        place = redacted(self.out.locate(self.name))
        return UserError(f"worker on {socket.gethostname()}: {place}: {fault}; then run the same command again")


@contextmanager
def unit_file(out: Folder, units: Iterable[Unit]) -> Iterator[tuple[UnitFile, list[Place]]]:
    """The file while it is needed, and the place of each unit.

    Raises:
        UserError: it cannot be written.
    """
    name = f"{_FOLDER}/units-{uuid.uuid4().hex}.bin"
    places: list[Place] = []
    with out.staged(name) as path, path.open("wb") as file:
        for unit in units:
            data = zstandard.compress(pickle.dumps(unit))
            places.append((file.tell(), len(data), _digest(data)))
            file.write(data)
    try:
        yield UnitFile(out, name), places
    finally:
        with suppress(UserError):  # of a store that no longer answers; a later job finds it
            out.remove(name)


def left_over(out: Folder) -> list[str]:
    """Names of such files in a folder: of drivers that were killed, or of a job that runs there at this moment."""
    return sorted(filter(_NAME.fullmatch, out.sizes(_FOLDER)))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
