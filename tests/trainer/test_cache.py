"""Id by id with the cache gives what a whole pass gives."""

import pytest
import torch
from torch import Tensor

from schemas.vocabulary import EOS
from trainer.model.cache import Cache
from trainer.model.evabyte import EvaByte, ModelConfig

W = 16
CONFIG = ModelConfig(
    dim=32, ffn=48, layers=2, heads=2, window=W, chunk=4, vocabulary_size=330, main_heads=2, raw_heads=1
)


@pytest.fixture(scope="module")
def model() -> EvaByte:
    """Probes and gains large enough to matter."""
    generator = torch.Generator().manual_seed(0)
    made = EvaByte(CONFIG)
    made.init_weights(generator)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(std=0.2, generator=generator)
            elif "embed" not in name:
                parameter.mul_(6)
    return made


def some_ids(batch: int, length: int) -> Tensor:
    return torch.randint(64, 330, (batch, length), generator=torch.Generator().manual_seed(length))


def uncached(model: EvaByte, ids: Tensor) -> Tensor:
    """Logits [B, T, P, V]."""
    with torch.no_grad():
        return model.lm_head(model(ids, torch.zeros_like(ids), torch.arange(ids.shape[1]).expand(ids.shape)))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("prompt", [1, 3, 4, 5, W - 1, W, W + 1, 2 * W - 1, 2 * W, 2 * W + 1, 3 * W, 3 * W + 6])
def test_logits_equal_those_without_a_cache(model: EvaByte, prompt: int, batch: int) -> None:
    ids = some_ids(batch, prompt + 2 * W + 3)
    expected = uncached(model, ids)
    cache = Cache(model, batch)
    with torch.no_grad():
        assert (model.lm_head(cache.prefill(ids[:, :prompt])) - expected[:, :prompt]).abs().max() < 1e-5
        for t in range(prompt, ids.shape[1]):
            assert cache.length == t
            assert (model.lm_head(cache.step(ids[:, t])) - expected[:, t]).abs().max() < 1e-5


def test_many_windows_of_steps_fill_and_grow_the_summaries(model: EvaByte) -> None:
    ids = some_ids(1, 9 * W)
    cache = Cache(model)
    cache.prefill(ids[:, :1])
    hidden = [cache.step(ids[:, t]) for t in range(1, ids.shape[1])]
    with torch.no_grad():
        assert (model.lm_head(hidden[-1]) - uncached(model, ids)[:, -1]).abs().max() < 1e-5


def test_misuse_is_refused(model: EvaByte) -> None:
    with pytest.raises(ValueError, match="prefill it first"):
        Cache(model).step(torch.tensor([70]))
    with pytest.raises(ValueError, match="prefill of 0 ids"):
        Cache(model).prefill(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="an eos ends a document"):
        Cache(model).prefill(torch.tensor([[70, EOS]]))
    cache = Cache(model)
    cache.prefill(torch.tensor([[70]]))
    with pytest.raises(ValueError, match="after 1"):
        cache.prefill(torch.tensor([[70]]))
