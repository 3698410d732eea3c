"""Several bytes a pass and many prompts at once give what one byte at a time from whole passes gives."""

import copy
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UserError
from schemas.vocabulary import BOS, BYTE_OFFSET, EOS, RAW_CLOSE, RAW_OPEN
from trainer.inference import decoding
from trainer.inference.continuation import Generated
from trainer.inference.decoding import Generator
from trainer.inference.sampling import CHOICES, CLOSE, Sampler, Sampling
from trainer.inference.tree import Belief, Tree
from trainer.model.evabyte import EvaByte, ModelConfig

W = 16
EDGES = [0, 1, W - 3, W - 2, W - 1, W, 2 * W - 3, 2 * W - 2, 3 * W + 6]
"""Lengths of prompts; bos and <raw> come before them."""

HEADS = {"1": (1, 0), "2": (1, 1), "2 main": (2, 0), "5": (2, 3), "8": (8, 0)}


def made_model(main: int, raw: int, *, sharp: float = 6.0, seed: int = 0) -> EvaByte:
    """In fp64; probes and gains large enough to matter, heads that are sure of something."""
    generator = torch.Generator().manual_seed(seed)
    config = ModelConfig(
        dim=32, ffn=48, layers=2, heads=2, window=W, chunk=4, vocabulary_size=330, main_heads=main, raw_heads=raw
    )
    model = EvaByte(config)
    model.init_weights(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(std=0.2, generator=generator)
            elif "head" in name:
                parameter.mul_(sharp)
            elif "embed" not in name:
                parameter.mul_(4)
    return model.double()


@pytest.fixture(scope="module")
def models() -> dict[str, EvaByte]:
    return {name: made_model(*heads) for name, heads in HEADS.items()}


POEM = "the sea \u00e9t\u00e9 \u2603 says so and so, ".encode()
"""What `taught` repeats; three of its characters take more than one byte."""


@pytest.fixture(scope="module")
def taught() -> EvaByte:
    """Eight heads that know the poem by heart, and that it is closed after three times, in fp64."""
    torch.manual_seed(0)
    model = made_model(8, 0, sharp=1.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    text = [BYTE_OFFSET + byte for byte in POEM * 3]
    whole = [BOS, RAW_OPEN, *text, RAW_CLOSE]
    ids = torch.tensor([whole])
    labels = torch.zeros(1, len(whole), 8, dtype=torch.long)
    weights = torch.zeros(1, len(whole), 8)
    for head in range(8):
        ahead = whole[head + 1 :]
        labels[0, : len(ahead), head] = torch.tensor(ahead)
        weights[0, : len(ahead), head] = 1
    zeros, position = torch.zeros_like(ids), torch.arange(len(whole))[None]
    for _ in range(70):
        optimiser.zero_grad()
        (model.loss(ids, zeros, position, labels, weights).total / len(whole)).backward()
        optimiser.step()
    return model


def whole_passes(model: EvaByte, prompt: bytes, max_bytes: int, sampling: Sampling, number: int = 0) -> bytes:
    """The plain twin: a pass over everything for each byte, no cache, no tree."""
    sampler = Sampler(sampling)
    ids = [BOS, RAW_OPEN, *(BYTE_OFFSET + byte for byte in prompt)]
    made = bytearray()
    while len(made) < max_bytes:
        row = torch.tensor([ids])
        with torch.no_grad():
            hidden = model(row, torch.zeros_like(row), torch.arange(len(ids))[None])[:, -1]
            logits = (hidden @ model.lm_head.weight.T)[0, : model.config.vocabulary_size][list(CHOICES)]
        choice = sampler.choose(logits.numpy(), number, len(ids))
        if choice >= CLOSE:
            break
        made.append(choice)
        ids.append(CHOICES[choice])
    return bytes(made)


def prompt_of(length: int) -> bytes:
    return random.Random(length).randbytes(length)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("length", EDGES)
def test_greedy_bytes_are_those_of_whole_passes(models: dict[str, EvaByte], name: str, length: int) -> None:
    prompt, size = prompt_of(length), 2 * W + 5
    expected = whole_passes(models[name], prompt, size, Sampling())
    for nodes, cost in ((1, 0.03), (3, 0.0), (40, 0.0), (16, None)):
        assert Generator(models[name], nodes=nodes, cost=cost).generate([prompt], max_bytes=size)[0].data == expected


@pytest.mark.parametrize("length", EDGES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_model_that_knows_what_follows_takes_fewer_passes(taught: EvaByte, length: int, temperature: float) -> None:
    prompt, size = (POEM * 2)[:length], len(POEM) * 3 - length + 5
    expected = whole_passes(taught, prompt, size, Sampling(temperature=temperature))
    plain = Generator(taught, nodes=1).generate([prompt], max_bytes=size, temperature=temperature)[0]
    found = Generator(taught).generate([prompt], max_bytes=size, temperature=temperature)[0]
    assert found.data == plain.data == expected
    assert found.ended == plain.ended
    if temperature == 0 and length > 4:
        assert found.data == (POEM * 3)[length:]
        assert found.ended == "end"
        assert found.bytes_per_pass > 3
        assert plain.passes == plain.made + 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_proposal_changes_the_output(taught: EvaByte, data: st.DataObject) -> None:
    """Trees of any shape and any bytes, right ones among them."""
    length = data.draw(st.sampled_from(EDGES))
    prompt, size = (POEM * 2)[:length], 2 * W + 5
    temperature = data.draw(st.sampled_from([0.0, 1.0]))
    expected = whole_passes(taught, prompt, size, Sampling(temperature=temperature))
    rng = random.Random(data.draw(st.integers(0, 10_000)))
    truth = prompt + expected + bytes(16)

    def anything(
        root: int, heads: Sequence[Belief], *, depth: int, nodes: int, cost: float, trust: float = 1.0
    ) -> Tree:
        tree = Tree.of(root)
        for _ in range(rng.randrange(nodes)):
            parent = rng.randrange(len(tree.bytes))
            if tree.depths[parent] >= depth:
                continue
            byte = rng.choice([rng.randrange(256), rng.choice(truth)])
            if (parent, byte) not in tree.children():
                tree.bytes.append(byte)
                tree.parents.append(parent)
                tree.depths.append(tree.depths[parent] + 1)
                tree.beliefs.append(1.0)  # it says so
        return tree

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "grow", anything)
        found = Generator(taught, nodes=12).generate([prompt], max_bytes=size, temperature=temperature)[0]
    assert found.data == expected


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_single_precision_differs_at_ties_at_most(taught: EvaByte, temperature: float) -> None:
    single = copy.deepcopy(taught).float()
    prompts = [prompt_of(length) for length in EDGES]
    plain = Generator(single, nodes=1).generate(prompts, max_bytes=40, temperature=temperature, batch=1)
    for nodes, batch in ((16, 1), (16, 9), (4, 3)):
        found = Generator(single, nodes=nodes).generate(prompts, max_bytes=40, temperature=temperature, batch=batch)
        for number, (one, other) in enumerate(zip(plain, found, strict=True)):
            if one.data == other.data:
                continue
            same = next(n for n in range(40) if one.data[n : n + 1] != other.data[n : n + 1])
            ids = [BOS, RAW_OPEN, *(BYTE_OFFSET + byte for byte in prompts[number] + one.data[:same])]
            row = torch.tensor([ids])
            with torch.no_grad():
                hidden = taught(row, torch.zeros_like(row), torch.arange(len(ids))[None])[:, -1]
            scores = (hidden @ taught.lm_head.weight.T)[0, list(CHOICES)].numpy()
            scores = np.sort(scores + Sampler(Sampling(temperature=temperature)).noise(number, len(ids)))
            assert scores[-1] - scores[-2] < 1e-4


@pytest.mark.parametrize(
    "name", [pytest.param("1", marks=pytest.mark.slow), "5", pytest.param("8", marks=pytest.mark.slow)]
)
def test_sampled_bytes_are_the_same_alone_in_a_batch_and_with_any_tree(models: dict[str, EvaByte], name: str) -> None:
    prompts = [prompt_of(length) for length in EDGES]
    for seed in range(6):
        options: dict[str, Any] = {"max_bytes": 20, "temperature": 1.0, "seed": seed, "top_p": 0.9 if seed % 2 else 1.0}
        sampling = Sampling(temperature=1.0, seed=seed, top_p=options["top_p"])
        expected = [whole_passes(models[name], prompt, 20, sampling, n) for n, prompt in enumerate(prompts)]
        for nodes, batch in ((1, 1), (1, 4), (9, 1), (9, 2), (30, 9)):
            found = Generator(models[name], nodes=nodes, cost=0.01).generate(prompts, batch=batch, **options)
            assert [result.data for result in found] == expected
        stream = Generator(models[name]).stream(prompts[3], number=3, **options)
        assert b"".join(stream) == expected[3]


def test_rows_of_a_batch_do_not_touch_each_other(taught: EvaByte) -> None:
    """Unequal prompts, of which some end early, some late and more wait than are in work."""
    prompts = [(POEM * 3)[:length] for length in (90, 0, 33, 95, 15, 48, 14, 3, 80)]
    generator = Generator(taught)
    alone = [generator.generate([prompt], max_bytes=60)[0] for prompt in prompts]
    assert {result.ended for result in alone} == {"end", "length"}
    for batch in (1, 2, 4, 9, 20):
        found = generator.generate(prompts, max_bytes=60, batch=batch)
        assert [(result.data, result.ended) for result in found] == [(result.data, result.ended) for result in alone]
    assert generator.generate([]) == []


def test_sampled_bytes_are_distributed_as_the_softmax() -> None:
    """The second byte, which a tree decides: over all first ones it is the mixture of their softmaxes."""
    model, prompt, draws = made_model(8, 0, sharp=1.5, seed=3), b"ab", 2000
    rows = torch.tensor([[BOS, RAW_OPEN, *(BYTE_OFFSET + b for b in prompt), choice] for choice in CHOICES[:CLOSE]])
    with torch.no_grad():
        hidden = model(rows, torch.zeros_like(rows), torch.arange(5).expand(rows.shape))
        shares = (hidden @ model.lm_head.weight[:330].T)[..., list(CHOICES)].softmax(-1)
    first, second = shares[0, 3], shares[:, 4]
    expected = (first[:CLOSE] @ second).numpy() * draws  # a row that ends at once has no second byte
    found = Generator(model, cost=0.0, nodes=12).generate(
        [prompt] * draws, max_bytes=3, temperature=1.0, seed=11, batch=64
    )
    assert sum(result.bytes_per_pass > 1 for result in found) > draws / 20, "trees are seldom right"
    counts = np.bincount([result.data[1] for result in found if len(result.data) > 1], minlength=256)
    large = expected[:CLOSE] >= 5
    assert large.sum() > 20
    cells = [*zip(counts[large], expected[:CLOSE][large], strict=True)]
    cells.append((draws - counts[large].sum(), draws - expected[:CLOSE][large].sum()))
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    freedom = len(cells) - 1
    # 5 standard deviations of a chi-square
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 30])
def test_never_more_bytes_than_asked_for(taught: EvaByte, size: int) -> None:
    result = Generator(taught).generate([POEM], max_bytes=size)[0]
    assert result.data == (POEM * 2)[len(POEM) : len(POEM) + size]
    assert (result.ended, result.made) == ("length", size)


