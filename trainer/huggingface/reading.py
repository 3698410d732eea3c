"""Models in from folders in the Hugging Face format of EvaByte: ours, see `export.py`, and published ones.

    FOLDER/config.json                 sizes and switches, see `config.py`
           model.safetensors           or several files with model.safetensors.index.json
           proxy_compression.json      ours only, sealed: what config.json has no keys for, SHA-256 of the tensor files

Everything that can be wrong is found before a parameter is touched: a tensor's shape in the files' headers, and in our
folders each byte by its digest (about 1 GB/s). Never a pickle. Memory: the model and one tensor.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from schemas.errors import UserError
from schemas.files import sha256
from schemas.manifest import unseal
from schemas.vocabulary import BYTES, COMP_OFFSET, Vocabulary
from trainer.config import TrainOptions
from trainer.data.state import differences
from trainer.data.views import Mode
from trainer.huggingface.config import RAW_HEADS, SEQUENCE, from_fields, shapes_of, their_name
from trainer.model.evabyte import EvaByte, ModelConfig

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OURS = "proxy_compression.json"

UNKNOWN = "unknown"
"""Name of the proxy of a published model with more than the 320 ids of bytes."""

_NAMED = 5  # tensors in a message: enough to see what kind they are


@dataclass(frozen=True, kw_only=True)
class Info:
    """What is known of a model beside its parameters.

    Attributes:
        vocabulary: its ids.
        fingerprint: of the proxy whose symbols they are; None for bytes alone, or where the folder does not say.
        step: optimiser steps done; 0 where the folder does not say.
        config: of the run, as in its checkpoints. A published folder gives what inference asks for: model, vocabulary,
            mode (no-sentinels, as the one public model was trained), sequence, val_fraction, and no data.
    """

    vocabulary: Vocabulary
    fingerprint: str | None
    step: int
    config: dict[str, Any]


def is_model_folder(folder: Path) -> bool:
    """Whether there are tensors in safetensors: a run's own folder has none."""
    return (folder / WEIGHTS).exists() or (folder / INDEX).exists()


def import_model(folder: str) -> tuple[EvaByte, Info]:
    """A model from a folder of ours or a published one, in fp32 and evaluation mode.

    Raises:
        UserError: not such a folder, damaged, or of a model that ours cannot be.
    """
    source = _Source.open(Path(folder))
    model = EvaByte(source.config)
    source.fill(model)
    model.eval()
    return model, source.info


def config_in(folder: str) -> ModelConfig:
    """The sizes of a folder's model.

    Raises:
        UserError: see `import_model`.
    """
    return _Source.open(Path(folder)).config


def load_into(model: EvaByte, folder: str, *, vocabulary: Vocabulary, fingerprint: str) -> None:
    """Fill a model's parameters from a folder; nothing is sent between processes.

    Args:
        model: with storage; its parameters keep their dtype, device and, under FSDP, their parts.
        folder: of ours or a published one.
        vocabulary: that the model is to be trained on.
        fingerprint: of the proxy of its data; does not matter to a model of bytes alone.

    Raises:
        UserError: see `import_model`; or the folder's model or symbols are others. The parameters are untouched then.
    """
    source = _Source.open(Path(folder))
    asked = asdict(model.config)
    if source.info.vocabulary.proxy != UNKNOWN:
        asked["proxy"] = vocabulary.proxy
    if source.info.fingerprint is not None and vocabulary.comp_symbols:
        asked["fingerprint of the proxy"] = fingerprint
    there = {
        **asdict(source.config),
        "proxy": source.info.vocabulary.proxy,
        "fingerprint of the proxy": source.info.fingerprint,
    }
    different = differences({name: there[name] for name in asked}, asked)
    if different:
        raise UserError(
            f"{folder}: another model than this run's ({'; '.join(different)}); take the scale, mode, heads and proxy "
            "that it was trained with"
        )
    source.fill(model)


