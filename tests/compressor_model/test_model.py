"""What byte LMs share, and the integer one: exact, whatever the batch; the compiled softmax against its plain twin."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor_model import kernels, model
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.small import HASH_MULTIPLIER, MAX_WIDTH, ORDERS, SmallByteLM, quantised
from compressor_model.text import Text

TABLE_DIGEST = "1a0b38fd6a84757e"


@pytest.fixture(scope="module")
def lm() -> SmallByteLM:
    small = open_compressor(PRETRAINED).lm()
    assert isinstance(small, SmallByteLM)
    return small


def plain_frequencies(lm: SmallByteLM, context: bytes) -> np.ndarray:
    """The definition, in Python integers, for one context (oldest byte first)."""
    hidden = lm.hidden_bias.astype(object)
    h = 0
    for k, byte in enumerate(reversed(context[-ORDERS:])):
        h = (257 * h + byte + 1) % 2**64
        rows = lm.embeddings.shape[1]
        slot = (h * HASH_MULTIPLIER % 2**64) >> (64 - rows.bit_length() + 1)
        hidden = hidden + lm.embeddings[k][slot].astype(object)
    active = [max(unit, 0) for unit in hidden]
    logits = [
        int(sum(a * w for a, w in zip(active, row, strict=True)) + bias)
        for row, bias in zip(lm.output.astype(object), lm.output_bias.tolist(), strict=True)
    ]
    table = model.exponentials()
    steps = [((max(logits) - x) * lm.logit_scale * model.STEPS_PER_NAT + 2**31) >> 32 for x in logits]
    return plain_quantised([int(table[min(step, len(table) - 1)]) for step in steps])


def plain_quantised(weights: list[int]) -> np.ndarray:
    q = [w * 65280 // sum(weights) + 1 for w in weights]
    q[max(range(256), key=lambda b: (q[b], -b))] += 65536 - sum(q)
    return np.array(q)


@pytest.mark.parametrize("context", [b"", b"d", b"de", b"    ret", b"\x00\xff\x00", b"import nump", b"\n\n\n\n\n\n"])
def test_frequencies_are_the_plain_integer_formula(lm: SmallByteLM, context: bytes) -> None:
    expected = plain_frequencies(lm, context)
    assert np.array_equal(lm.frequencies(Text.of([b"other", context + b"?"]))[-1], expected)
    assert np.array_equal(lm.next_frequencies([b"another", context])[1], expected)


@settings(max_examples=25, deadline=None)
@given(documents=st.lists(st.binary(max_size=1500), min_size=1, max_size=6))
def test_small_model_does_not_depend_on_the_batch(lm: SmallByteLM, documents: list[bytes]) -> None:
    together = Text.of(documents)
    whole = lm.frequencies(together)
    assert np.array_equal(whole, np.concatenate([lm.frequencies(Text.of([document])) for document in documents]))
    assert np.array_equal(
        lm.entropies(together), np.concatenate([lm.entropies(Text.of([document])) for document in documents])
    )
    assert np.array_equal(lm.entropies(together), model.entropies_of(whole))
    assert (whole.sum(axis=1) == model.FREQUENCY_TOTAL).all()
    assert whole.min(initial=1) >= 1


@given(st.lists(st.integers(-(2**24) + 1, 2**24 - 1), min_size=256, max_size=256), st.integers(0, 2**30))
@settings(max_examples=50, deadline=None)
def test_compiled_softmax_equals_its_plain_twin(logits: list[int], scale: int) -> None:
    table = model.exponentials()
    out = np.empty((1, 256), np.uint32)
    kernels.softmax_frequencies(np.array([logits], np.int32), scale, table, out)
    steps = [((max(logits) - x) * scale + 2**31) >> 32 for x in logits]
    assert np.array_equal(out[0], plain_quantised([int(table[min(step, len(table) - 1)]) for step in steps]))


def test_softmax_takes_logits_in_nats() -> None:
    logits = np.round(np.random.default_rng(0).normal(0, 3, (20, 256)) * 4096).astype(np.int32)
    frequencies = model.softmax_frequencies(logits, 1 << 20)
    exact = np.exp(logits / 4096)
    exact /= exact.sum(axis=1, keepdims=True)
    largest = np.arange(256) == exact.argmax(axis=1)[:, None]  # it also gets what is left
    assert np.allclose(frequencies[~largest], (1 + 65280 * exact)[~largest], rtol=0.005, atol=1)


def test_exponential_table_is_the_rounded_down_exponential() -> None:
    table = model.exponentials()
    ideal = 2.0**28 * np.exp(-np.arange(len(table)) / model.STEPS_PER_NAT)
    assert (np.abs(table - ideal) <= 1 + 1e-9 * ideal).all()
    assert table[-1] == 0
    assert hashlib.sha256(table.tobytes()).hexdigest()[:16] == TABLE_DIGEST


def test_absent_context_is_not_a_zero_byte(lm: SmallByteLM) -> None:
    fresh, after_zero = lm.next_frequencies([b"", b"\0"])
    assert not np.array_equal(fresh, after_zero)


@given(st.lists(st.integers(1, 2**20), min_size=256, max_size=256))
@settings(max_examples=50, deadline=None)
def test_entropy_is_its_definition_to_half_a_step(weights: list[int]) -> None:
    frequencies = plain_quantised(weights)
    p = frequencies / 65536
    exact = -256 * (p * np.log2(p)).sum()
    assert abs(int(model.entropies_of(frequencies[None].astype(np.uint32))[0]) - exact) <= 0.5 + 256 * 2**-17


def test_bits_per_byte_is_the_code_length_in_pieces_with_fresh_contexts(lm: SmallByteLM) -> None:
    data = bytes(range(97, 123)) * 3000
    text = Text.of([data[:100], data[100:]])
    pieces = [data[:100], data[100:65536], data[65536:70000]]
    bits = 0.0
    for piece in pieces:
        frequencies = lm.frequencies(Text.of([piece]))
        bits += (16 - np.log2(frequencies[np.arange(len(piece)), list(piece)])).sum()
    assert model.bits_per_byte(lm, text, limit=70000) == pytest.approx(bits / 70000)


def test_logits_that_float32_could_round_are_refused(lm: SmallByteLM) -> None:
    with pytest.raises(ValueError, match="would not be exact"):
        SmallByteLM(**{**vars(lm), "hidden_bias": np.full_like(lm.hidden_bias, 30_000)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embeddings", np.zeros((ORDERS, 300, 64), np.int8)),
        ("embeddings", np.zeros(5, np.int8)),
        ("hidden_bias", np.zeros(63, np.int16)),
        ("output", np.zeros((256, 64), np.float32)),
        ("output_bias", np.zeros(255, np.int32)),
        ("logit_scale", 0),
    ],
)
def test_arrays_of_another_form_are_refused_by_name(lm: SmallByteLM, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        SmallByteLM(**{**vars(lm), name: value})


def test_the_widest_model_is_exact_whatever_was_learnt() -> None:
    embeddings = np.ones((ORDERS, 256, MAX_WIDTH), np.float32)
    output = np.ones((256, MAX_WIDTH), np.float32)
    hidden_bias, output_bias = np.full(MAX_WIDTH, 1e6, np.float32), np.full(256, 1e6, np.float32)
    assert int(quantised(embeddings, hidden_bias, output, output_bias).output_bias.max()) >= 1 << 20


def test_text_knows_its_documents() -> None:
    text = Text.of([b"", b"abc", b"", b"de", b""])
    assert text.offsets.tolist() == [0, 3, 5]
    assert Text.of([]).offsets.tolist() == [0]
    pieces = list(text.pieces(2))
    assert [piece.data.tobytes() for piece in pieces] == [b"ab", b"cd", b"e"]
    assert [piece.start.tolist() for piece in pieces] == [[0, 0], [0, 1], [0]]