@pytest.mark.parametrize("nodes", [1, 16])
def test_half_precision_knows_the_poem_too(taught: EvaByte, nodes: int) -> None:
    half = copy.deepcopy(taught).bfloat16()
    prompts = [(POEM * 2)[:length] for length in (10, 40, 60)]
    found = Generator(half, nodes=nodes).generate(prompts, max_bytes=200, batch=2)
    assert [prompt + result.data for prompt, result in zip(prompts, found, strict=True)] == [POEM * 3] * 3


@pytest.mark.parametrize("nodes", [1, 16])
def test_stop_texts_end_a_stream_and_are_not_given_out(taught: EvaByte, nodes: int) -> None:
    for stop in (b"so", b"and so, t", b"\xe2\x98", b"not there"):
        stream = Generator(taught, nodes=nodes).stream(POEM, max_bytes=40, stop=[stop.decode("latin-1"), b"zz", stop])
        parts = list(stream)
        assert all(parts)
        whole = (POEM * 3)[len(POEM) :][:40]
        assert b"".join(parts) == whole.split(stop)[0]
        assert stream.result is not None
        assert stream.result.data == b"".join(parts)
        assert stream.result.ended == ("stop" if stop in whole else "length")


def test_a_stream_comes_in_parts_and_the_text_in_whole_characters(taught: EvaByte) -> None:
    generator = Generator(taught)
    stream = generator.stream(POEM, max_bytes=len(POEM))
    first = next(stream)
    assert 0 < len(first) < 10
    assert stream.result is None
    assert first + b"".join(stream) == POEM
    texts = list(generator.stream_text(POEM.decode(), max_bytes=len(POEM)))
    assert "".join(texts) == POEM.decode()
    # the prompt ends inside of a character
    cut = POEM.index(b"\xa9") + len(POEM)
    assert "".join(generator.stream_text((POEM * 2)[:cut], max_bytes=4))[0] == "\u00e9"