@dataclass(frozen=True)
class _Source:
    """A folder that is whole and holds what its configuration says.

    Attributes:
        config: of the model in it.
        info: the rest that it says.
        files: of tensors.
    """

    config: ModelConfig
    info: Info
    files: list[Path]

    @classmethod
    def open(cls, folder: Path) -> "_Source":
        """Check all and keep no tensor.

        Raises:
            UserError: see `import_model`.
        """
        fields = _read_json(folder / CONFIG)
        ours = _read_ours(folder)
        headers = _headers(folder)
        if ours is None:
            rows = headers[RAW_HEADS].shape[0] if RAW_HEADS in headers else 0
            config = from_fields(fields, rows // COMP_OFFSET, folder / CONFIG)
            info = _published_info(fields, config)
        else:
            saved, info = ours
            config = from_fields(fields, saved.raw_heads, folder / CONFIG)
            different = differences(asdict(saved), asdict(config))
            if different:
                raise UserError(f"{folder / CONFIG}: changed since the export ({'; '.join(different)}); undo it")
        _check(headers, config, folder)
        return cls(config, info, list(dict.fromkeys(header.path for header in headers.values())))

    def fill(self, model: EvaByte) -> None:
        """Copy the tensors into a model of the same configuration, one at a time."""
        parameters = {their_name(name): parameter for name, parameter in model.named_parameters()}
        for path in self.files:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    _put(parameters[name], file.get_tensor(name))


@dataclass(frozen=True)
class _Header:
    """Where a tensor is, its shape, and its dtype by its name in safetensors."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


def _put(parameter: Tensor, tensor: Tensor) -> None:
    """Copy a whole tensor into a parameter, or this process's part of it into its part."""
    whole = tensor.to(parameter.device, parameter.dtype)
    if isinstance(parameter, DTensor):
        part = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.data.to_local().copy_(part.to_local())
    else:
        parameter.data.copy_(whole)


def _read_ours(folder: Path) -> tuple[ModelConfig, Info] | None:
    """What our export says, its files compared with their digests; None if there is no such file: a published folder.

    Raises:
        UserError: damaged, or of another version.
    """
    path = folder / OURS
    try:
        fields = unseal(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        config, files = ModelConfig(**fields["model"]), dict(fields["files"])
        info = Info(
            vocabulary=Vocabulary.from_json(fields["vocabulary"]),
            fingerprint=fields["fingerprint"],
            step=fields["step"],
            config={**fields["run"], "model": fields["model"], "vocabulary": fields["vocabulary"]},
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not the description of a model ({error})") from None
    for name, digest in files.items():
        try:
            same = sha256(folder / name) == digest
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror}); export it anew") from None
        if not same:
            raise UserError(f"{folder / name}: damaged (its SHA-256 is not the one in {OURS}); export it anew")
    return config, info


def _published_info(fields: dict[str, Any], config: ModelConfig) -> Info:
    vocabulary = BYTES
    if config.vocabulary_size > COMP_OFFSET:
        vocabulary = Vocabulary(proxy=UNKNOWN, comp_symbols=config.vocabulary_size - COMP_OFFSET)
    run = {
        "model": asdict(config),
        "vocabulary": vocabulary.to_json(),
        "mode": Mode.NO_SENTINELS.value,
        "sequence": fields[SEQUENCE],
        "val_fraction": TrainOptions.val_fraction,
        "data": [],
    }
    return Info(vocabulary=vocabulary, fingerprint=None, step=0, config=run)


def _headers(folder: Path) -> dict[str, _Header]:
    """Of all tensors in a folder, by their names there; one file, or those of the index.

    Raises:
        UserError: a file is missing or damaged, or a tensor is in two.
    """
    names = [WEIGHTS]
    if not (folder / WEIGHTS).exists():
        if not (folder / INDEX).exists():
            raise UserError(f"{folder}: neither {WEIGHTS} nor {INDEX} there; expected a model in safetensors")
        places = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(n, str) and Path(n).name == n for n in places.values()):
            raise UserError(f"{folder / INDEX}: no weight_map of tensors to files of this folder in it")
        names = sorted(set(places.values()))
    headers: dict[str, _Header] = {}
    for name in names:
        with _opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                if key in headers:
                    raise UserError(f"{folder / name}: {key} is in {headers[key].path.name} too")
                part = file.get_slice(key)
                headers[key] = _Header(folder / name, tuple(part.get_shape()), part.get_dtype())
    return headers


def _check(headers: dict[str, _Header], config: ModelConfig, folder: Path) -> None:
    """Compare tensors with what a configuration asks for.

    Raises:
        UserError: some are missing, unknown, of another shape, or not of floating point; all in one line.
    """
    shapes = {their_name(name): shape for name, shape in shapes_of(config).items()}
    found = {
        "missing": [name for name in shapes if name not in headers],
        "unknown": [name for name in headers if name not in shapes],
        "of another shape": [
            f"{name} {list(header.shape)}, expected {list(shapes[name])}"
            for name, header in headers.items()
            if name in shapes and header.shape != shapes[name]
        ],
        "not F32, BF16 or F16": [n for n, header in headers.items() if header.dtype not in ("F32", "BF16", "F16")],
    }
    parts = [
        f"{kind}: {', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}"
        for kind, names in found.items()
        if names
    ]
    if parts:
        raise UserError(f"{folder}: its tensors are not those of {CONFIG}: {'; '.join(parts)}; take the folder anew")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file of tensors; opening compares its length with its header.

    Raises:
        UserError: missing, damaged or cut off.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise UserError(f"{path}: {reason}; take the folder anew") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or cut off ({error}); take the folder anew") from None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: missing, or not one.
    """
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a folder with a model") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: not a JSON object")
    return fields
