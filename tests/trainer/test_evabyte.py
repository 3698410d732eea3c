"""The trunk: sizes, names, initialisation, norms, positions, and the whole forward against plain formulas."""

import pytest
import torch
from torch import Tensor

from schemas.errors import UserError
from schemas.vocabulary import EOS
from trainer.model.evabyte import EvaByte, ModelConfig, Recompute, RMSNorm, Rotary, parameters
from trainer.scales import PUBLISHED_INIT, SCALES, Init, scale_named

SMALL = ModelConfig(
    dim=32, ffn=48, layers=2, heads=2, window=16, chunk=4, vocabulary_size=330, main_heads=2, raw_heads=1
)  # fmt: skip

# model_spec.md section 5: bytes V = 320, P = 8; neural V = 65,856, P = R = 1; BPE V = 96,960, P = R = 1; V = 576, P = 1
PUBLISHED = {
    "0.5b": (472_826_880, 605_078_528, 668_779_520, 471_057_408),
    "1.5b": (1_348_241_408, 1_612_744_704, 1_740_146_688, 1_344_702_464),
    "4b": (3_935_112_192, 4_331_867_136, 4_522_970_112, 3_929_803_776),
    "7b": (6_991_646_720, 7_520_653_312, 7_775_457_280, 6_984_568_832),
    "14b": (14_276_203_520, 14_937_461_760, 15_255_966_720, 14_267_356_160),
}
RUNS = [(320, 8, 0), (65_856, 1, 1), (96_960, 1, 1), (576, 1, 0)]


def lively(config: ModelConfig = SMALL, seed: int = 0) -> EvaByte:
    """A model whose norm gains, mu and phi matter: with gains 0 and small probes many mistakes are invisible."""
    model = EvaByte(config)
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(std=0.2, generator=generator)
            elif "adaptive" in name:
                parameter.normal_(generator=generator)
            elif "embed" not in name:
                parameter.mul_(6)
    return model


def on_meta(config: ModelConfig) -> EvaByte:
    with torch.device("meta"):
        return EvaByte(config)


@pytest.mark.parametrize("run", range(4), ids=["bytes", "neural", "bpe", "576"])
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_parameter_counts_are_those_of_the_specification(name: str, run: int) -> None:
    vocabulary, main, raw = RUNS[run]
    config = ModelConfig.of(scale_named(name), vocabulary_size=vocabulary, main_heads=main, raw_heads=raw)
    assert parameters(config) == PUBLISHED[name][run]
    assert sum(p.numel() for p in on_meta(config).parameters()) == PUBLISHED[name][run]


@pytest.mark.parametrize("name", list(SCALES))
def test_the_formula_counts_every_scale(name: str) -> None:
    config = ModelConfig.of(scale_named(name), vocabulary_size=4416, main_heads=1, raw_heads=7)
    assert parameters(config) == sum(p.numel() for p in on_meta(config).parameters())


def test_names_and_shapes_are_the_published_ones() -> None:
    layer = {
        "input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,),
        "self_attn.q_proj.weight": (32, 32), "self_attn.k_proj.weight": (32, 32),
        "self_attn.v_proj.weight": (32, 32), "self_attn.o_proj.weight": (32, 32),
        "self_attn.adaptive_mu_k": (1, 2, 1, 1, 16), "self_attn.adaptive_phi": (1, 2, 1, 1, 16),
        "mlp.gate_proj.weight": (48, 32), "mlp.up_proj.weight": (48, 32), "mlp.down_proj.weight": (32, 48),
    }  # fmt: skip
    expected = {f"layers.{n}.{name}": shape for n in range(2) for name, shape in layer.items()}
    expected |= {"embed_tokens.weight": (330, 32), "norm.weight": (32,)}
    expected |= {"lm_head.weight": (660, 32), "raw_multibyte_lm_head.weight": (320, 32)}
    assert {name: tuple(t.shape) for name, t in on_meta(SMALL).state_dict().items()} == expected


