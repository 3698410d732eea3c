"""A compressor on disk: a folder of byte LM, entropy table and codebooks, with a card that says where they come from.

    card.json         version, provenance: command, corpus digest, licence, options, scores; SHA-256 of each file
    lm.npz            the 8-bit `small` byte LM; of `paper` lm.safetensors, its sizes in the card
    segments.npz      the entropy table
    codebook-16.npz   one per number of bits
    seconds.json      how long the fit took; not in the card, which is the same for the same fit

The LM is needed only by the range coder, by `lm` segmentation and to build codebooks. Readers check every file against
the card, and what is in it. Arrays are plain npz or safetensors: no pickle.
"""

import hashlib
import io
import json
import shutil
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from compressor_model.codebook import Codebook
from compressor_model.segment import EntropyTable
from compressor_model.sizes import Sizes
from compressor_model.small import SmallByteLM
from compressor_model.transformer import TransformerByteLM
from schemas.errors import FormatVersionError, UserError

PRETRAINED = Path(__file__).parent / "pretrained" / "stdlib"
"""The shipped compressor: trained on the Python standard library."""

VERSION = 1
"""Of the card and the files."""

CARD = "card.json"
LM_FILES = {"small": "lm.npz", "paper": "lm.safetensors"}
SEGMENTS = "segments.npz"
SECONDS = "seconds.json"

Arrays = dict[str, npt.NDArray[Any]]
T = TypeVar("T")


def codebook_file(bits: int) -> str:
    """Name of the codebook of this many bits."""
    return f"codebook-{bits}.npz"


@dataclass(frozen=True)
class Compressor:
    """A compressor folder whose files are checked against its card as they are read.

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

    @property
    def lm_kind(self) -> str:
        """Small or paper."""
        return str(self.card["lm"]["kind"])

    @property
    def lm_threshold(self) -> int:
        """Of `lm` segmentation: a segment starts where the LM's entropy, in 1/256 bit, is greater."""
        return int(self.card["lm_threshold"])

    def score(self, bits: int) -> float:
        """Held-out bytes per symbol recorded at training."""
        return float(self.card["scores"][str(bits)]["bytes_per_symbol"])

    def files_for(self, coder: str, bits: int, segmentation: str) -> list[str]:
        """Names of the files that a coder (codebook, range) with a segmentation (table, lm) needs."""
        names = [SEGMENTS] if segmentation == "table" else []
        if coder == "codebook":
            names.append(codebook_file(bits))
        if coder == "range" or segmentation == "lm":
            names.append(LM_FILES[self.lm_kind])
        return names

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
        return self._parsed(codebook_file(bits), lambda data: _codebook(_npz(data), bits))

    def segments(self) -> EntropyTable:
        """The entropy table.

        Raises:
            UserError: it is missing or damaged.
        """
        return self._parsed(SEGMENTS, lambda data: _table(_npz(data)))

    def lm(self, device: str = "cpu") -> SmallByteLM | TransformerByteLM:
        """The byte LM.

        Args:
            device: of a `paper` one: cpu, or cuda where there is a GPU. `small` has no use for one.

        Raises:
            UserError: it is missing or damaged, or there is no GPU where it is to run on one.
        """
        if self.lm_kind == "small":
            return self._parsed(LM_FILES["small"], lambda data: _small(_npz(data)))
        if device == "cuda":
            _check_gpu(self.folder)
        return self._parsed(LM_FILES["paper"], lambda data: _paper(data, self.card["lm"]["sizes"], device))

    def _parsed(self, name: str, parse: Callable[[bytes], T]) -> T:
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"compressor file {path}: cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest() != self.card["files"].get(name):
            raise UserError(f"compressor file {path}: damaged (its SHA-256 is not the one in {CARD})")
        try:
            return parse(data)
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"compressor file {path}: foreign ({error}); fit the compressor again") from None


