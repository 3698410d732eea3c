"""Memory and operations that a model needs."""

import pytest
import torch

from schemas.errors import UserError
from trainer.model.evabyte import ModelConfig
from trainer.plan import available_bytes, check_fits, flops_per_symbol, peak_flops, peak_memory, state_bytes
from trainer.scales import scale_named


def config_of(scale: str) -> ModelConfig:
    return ModelConfig.of(scale_named(scale), vocabulary_size=65_856, main_heads=1, raw_heads=1)


def test_the_published_7b_model_needs_16_bytes_for_each_of_its_parameters() -> None:
    assert state_bytes(config_of("7b")) == 16 * 7_520_653_312


def test_a_model_that_fits_exactly_is_taken_and_one_byte_less_is_refused_with_what_fits() -> None:
    needed = state_bytes(config_of("7b"))
    check_fits("7b", config_of("7b"), needed)
    check_fits("7b", config_of("7b"), None)
    with pytest.raises(UserError, match=r"SCALE=7b: 7,520,653,312 parameters need 120\.3 GB.*SCALE=4b would fit"):
        check_fits("7b", config_of("7b"), needed - 1)
    with pytest.raises(UserError, match="no scale would fit"):
        check_fits("tiny", config_of("tiny"), 1000)


def test_operations_a_symbol_are_the_published_formula() -> None:
    # 7b at 32,768 ids: 6 (parameters - V D) + 14 * 32 * 4096 * (0.5 * 32768 / 8 + 2048)
    expected = 6 * (7_520_653_312 - 65_856 * 4096) + 14 * 32 * 4096 * (2048 + 2048)
    assert flops_per_symbol(config_of("7b"), 32_768) == expected


def test_a_cpu_has_no_known_peak_and_a_process_has_held_some_memory() -> None:
    cpu = torch.device("cpu")
    assert peak_flops(cpu) is None
    assert 1 << 26 < peak_memory(cpu) < 1 << 40


def test_free_memory_is_found_on_this_system() -> None:
    available = available_bytes()
    assert available is not None
    assert 1 << 20 < available < 1 << 50
