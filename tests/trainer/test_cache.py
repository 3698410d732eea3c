"""Node by node with the cache gives what a whole pass gives."""

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


def logits(model: EvaByte, hidden: Tensor) -> Tensor:
    with torch.no_grad():
        return model.lm_head(hidden)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("nodes", [1, 5])
@pytest.mark.parametrize("prompt", [1, 3, 4, 5, W - 1, W, W + 1, 2 * W - 1, 2 * W, 2 * W + 1, 3 * W, 3 * W + 6])
def test_logits_equal_those_without_a_cache(model: EvaByte, prompt: int, batch: int, nodes: int) -> None:
    ids = some_ids(batch, prompt + 2 * W + 3)
    expected = uncached(model, ids)
    cache = Cache(model, batch, nodes)
    for row in range(batch):
        found = logits(model, cache.prefill(row, ids[row, :prompt]))
        assert (found - expected[row, :prompt]).abs().max() < 1e-5
    for t in range(prompt, ids.shape[1]):
        assert cache.lengths == [t] * batch
        assert (logits(model, cache.step(ids[:, t])) - expected[:, t]).abs().max() < 1e-5


def test_many_windows_of_steps_fill_and_grow_the_summaries(model: EvaByte) -> None:
    ids = some_ids(1, 9 * W)
    cache = Cache(model)
    cache.prefill(0, ids[0, :1])
    hidden = [cache.step(ids[:, t]) for t in range(1, ids.shape[1])]
    assert (logits(model, hidden[-1]) - uncached(model, ids)[:, -1]).abs().max() < 1e-5


def test_rows_of_any_lengths_advance_on_their_own_and_places_are_taken_again(model: EvaByte) -> None:
    lengths = [1, W, 2 * W - 1, 3 * W + 5]
    ids = some_ids(4, 9 * W)
    expected = uncached(model, ids)
    cache = Cache(model, 4, nodes=3)
    for row, length in enumerate(lengths):
        cache.prefill(row, ids[row, :length])
    cache.prefill(3, ids[3, : 4 * W + 2])  # in place of a shorter one
    cache.prefill(3, ids[3, : W + 2])  # and of a longer one
    lengths[3] = W + 2

    def chain(advances: list[int]) -> None:
        """Three nodes each in a line, of which a row keeps so many."""
        at = torch.tensor(cache.lengths)[:, None] + torch.arange(3)
        sees = torch.ones(3, 3, dtype=torch.bool).tril().expand(len(at), 3, 3)
        found = logits(model, cache.look(ids.gather(1, at), torch.arange(3).expand(at.shape), sees))
        for row in range(len(at)):
            inside = min(3, cache.room(row))
            wanted = expected[row, cache.lengths[row] : cache.lengths[row] + inside]
            assert (found[row, :inside] - wanted).abs().max() < 1e-5
        advances = [min(n, cache.room(row)) for row, n in enumerate(advances)]
        before = list(cache.lengths)
        cache.accept([range(n) for n in advances])
        assert cache.lengths == [length + n for length, n in zip(before, advances, strict=True)]

    for turn in range(2 * W):
        chain([turn % 4, 1, (turn + 1) % 3, 2])
    cache.keep([3, 0])
    ids, expected = ids[[3, 0]], expected[[3, 0]]
    for _ in range(W):
        chain([3, 1])


def test_nodes_see_their_ancestors_alone_and_any_path_can_be_kept(model: EvaByte) -> None:
    prompt = W + 3
    ids = some_ids(1, prompt)[0]
    tokens, parents, depths = [70, 71, 72, 73, 74, 75], [-1, 0, 0, 1, 2, 4], [0, 1, 1, 2, 2, 3]
    sees = torch.zeros(1, 6, 6, dtype=torch.bool)
    paths = []
    for node, parent in enumerate(parents):
        path = [*paths[parent], node] if node else [0]
        paths.append(path)
        sees[0, node, path] = True
    for path in paths:
        cache = Cache(model, 1, nodes=8)
        cache.prefill(0, ids)
        found = logits(model, cache.look(torch.tensor([tokens]), torch.tensor([depths]), sees))[0]
        whole = torch.cat([ids, torch.tensor([tokens[node] for node in path])])
        assert (found[path] - uncached(model, whole[None])[0, prompt:]).abs().max() < 1e-5
        cache.accept([path])
        after = torch.cat([whole, torch.tensor([99])])
        found = logits(model, cache.step(torch.tensor([99])))[0]
        assert (found - uncached(model, after[None])[0, -1]).abs().max() < 1e-5


def test_keys_count_what_the_longest_rows_hold(model: EvaByte) -> None:
    cache = Cache(model, 2, nodes=3)
    cache.prefill(0, some_ids(1, 2 * W + 1)[0])
    cache.prefill(1, some_ids(1, W - 2)[0])
    assert cache.keys == 2 * W // 4 + 3 + W - 2
    assert [cache.room(row) for row in (0, 1)] == [W - 1, 2]


def test_misuse_is_refused(model: EvaByte) -> None:
    with pytest.raises(ValueError, match="prefill it first"):
        Cache(model).step(torch.tensor([70]))
    with pytest.raises(ValueError, match="one id or more"):
        Cache(model).prefill(0, torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="none of them eos"):
        Cache(model).prefill(0, torch.tensor([70, EOS]))