def test_without_raw_heads_there_is_no_raw_head() -> None:
    config = ModelConfig.of(scale_named("tiny"), vocabulary_size=320, main_heads=8, raw_heads=0)
    assert not [name for name in on_meta(config).state_dict() if "raw" in name]


@pytest.mark.parametrize("init", [PUBLISHED_INIT, Init(inner=0.06, embedding=0.2)], ids=["published", "other"])
def test_initial_values_have_the_published_spread_or_that_of_their_scale(init: Init) -> None:
    config = ModelConfig.of(scale_named("tiny"), vocabulary_size=2000, main_heads=1, raw_heads=1)
    model = on_meta(config).to_empty(device="cpu")
    model.init_weights(torch.Generator().manual_seed(1), init)
    # a normal cut at 3 (2) standard deviations has 0.9866 (0.8796) of its standard deviation left
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == 0).all(), name
            continue
        std, cut, left = 0.02, 3, 0.9866
        if name == "embed_tokens.weight":
            std = init.embedding
        if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
            std = init.inner
        if "adaptive" in name:
            std, cut, left = 64**-0.5, 2, 0.8796
        assert parameter.abs().max() <= cut * std, name
        samples = parameter.numel()
        assert parameter.mean().abs() < 5 * std / samples**0.5, name
        assert abs(parameter.std().item() / (std * left) - 1) < 4 / samples**0.5, name


def test_equal_seeds_give_equal_models_and_others_do_not() -> None:
    first, again, other = (EvaByte(SMALL) for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        model.init_weights(torch.Generator().manual_seed(seed))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputed_activations_give_the_same_gradients(recompute: Recompute) -> None:
    model = EvaByte(SMALL)
    model.init_weights(torch.Generator().manual_seed(0))
    ids = torch.randint(64, SMALL.vocabulary_size, (2, 3 * SMALL.window), generator=torch.Generator().manual_seed(1))
    doc, position = torch.zeros_like(ids), torch.arange(ids.shape[1]).expand(ids.shape)
    gradients = []
    for how in ("none", recompute):
        for layer in model.layers:
            layer.recompute = how
        model.zero_grad()
        model(ids, doc, position).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for kept, anew in zip(*gradients, strict=True):
        assert torch.allclose(kept, anew, rtol=1e-5, atol=1e-6)


def test_norm_is_computed_in_fp32_with_a_unit_offset() -> None:
    norm = RMSNorm(32, 1e-6)
    torch.nn.init.normal_(norm.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)) * 10
    plain = (1 + norm.weight) * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6)
    assert torch.allclose(norm(x), plain, atol=1e-6)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert (norm(x.bfloat16()).float() - plain).abs().max() < 0.05


def test_rotation_is_half_split_and_keeps_only_relative_positions() -> None:
    config = ModelConfig.of(scale_named("tiny"), vocabulary_size=320, main_heads=1, raw_heads=0)
    x = torch.randn(1, 1, 2, 64, generator=torch.Generator().manual_seed(0))

    def turned(position: int) -> Tensor:
        return Rotary.of(torch.tensor([[position]]), config, torch.float32).turn(x)

    assert torch.equal(turned(0), x)
    # pair 3 of a head: dimensions 3 and 35, angle 5 * theta^(-6/64)
    angle = torch.tensor(5 * 1e5 ** (-6 / 64))
    a, b = x[0, 0, 0, 3], x[0, 0, 0, 35]
    assert torch.allclose(turned(5)[0, 0, 0, 3], a * angle.cos() - b * angle.sin(), atol=1e-5)
    assert torch.allclose(turned(5)[0, 0, 0, 35], b * angle.cos() + a * angle.sin(), atol=1e-5)
    assert torch.allclose((turned(9) * turned(4)).sum(-1), (turned(105) * turned(100)).sum(-1), atol=1e-3)