def open_compressor(folder: str | Path) -> Compressor:
    """Read a compressor's card.

    Raises:
        UserError: no folder, no card, or a card of something else.
        FormatVersionError: a card of another version.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_bytes())
        if card["kind"] != "compressor":
            raise KeyError("kind")
        _check_version(card.get("version"), path)
        _check(card)
    except OSError as error:
        raise UserError(
            f"compressor {folder}: no {CARD} there ({error.strerror}); give a folder made by make compressor"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a compressor's card (damaged or foreign)") from None
    return Compressor(Path(folder), card)


def save(
    folder: Path,
    *,
    name: str,
    lm: SmallByteLM | TransformerByteLM,
    lm_provenance: dict[str, Any],
    lm_threshold: int,
    segments: EntropyTable,
    codebooks: dict[int, Codebook],
    scores: dict[int, dict[str, float]],
    provenance: dict[str, Any],
    seconds: dict[str, float],
) -> Compressor:
    """Write a compressor folder, whole or not at all: beside its place first, and the card last.

    Args:
        folder: made if need be; files of these names are replaced.
        name: for messages and manifests.
        lm: the byte LM.
        lm_provenance: JSON object: how it was trained.
        lm_threshold: see `Compressor.lm_threshold`.
        segments: the entropy table.
        codebooks: by bits.
        scores: by bits, "bytes_per_symbol" among them.
        provenance: JSON object: command, corpus, licence, options.
        seconds: of each part of the fit.
    """
    kind = "small" if isinstance(lm, SmallByteLM) else "paper"
    contents = {
        LM_FILES[kind]: _lm_bytes(lm),
        SEGMENTS: _npz_bytes(
            {
                "tables": segments.tables,
                "fallback_threshold": np.array([segments.fallback, segments.threshold], np.int64),
            }
        ),
    }
    for bits, book in codebooks.items():
        contents[codebook_file(bits)] = _npz_bytes({"depth": book.depth, "last": book.last})
    card = {
        "kind": "compressor",
        "version": VERSION,
        "name": name,
        **provenance,
        "lm": {**lm_provenance, "kind": kind, **({} if isinstance(lm, SmallByteLM) else {"sizes": asdict(lm.sizes)})},
        "lm_threshold": lm_threshold,
        "scores": {str(bits): score for bits, score in scores.items()},
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
    }
    contents[SECONDS] = json.dumps({part: round(value, 1) for part, value in seconds.items()}).encode() + b"\n"
    contents[CARD] = (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()
    place = folder.resolve()
    temp = place.with_name(f"{place.name}.{uuid.uuid4().hex}.tmp")
    try:
        temp.mkdir(parents=True)
        for file, content in contents.items():
            (temp / file).write_bytes(content)
        folder.mkdir(exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)  # of an earlier fit: it must not vouch for a mixture
        for other in LM_FILES.values():
            (folder / other).unlink(missing_ok=True)
        for file in contents:  # the card last
            (temp / file).replace(folder / file)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return Compressor(folder, card)


def _check_gpu(folder: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"compressor {folder}: its byte LM is to run on a GPU (device cuda), and none is found here; go on where "
            "there is one: a CPU rounds differently"
        )


def _check_version(version: object, path: Path) -> None:
    if version is None:
        raise FormatVersionError(f"{path}: written before compressors had a version; fit it again (make compressor)")
    if version != VERSION:
        raise FormatVersionError(
            f"{path}: version {version} of a compressor, and this program reads {VERSION}; fit it again "
            "(make compressor), or use the program that wrote it"
        )


def _check(card: dict[str, Any]) -> None:
    """Raises KeyError, TypeError, ValueError or OverflowError where the card lacks what readers take from it."""
    if card["lm"]["kind"] not in LM_FILES or not isinstance(card["files"], dict):
        raise ValueError("card")
    str(card["name"])
    int(card["lm_threshold"])
    for bits, score in card["scores"].items():
        int(bits)
        float(score["bytes_per_symbol"])


def _npz(data: bytes) -> Arrays:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def _npz_bytes(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _lm_bytes(lm: SmallByteLM | TransformerByteLM) -> bytes:
    if isinstance(lm, SmallByteLM):
        return _npz_bytes({**vars(lm), "logit_scale": np.array(lm.logit_scale, np.int64)})
    from safetensors.numpy import save

    return save(lm.weights())


def _small(arrays: Arrays) -> SmallByteLM:
    scale = int(arrays.pop("logit_scale"))
    return SmallByteLM(**arrays, logit_scale=scale)


def _paper(data: bytes, sizes: dict[str, int], device: str) -> TransformerByteLM:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return TransformerByteLM(Sizes(**sizes), load(data), device)
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _table(arrays: Arrays) -> EntropyTable:
    fallback, threshold = arrays["fallback_threshold"].tolist()
    if arrays["tables"].dtype != np.uint8 or not (0 <= int(fallback) <= 255 and 0 <= int(threshold) <= 255):
        raise ValueError(f"tables of {arrays['tables'].dtype}, fallback {fallback}, threshold {threshold}")
    return EntropyTable(tables=arrays["tables"], fallback=int(fallback), threshold=int(threshold))


def _codebook(arrays: Arrays, bits: int) -> Codebook:
    depth, last = arrays["depth"], arrays["last"]
    if depth.dtype != np.uint16 or last.dtype != np.uint8 or not depth.shape == last.shape == (1 << bits,):
        raise ValueError(f"depth {depth.dtype} {depth.shape}, last {last.dtype} {last.shape}")
    steps = np.diff(depth.astype(np.int64), prepend=0)
    if steps.max() > 1 or depth.min() < 1 or not np.array_equal(last[depth == 1], np.arange(256)):
        raise ValueError("not a tree in preorder with each byte at its root")
    return Codebook(depth=depth, last=last)