def test_only_bytes_and_ends_are_chosen(models: dict[str, EvaByte]) -> None:
    model = copy.deepcopy(models["2"])
    with torch.no_grad():
        # comp symbols, bos and openers are what it wants most
        bad = [i for i in range(330) if i not in CHOICES]
        model.lm_head.weight[bad] = 50 * model.lm_head.weight[bad].abs().max()
    result = Generator(model).generate([b"x"], max_bytes=9)[0]
    assert result.data == whole_passes(model, b"x", 9, Sampling())


@pytest.mark.parametrize("end", [RAW_CLOSE, EOS])
def test_both_ends_end(models: dict[str, EvaByte], end: int) -> None:
    model = copy.deepcopy(models["8"])
    with torch.no_grad():
        row = torch.tensor([[BOS, RAW_OPEN, BYTE_OFFSET]])
        hidden = model(row, torch.zeros_like(row), torch.arange(3)[None])[0, -1]
        model.lm_head.weight[end] = hidden * 100
    assert Generator(model).generate([b"\0"]) == [Generated(b"", "end", 0, 1)]


def test_a_model_without_sentinels_starts_at_bos(models: dict[str, EvaByte]) -> None:
    model = models["8"]
    with torch.no_grad():
        hidden = model(torch.tensor([[BOS]]), torch.zeros(1, 1).long(), torch.zeros(1, 1).long())[0, -1]
    best = int((model.lm_head.weight[: model.config.vocabulary_size] @ hidden)[list(CHOICES)].argmax())
    assert Generator(model, sentinels=False).generate([b""], max_bytes=1)[0].data == bytes([best])