def plain_forward(model: EvaByte, ids: Tensor, doc: Tensor, position: Tensor) -> Tensor:
    """The trunk of one sequence, ids [T] -> [T, D], straight from the specification with a dense mask."""
    weights = dict(model.named_parameters())
    c, w, h = model.config.chunk, model.config.window, model.config.heads
    d = model.config.head_dim
    t, eos = torch.arange(len(ids)), ids == EOS
    last = torch.arange(c - 1, len(ids), c)

    def norm(x: Tensor, name: str) -> Tensor:
        return (1 + weights[name]) * x / torch.sqrt((x**2).mean(-1, keepdim=True) + model.config.eps)

    def rotated(x: Tensor) -> Tensor:
        angle = position[:, None] * 1e5 ** (-torch.arange(0, d, 2) / d)
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        return x * cos + torch.cat([-x[:, d // 2 :], x[:, : d // 2]], 1) * sin

    tokens = (t[:, None] // w == t // w) & (t[:, None] >= t) & (doc[:, None] == doc) & ~eos
    chunks = (last // w < t[:, None] // w) & (doc[:, None] == doc[last]) & ~eos[last]
    seen = torch.cat([tokens, chunks], 1) & ~eos[:, None]
    member = (t // c == (last // c)[:, None]) & (doc == doc[last][:, None]) & (~eos | eos[last][:, None])
    x = weights["embed_tokens.weight"][ids]
    for n in range(model.config.layers):
        p = f"layers.{n}."
        y, mixed = norm(x, p + "input_layernorm.weight"), []
        for i in range(h):
            rows = slice(i * d, i * d + d)
            q, k, v = (y @ weights[f"{p}self_attn.{name}_proj.weight"][rows].T for name in "qkv")
            q, k = rotated(q), rotated(k)
            mu, phi = (weights[f"{p}self_attn.adaptive_{name}"][0, i, 0, 0] for name in ("mu_k", "phi"))
            a = torch.where(member, k @ mu, -torch.inf).softmax(1)
            b = torch.where(member, (k @ phi - (k**2).sum(1) / 2) / d**0.5, -torch.inf).softmax(1)
            scores = torch.where(seen, q @ torch.cat([k, a @ k]).T / d**0.5, -torch.inf)
            mixed.append(scores.softmax(1).nan_to_num(0) @ torch.cat([v, b @ v]))
        x = x + torch.cat(mixed, 1) @ weights[p + "self_attn.o_proj.weight"].T
        y = norm(x, p + "post_attention_layernorm.weight")
        gate, up = (y @ weights[f"{p}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (gate * gate.sigmoid() * up) @ weights[p + "mlp.down_proj.weight"].T
    return norm(x, "norm.weight")


@pytest.mark.parametrize("length", [3, 15, 16, 17, 31, 32, 33, 52, 64])
def test_the_whole_trunk_equals_the_plain_formulas(length: int) -> None:
    model = lively()
    generator = torch.Generator().manual_seed(length)
    new = torch.rand(2, length, generator=generator) < 0.06
    ids = torch.randint(64, 330, (2, length), generator=generator)
    ids[:, :-1][new[:, 1:]] = EOS
    doc = new.int().cumsum(1)
    start = torch.where(new, torch.arange(length), 0).cummax(1).values
    position = torch.arange(length) - start
    hidden = model(ids, doc, position)
    for b in range(2):
        plain = plain_forward(model, ids[b], doc[b], position[b])
        assert plain.abs().max() > 1
        assert (hidden[b] - plain).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 30}, "dim 30 is not a multiple of 2 x 2 heads"),
        ({"window": 18}, "window 18 is not a multiple of chunk 4"),
        ({"vocabulary_size": 256}, "vocabulary_size is 256; expected 320 or more"),
        ({"main_heads": 0}, "main_heads is 0"),
        ({"raw_heads": -1}, "raw_heads is -1"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, int], message: str) -> None:
    fields = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    with pytest.raises(UserError, match=message):
        ModelConfig(**{**fields, **change})
