"""A trained model back from its run or an exported folder, for inference: no optimiser, no loader."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from schemas.errors import UserError
from schemas.remote import is_remote, local_path
from schemas.vocabulary import Vocabulary
from trainer.checkpoints.saving import newest
from trainer.checkpoints.stores import store_at
from trainer.config import CHECKPOINTS, RUN_CONFIG
from trainer.huggingface.reading import import_model, is_model_folder
from trainer.model.evabyte import EvaByte, ModelConfig


@dataclass(frozen=True)
class Restored:
    """A model and what it was trained on.

    Attributes:
        model: in evaluation mode.
        vocabulary: its ids.
        step: optimiser steps done.
        config: of the run.
        fingerprint: of the proxy whose symbols the ids are; None for bytes alone, or where a folder does not say.
    """

    model: EvaByte
    vocabulary: Vocabulary
    step: int
    config: dict[str, Any]
    fingerprint: str | None


def restore(run: str) -> Restored:
    """The newest checkpoint of a run or at a URL, or a model that somebody wrote in the format of EvaByte.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not is_remote(run) and is_model_folder(Path(run)):
        model, info = import_model(run)
        return Restored(model, info.vocabulary, info.step, info.config, info.fingerprint)
    found = newest(store_at(_checkpoints(run)))
    if found is None:
        raise UserError(f"RUN={run}: no checkpoint there; train one with: make train RUN={run}")
    config = found.state["config"]
    model = EvaByte(ModelConfig(**config["model"]))
    model.init_weights(torch.Generator().manual_seed(0))
    tensors = get_model_state_dict(model)
    found.load_into({"model": tensors})
    set_model_state_dict(model, tensors)
    model.eval()
    vocabulary = Vocabulary.from_json(config["vocabulary"])
    datasets = found.state["loader"]["identity"]["datasets"]  # all of one proxy
    fingerprint = datasets[0]["fingerprint"] if vocabulary.comp_symbols else None
    return Restored(model, vocabulary, found.step, config, fingerprint)


def _checkpoints(run: str) -> str:
    """Where a run has its checkpoints: a URL itself, or what its configuration says."""
    if is_remote(run) or local_path(run) != run:
        return run
    try:
        config = json.loads((Path(run) / RUN_CONFIG).read_bytes())
    except (OSError, ValueError):
        config = {}
    return config.get("checkpoints") or str(Path(run) / CHECKPOINTS)
