"""Small models of a dataset that nobody trained, as folders that every evaluation takes."""

from dataclasses import replace
from pathlib import Path

import torch

from schemas.vocabulary import BYTES
from trainer.data.dataset import Dataset
from trainer.data.views import Mode
from trainer.huggingface.export import ExportOptions, write
from trainer.huggingface.reading import Info
from trainer.model.evabyte import EvaByte, ModelConfig

SEQUENCE = 64
VAL_FRACTION = 0.3


def drawn(size: int, seed: int = 0, *, main_heads: int = 1, raw_heads: int = 2) -> EvaByte:
    """A model in which every parameter matters."""
    config = ModelConfig(
        dim=32, ffn=48, layers=2, heads=2, window=16, chunk=4,
        vocabulary_size=size, main_heads=main_heads, raw_heads=raw_heads,
    )  # fmt: skip
    model = EvaByte(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = 1.0 if "adaptive" in name or "embed" in name else 0.2
            parameter.normal_(std=std, generator=generator)
    return model.eval()


def folder_of_model(data: Path, out: Path, mode: Mode = Mode.PROXY, *, heads: int = 3) -> Path:
    """A full export of a drawn model of a dataset, as if it had been trained in this mode.

    Args:
        data: the dataset.
        out: the folder to write.
        mode: of the run; bytes alone have all heads over the whole vocabulary.
        heads: of the model.
    """
    dataset = Dataset(str(data))
    config = {"mode": str(mode), "sequence": SEQUENCE, "val_fraction": VAL_FRACTION, "data": [dataset.url]}
    info = Info(vocabulary=dataset.vocabulary, fingerprint=dataset.fingerprint, step=0, config=config)
    raw_heads = heads - 1
    if mode is Mode.BYTES:
        info, raw_heads = replace(info, vocabulary=BYTES, fingerprint=None), 0
    model = drawn(info.vocabulary.size, main_heads=heads - raw_heads, raw_heads=raw_heads)
    write(model, info, ExportOptions(run="", out=str(out), kind="full"))
    return out
