"""A trained model back from its run, for inference: no optimiser, no loader."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from schemas.errors import UserError
from schemas.vocabulary import Vocabulary
from trainer import checkpoint
from trainer.model.evabyte import EvaByte, ModelConfig


@dataclass(frozen=True)
class Restored:
    """A model and what it was trained on.

    Attributes:
        model: in evaluation mode.
        vocabulary: its ids.
        step: optimiser steps done.
        config: of the run.
    """

    model: EvaByte
    vocabulary: Vocabulary
    step: int
    config: dict[str, Any]


def restore(run: str) -> Restored:
    """The newest checkpoint of a run.

    Raises:
        UserError: there is none.
    """
    found = checkpoint.newest(Path(run))
    if found is None:
        raise UserError(f"RUN={run}: no checkpoint there; train one with: make train RUN={run}")
    config = found.state["config"]
    model = EvaByte(ModelConfig(**config["model"]))
    model.init_weights(torch.Generator().manual_seed(0))
    tensors = get_model_state_dict(model)
    found.load_into({"model": tensors})
    set_model_state_dict(model, tensors)
    model.eval()
    return Restored(model, Vocabulary.from_json(config["vocabulary"]), found.step, config)