def test_bad_options_are_refused(models: dict[str, EvaByte]) -> None:
    generator = Generator(models["8"])
    for options, says in (
        ({"max_bytes": 0}, "max-bytes is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"batch": 0}, "batch is 0"),
        ({"prompts": "a text"}, "prompts is 'a text'; expected a list of prompts"),
        ({"stop": "end"}, "stop is 'end'; expected a list of texts"),
    ):
        with pytest.raises(UserError, match=says):
            generator.generate(**{"prompts": [b"a"], **options})
    for nodes in (0, 65):
        with pytest.raises(UserError, match=f"nodes is {nodes}; expected 1 to 64"):
            Generator(models["8"], nodes=nodes)


@pytest.mark.parametrize(("mode", "start"), [("proxy", 2), ("bytes", 2), ("no-sentinels", 1)])
def test_runs_are_restored_as_they_were_trained(
    models: dict[str, EvaByte], monkeypatch: pytest.MonkeyPatch, mode: str, start: int
) -> None:
    monkeypatch.setattr(decoding, "restore", lambda run: SimpleNamespace(model=models["8"], config={"mode": mode}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    generator = Generator.from_run("somewhere", nodes=5)
    assert (len(generator.start), generator.nodes) == (start, 5)


def test_a_model_that_never_saw_bytes_is_refused(models: dict[str, EvaByte], monkeypatch: pytest.MonkeyPatch) -> None:
    restored = SimpleNamespace(model=models["8"], config={"mode": "comp-only"})
    monkeypatch.setattr(decoding, "restore", lambda run: restored)
    with pytest.raises(UserError, match="RUN=somewhere: trained with MODE=comp-only: it cannot write bytes"):
        Generator.from_run("somewhere")
