"""config.json and the tensors' names in the Hugging Face format of EvaByte, from and to ours.

Sizes have other names there. Switches that the published code has and ours has not are written as ours always is, and
refused on reading where they say otherwise: the same tensors would be another function. Tensors have our names with
"model." before all but the heads.
"""

import json
from pathlib import Path
from typing import Any

import torch

from schemas.errors import UserError
from schemas.vocabulary import BOS, EOS, PAD
from trainer.model.evabyte import EvaByte, ModelConfig

HEADS = "lm_head.weight"
RAW_HEADS = "raw_multibyte_lm_head.weight"

SEQUENCE = "max_position_embeddings"
"""Ids of a training sequence; our positions have no limit."""

KEYS = {
    "dim": "hidden_size",
    "ffn": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "window": "window_size",
    "chunk": "chunk_size",
    "vocabulary_size": "vocab_size",
    "main_heads": "num_pred_heads",
    "eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
"""Fields of `ModelConfig` by their names in config.json. None may be absent: for theta, window and chunk the published
code has defaults, but none that a model of this family has."""

FIXED = {
    "model_type": "evabyte",
    "norm_add_unit_offset": True,
    "hidden_act": "silu",
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
}
"""What our model always is; a folder that says otherwise holds another function of the same tensors."""

WRITTEN = {
    **FIXED,
    "architectures": ["EvaByteForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_evabyte.EvaByteConfig",
        "AutoModelForCausalLM": "modeling_evabyte.EvaByteForCausalLM",
    },
    "attention_class": "eva",
    "num_chunks": None,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "fp32_ln": True,
    "fp32_logits": True,
    "fp32_skip_add": False,  # the residual stream is added in its own dtype, as in training
    "mixedp_attn": True,
    "return_dict": False,
    "use_cache": True,
}
"""Keys of config.json that do not depend on the model; some the published code reads without a default."""


def to_fields(config: ModelConfig, sequence: int, dtype: str) -> dict[str, Any]:
    """The fields of config.json.

    Args:
        config: of the model; its raw heads have no field.
        sequence: ids of a training sequence.
        dtype: of the tensors, by torch's name.
    """
    return {
        **WRITTEN,
        **{key: getattr(config, name) for name, key in KEYS.items()},
        "num_key_value_heads": config.heads,
        SEQUENCE: sequence,
        "max_seq_length": sequence,
        "torch_dtype": dtype,
    }


def from_fields(fields: dict[str, Any], raw_heads: int, path: Path) -> ModelConfig:
    """Inverse of `to_fields`; `raw_heads` are counted elsewhere, `path` is for errors.

    Raises:
        UserError: a key is missing, not a number, or says that the model is not one of ours.
    """
    needed = [*KEYS.values(), "norm_add_unit_offset", SEQUENCE]
    missing = [key for key in needed if key not in fields]
    if missing:
        raise UserError(f"{path}: no {', '.join(missing)} in it; add what the model was trained with")
    for key, value in FIXED.items():
        if fields.get(key, value) != value:
            raise UserError(f"{path}: {key} is {json.dumps(fields[key])}; this model can only be {json.dumps(value)}")
    real = ("eps", "rope_theta")
    values = {name: _number(fields, key, float if name in real else int, path) for name, key in KEYS.items()}
    _number(fields, SEQUENCE, int, path)
    try:
        return ModelConfig(**values, raw_heads=raw_heads)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _number(fields: dict[str, Any], key: str, kind: type[int] | type[float], path: Path) -> Any:
    """A number above 0.

    Raises:
        UserError: it is something else.
    """
    value = fields[key]
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**63
    if not good or kind(value) != value:
        whole = "" if kind is float else "whole "
        raise UserError(f"{path}: {key} is {json.dumps(value)}; expected a {whole}number above 0")
    return kind(value)


def their_name(name: str) -> str:
    """The name of a parameter in such a folder."""
    return name if name in (HEADS, RAW_HEADS) else f"model.{name}"


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters by our names, in the order of the model."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in EvaByte(config).named_parameters()}
