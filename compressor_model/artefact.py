"""A compressor on disk: a folder of byte LM, entropy table and codebooks, with a card that says where they come from.

    card.json         provenance: command, corpus digest, licence of the text, options, scores; SHA-256 of each file
    lm.npz            the 8-bit byte LM (needed only by the range coder and to build codebooks)
    segments.npz      the entropy table
    codebook-16.npz   one per number of bits

Readers check every file against the card. Arrays are plain npz: numpy alone reads them, no pickle.
"""

import hashlib
import io
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor_model.codebook import Codebook
from compressor_model.model import SmallByteLM
from compressor_model.segment import EntropyTable
from schemas.errors import UserError

PRETRAINED = Path(__file__).parent / "pretrained" / "stdlib"
"""The shipped compressor: trained on the Python standard library."""

CARD = "card.json"
LM = "lm.npz"
SEGMENTS = "segments.npz"


def codebook_file(bits: int) -> str:
    """Name of the codebook of this many bits."""
    return f"codebook-{bits}.npz"


@dataclass(frozen=True)
class Compressor:
    """A compressor folder whose files have been checked against its card as they were read.

    Attributes:
        folder: where it is.
        card: the content of card.json.
    """

    folder: Path
    card: dict[str, Any]

    @property
    def bits(self) -> list[int]:
        """Codebooks there are."""
        return sorted(int(bits) for bits in self.card["scores"])

    @property
    def name(self) -> str:
        """Name and digest for messages and manifests."""
        return str(self.card["name"])

    def score(self, bits: int) -> float:
        """Held-out bytes per symbol recorded at training."""
        return float(self.card["scores"][str(bits)]["bytes_per_symbol"])

    def files_for(self, coder: str, bits: int) -> list[str]:
        """Names of the files that a coder needs."""
        return [SEGMENTS, codebook_file(bits) if coder == "codebook" else LM]

    def codebook(self, bits: int) -> Codebook:
        """The codebook.

        Raises:
            UserError: there is none of this many bits, or it is damaged.
        """
        if bits not in self.bits:
            raise UserError(
                f"compressor {self.folder}: no codebook of {bits} bits (there are: {self.bits}); "
                f"use BITS={self.bits[-1]} or fit one: make compressor BITS={bits}"
            )
        arrays = self._arrays(codebook_file(bits))
        return Codebook(depth=arrays["depth"], last=arrays["last"])

    def segments(self) -> EntropyTable:
        """The entropy table."""
        arrays = self._arrays(SEGMENTS)
        fallback, threshold = arrays["fallback_threshold"].tolist()
        return EntropyTable(tables=arrays["tables"], fallback=fallback, threshold=threshold)

    def lm(self) -> SmallByteLM:
        """The byte LM."""
        arrays = self._arrays(LM)
        scale = int(arrays.pop("logit_scale"))
        return SmallByteLM(**arrays, logit_scale=scale)

    def _arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"compressor file {path}: cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest() != self.card["files"].get(name):
            raise UserError(f"compressor file {path}: damaged (its SHA-256 is not the one in {CARD})")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)


def open_compressor(folder: str | Path) -> Compressor:
    """Read a compressor's card.

    Raises:
        UserError: no folder, no card, or a card of something else.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_bytes())
        if card["kind"] != "compressor" or not isinstance(card["files"], dict):
            raise KeyError("kind")
    except OSError as error:
        raise UserError(
            f"compressor {folder}: no {CARD} there ({error.strerror}); give a folder made by make compressor"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a compressor's card (damaged or foreign)") from None
    return Compressor(Path(folder), card)


def save(
    folder: Path,
    *,
    name: str,
    lm: SmallByteLM,
    segments: EntropyTable,
    codebooks: dict[int, Codebook],
    scores: dict[int, dict[str, float]],
    provenance: dict[str, Any],
) -> Compressor:
    """Write a compressor folder, whole or not at all: beside its place first, and the card last.

    Args:
        folder: made if need be; files of these names are replaced.
        name: for messages and manifests.
        lm: the byte LM.
        segments: the entropy table.
        codebooks: by bits.
        scores: by bits, "bytes_per_symbol" among them.
        provenance: JSON object: command, corpus, licence, options.
    """
    files: dict[str, dict[str, npt.NDArray[Any]]] = {
        LM: {
            "embeddings": lm.embeddings,
            "hidden_bias": lm.hidden_bias,
            "output": lm.output,
            "output_bias": lm.output_bias,
            "logit_scale": np.array(lm.logit_scale, np.int64),
        },
        SEGMENTS: {
            "tables": segments.tables,
            "fallback_threshold": np.array([segments.fallback, segments.threshold], np.int64),
        },
    }
    for bits, book in codebooks.items():
        files[codebook_file(bits)] = {"depth": book.depth, "last": book.last}
    contents = {}
    for file, arrays in files.items():
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        contents[file] = buffer.getvalue()
    card = {
        "kind": "compressor",
        "name": name,
        **provenance,
        "scores": {str(bits): score for bits, score in scores.items()},
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
    }
    contents[CARD] = (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()
    place = folder.resolve()
    temp = place.with_name(f"{place.name}.{uuid.uuid4().hex}.tmp")
    try:
        temp.mkdir(parents=True)
        for file, content in contents.items():
            (temp / file).write_bytes(content)
        folder.mkdir(exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)  # of an earlier fit: it must not vouch for a mixture
        for file in contents:  # the card last
            (temp / file).replace(folder / file)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return Compressor(folder, card)
