"""The Transformer byte LM: what a byte gets depends on its document alone, bit by bit."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor_model.model import F32, FREQUENCY_TOTAL
from compressor_model.network import ByteTransformer
from compressor_model.sizes import BEGIN, Sizes
from compressor_model.text import Text
from compressor_model.transformer import Rows, TransformerByteLM
from schemas.errors import UserError

SIZES = Sizes(layers=2, width=64, heads=2, hidden=176, row=256, context=32)


def network(sizes: Sizes = SIZES) -> ByteTransformer:
    """An untrained network whose predictions are far from uniform."""
    net = ByteTransformer(sizes, seed=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return net.eval()


def weights(sizes: Sizes = SIZES) -> dict[str, F32]:
    return {name: value.numpy() for name, value in network(sizes).state_dict().items()}


@pytest.fixture(scope="module")
def lm() -> TransformerByteLM:
    return TransformerByteLM(SIZES, weights())


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def documents() -> list[bytes]:
    rng = np.random.default_rng(0)
    lengths = [0, 1, 2, 5, 16, 17, 256, 257, 481, *rng.integers(1, 40, 4).tolist()]
    return [rng.integers(0, 256, length, np.uint8).tobytes() for length in lengths]


def logits_of(lm: TransformerByteLM, texts: list[bytes]) -> F32:
    """The float logits themselves, which are finer than what the public functions round them to."""
    text = Text.of(texts)
    result = np.full((len(text.data), 256), np.nan, np.float32)
    for positions, logits in lm._predictions(text, Rows.of(text, lm.sizes)):
        assert np.isnan(result[positions]).all()  # each byte is predicted once
        result[positions] = logits.numpy()
    return result


def test_the_full_size_has_40_million_parameters() -> None:
    with torch.device("meta"):
        net = ByteTransformer(Sizes())
    assert sum(parameter.numel() for parameter in net.parameters()) == 39_990_272


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (7, 2), (1000, 1)])
def test_logits_are_the_same_bits_in_any_batch_and_any_threads(
    lm: TransformerByteLM, threads: None, batch: int, count: int
) -> None:
    torch.set_num_threads(2)
    texts = documents()
    expected = logits_of(lm, texts)
    assert not np.isnan(expected).any()
    torch.set_num_threads(count)
    parts = [logits_of(lm, texts[at : at + batch]) for at in range(0, len(texts), batch)]
    assert np.array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize(
    ("sizes", "length"),
    [
        *((SIZES, length) for length in (4, 16, 64, 256)),
        *(pytest.param(Sizes(layers=1), length, marks=pytest.mark.slow) for length in (4, 64, 512, 1024)),
    ],
)
def test_a_row_gives_the_same_bits_in_every_place_beside_any_neighbours(
    threads: None, sizes: Sizes, length: int
) -> None:
    lm = TransformerByteLM(sizes, weights(sizes))
    rng = np.random.default_rng(length)
    one = rng.integers(0, 256, length, np.uint8).tobytes()
    alone = logits_of(lm, [one])
    places = 2048 // length
    for place in sorted({0, 1, places // 2, places - 1}):
        others = [rng.integers(0, 256, length, np.uint8).tobytes() for _ in range(places)]
        torch.set_num_threads(1 + place % 2)
        together = logits_of(lm, [*others[:place], one, *others[place + 1 :]])
        assert np.array_equal(together[place * length : (place + 1) * length], alone)


def test_rows_are_those_of_the_plain_definition() -> None:
    for length in (1, 255, 256, 257, 480, 481, 2000):
        text = Text.of([b"other", bytes(length)])
        rows = Rows.of(text, SIZES)
        plain, at = [(0, 5, 0, True)], 0
        while at < length:
            skip = SIZES.context if at else 0
            new = min(length - at, SIZES.row - skip)
            plain.append((5 + at - skip, skip + new, skip, at == 0))
            at += new
        found = zip(rows.first.tolist(), rows.length.tolist(), rows.skip.tolist(), rows.fresh.tolist(), strict=True)
        assert list(found) == plain


def test_a_first_row_is_begin_and_the_bytes_and_a_later_one_has_old_bytes_before_it(lm: TransformerByteLM) -> None:
    data = np.random.default_rng(3).integers(0, 256, 400, np.uint8)
    logits = logits_of(lm, [data.tobytes()])
    symbols = torch.tensor([[BEGIN, *data[:255].tolist()]])
    later = torch.tensor([data[256 - 33 : 399].tolist()])  # 32 + 1 bytes before the first that is new
    with torch.no_grad():
        first, second = network()(symbols)[0].numpy(), network()(later)[0].numpy()
    assert np.allclose(logits[:256], first, atol=1e-4)
    assert np.allclose(logits[256:], second[32:], atol=1e-4)


def plain_logits(net: ByteTransformer, symbols: list[int]) -> Tensor:
    """The network for one row, by the formulas and without any fused function."""

    def norm(module: nn.RMSNorm, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * module.weight

    x = net.embedding.weight[symbols]
    size, half = SIZES.width // SIZES.heads, SIZES.width // SIZES.heads // 2
    for layer in net.layers:
        query, key, value = (layer.query_key_value.weight @ norm(layer.attention_norm, x).T).T.chunk(3, dim=1)
        mixed = torch.zeros_like(x)
        for head in range(SIZES.heads):
            columns = slice(head * size, (head + 1) * size)
            turned = []
            for vectors in (query[:, columns], key[:, columns]):
                out = torch.empty_like(vectors)
                for t in range(len(symbols)):
                    for i in range(half):
                        angle = t * 10_000.0 ** (-i / half)
                        a, b = vectors[t, i], vectors[t, i + half]
                        out[t, i] = a * math.cos(angle) - b * math.sin(angle)
                        out[t, i + half] = b * math.cos(angle) + a * math.sin(angle)
                turned.append(out)
            scores = turned[0] @ turned[1].T / math.sqrt(size)
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            mixed[:, columns] = scores.softmax(-1) @ value[:, columns]
        x = x + mixed @ layer.attention_out.weight.T
        gate, up = (norm(layer.hidden_norm, x) @ layer.gate_up.weight.T).chunk(2, dim=1)
        x = x + (gate * gate.sigmoid() * up) @ layer.down.weight.T
    return norm(net.norm, x) @ net.output.weight.T


def test_network_is_its_formulas() -> None:
    net = network()
    symbols = [BEGIN, *b"def f(x):"]
    with torch.no_grad():
        assert torch.allclose(net(torch.tensor([symbols]))[0], plain_logits(net, symbols), atol=1e-3)


def test_frequencies_and_entropies_are_of_the_logits(lm: TransformerByteLM) -> None:
    texts = documents()
    p = torch.from_numpy(logits_of(lm, texts)).double().softmax(-1).numpy()
    frequencies, entropies = lm.frequencies(Text.of(texts)), lm.entropies(Text.of(texts))
    assert (frequencies.sum(axis=1) == FREQUENCY_TOTAL).all()
    assert frequencies.min() >= 1
    largest = np.arange(256) == frequencies.argmax(axis=1)[:, None]  # it also gets what is left of the total
    assert np.allclose(frequencies[~largest], (1 + 65280 * p)[~largest], rtol=0.005, atol=1.5)
    assert np.abs(entropies + 256 * (p * np.log2(p)).sum(axis=1)).max() <= 0.51
    assert 50 < entropies.min() + 50 < entropies.max() + 50 <= 8 * 256 + 51


@settings(max_examples=15, deadline=None)
@given(st.lists(st.binary(max_size=600), min_size=1, max_size=8))
def test_the_next_byte_is_what_comes_before_a_byte(lm: TransformerByteLM, strings: list[bytes]) -> None:
    found = lm.next_frequencies(strings)
    text = Text.of([string + b"?" for string in strings])
    assert np.array_equal(found, lm.frequencies(text)[text.offsets[1:] - 1])


def test_nothing_is_asked_and_nothing_comes(lm: TransformerByteLM) -> None:
    assert lm.frequencies(Text.of([])).shape == (0, 256)
    assert lm.entropies(Text.of([b""])).shape == (0,)
    assert lm.next_frequencies([]).shape == (0, 256)


def test_weights_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights of another network: layers\.1"):
        TransformerByteLM(Sizes(layers=1, width=64, heads=2, hidden=176, row=256, context=32), weights())
    with pytest.raises(ValueError, match="not float32"):
        TransformerByteLM(SIZES, {name: value.astype(np.float64) for name, value in weights().items()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", 0),
        ("heads", 3),
        ("width", 66),
        ("hidden", 0),
        ("row", 100),
        ("row", 32),
        ("context", 2000),
        ("context", 0),
    ],
)
def test_bad_sizes_name_themselves(name: str, value: int) -> None:
    with pytest.raises(UserError, match="--width" if name == "heads" else f"--{name}"):
        Sizes(**{name: value})
