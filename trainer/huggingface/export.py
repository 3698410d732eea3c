"""`python -m trainer export`: a trained model as a folder in the Hugging Face format of EvaByte.

The folder's files and names are in `reading.py`. Two kinds: `full` keeps everything, and the raw heads are a
tensor of their own that the published code ignores; `raw-only` is the byte model inside: embedding and main heads cut
to the first 320 ids, the raw heads appended as further main heads. The embedding has to be cut as well, since the
format has one size for both.

A folder is complete or absent: written under another name and renamed when all is on disk. The modelling code itself
is not written; `auto_map` finds it once its files lie in the folder. Memory: the model, and for bfloat16 the tensors of
one file.
"""

import errno
import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from schemas.errors import UserError
from schemas.files import sha256, sync
from schemas.manifest import seal
from schemas.shard import FORMAT_VERSION
from schemas.vocabulary import BYTES, COMP_OFFSET
from trainer.checkpoints.restore import restore
from trainer.data.views import Mode
from trainer.huggingface.config import HEADS, shapes_of, their_name, to_fields
from trainer.huggingface.reading import CONFIG, INDEX, OURS, WEIGHTS, Info
from trainer.model.evabyte import EvaByte, ModelConfig

Kind = Literal["raw-only", "full"]

_EMBEDDING = "embed_tokens.weight"
_TEMP = ".tmp-"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a trained model in the Hugging Face format of EvaByte.

    Attributes:
        run: folder of the run, whose newest checkpoint is taken; or of an exported model.
        out: folder to write; must not exist, or be empty.
        kind: raw-only (the byte model inside, for inference) or full (all symbols, to train on).
        max_shard_bytes: bytes of tensors a file; a larger tensor has a file of its own.
        dtype: float32 (exact) or bfloat16 (half the size).
    """

    run: str
    out: str
    kind: Kind = "raw-only"
    max_shard_bytes: int = 5_000_000_000
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.max_shard_bytes < 1:
            raise UserError(f"--max-shard-bytes {self.max_shard_bytes}: give 1 or more")


def export(options: ExportOptions) -> None:
    """The `export` command.

    Raises:
        UserError: no run, no byte model in it, the folder is taken, or it cannot be written.
    """
    _refuse_taken(options.out)
    restored = restore(options.run)
    if options.kind == "raw-only" and restored.config["mode"] == Mode.COMP_ONLY:
        raise UserError(f"RUN={options.run}: trained on comp symbols alone, so it has no byte model; give --kind full")
    info = Info(
        vocabulary=restored.vocabulary,
        fingerprint=restored.fingerprint,
        step=restored.step,
        config=restored.config,
    )
    write(restored.model, info, options)
    config = exported_config(restored.model.config, options.kind)
    sys.stdout.write(
        f"{options.out}: {options.kind} model of step {restored.step:,} in {options.dtype}, {config.vocabulary_size:,} "
        f"ids, {config.main_heads} heads{f' and {config.raw_heads} raw' if config.raw_heads else ''}\n"
        f"  next: make generate RUN={options.out}\n"
    )


def write(model: EvaByte, info: Info, options: ExportOptions) -> None:
    """Write a model's folder; `options.run` does not matter.

    Raises:
        UserError: the folder is taken, or it cannot be written; nothing is left of it then.
    """
    _refuse_taken(options.out)
    target = Path(options.out).resolve()
    temp = target.parent / f"{_TEMP}{target.name}"
    with _plain_errors(options.out):
        shutil.rmtree(temp, ignore_errors=True)
        try:
            temp.mkdir(parents=True)
            config = exported_config(model.config, options.kind)
            names = _write_tensors(model, options, temp)
            _write_json(temp / CONFIG, to_fields(config, info.config["sequence"], options.dtype))
            for name in names:
                shutil.copymode(temp / CONFIG, temp / name)  # safetensors makes files that only their owner may read
            digests = {name: sha256(temp / name) for name in names}
            (temp / OURS).write_bytes(seal(_ours(config, info, options.kind, digests)))
            for path in [*temp.iterdir(), temp]:
                sync(path)
            temp.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(temp, ignore_errors=True)


def exported_config(config: ModelConfig, kind: Kind) -> ModelConfig:
    """The model that an export of this kind holds."""
    if kind == "full":
        return config
    heads = config.main_heads + config.raw_heads
    return replace(config, vocabulary_size=COMP_OFFSET, main_heads=heads, raw_heads=0)


def _exported(model: EvaByte, name: str, kind: Kind) -> Tensor:
    """A tensor of the export by our name; a view of the parameter wherever possible."""
    tensor = model.get_parameter(name).detach()
    if kind == "full" or name not in (_EMBEDDING, HEADS):
        return tensor
    if name == _EMBEDDING:
        return tensor[:COMP_OFFSET]
    cut = [head[:COMP_OFFSET] for head in tensor.split(model.config.vocabulary_size)]
    raw = [] if model.raw_multibyte_lm_head is None else [model.raw_multibyte_lm_head.weight.detach()]
    return torch.cat([*cut, *raw])


def _write_tensors(model: EvaByte, options: ExportOptions, folder: Path) -> list[str]:
    """Write the files of tensors, in the order of the parameters; their names."""
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
    shapes = shapes_of(exported_config(model.config, options.kind))
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    shards = _shards(sizes, options.max_shard_bytes)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places |= {their_name(name): file for name in names}
        tensors = {their_name(name): _exported(model, name, options.kind).to(dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})  # without it the published loader refuses
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places})
    return list(dict.fromkeys(places.values()))


def _shards(sizes: dict[str, int], most: int) -> list[list[str]]:
    """Names of tensors by files of at most so many bytes, in order."""
    shards: list[list[str]] = []
    left = -1
    for name, size in sizes.items():
        if size > left:
            shards.append([])
            left = most
        shards[-1].append(name)
        left -= size
    return shards


def _ours(config: ModelConfig, info: Info, kind: Kind, digests: dict[str, str]) -> dict[str, Any]:
    bytes_alone = config.vocabulary_size == COMP_OFFSET
    return {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "model": asdict(config),
        "vocabulary": (BYTES if bytes_alone else info.vocabulary).to_json(),
        "fingerprint": None if bytes_alone else info.fingerprint,
        "step": info.step,
        "run": info.config,
        "files": digests,
    }


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(f"{json.dumps(fields, indent=2, sort_keys=True)}\n")


def _refuse_taken(out: str) -> None:
    """Refuse what an export would overwrite.

    Raises:
        UserError: there is something.
    """
    path = Path(out)
    with _plain_errors(out):
        taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken:
        raise UserError(f"--out {out}: there is something already; give a folder that is empty or does not exist")


@contextmanager
def _plain_errors(out: str) -> Iterator[None]:
    """What an operating system refuses, as one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            reason = "no space left on the device; free some and export again"
        raise UserError(f"--out {out}: not written: {reason}") from None
