"""The integer byte LM: exact, whatever the batch; the compiled softmax against its plain twin."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor_model import kernels, model
from compressor_model.artefact import PRETRAINED, open_compressor
from compressor_model.text import Text

TABLE_DIGEST = "1a0b38fd6a84757e"


@pytest.fixture(scope="module")
def lm() -> model.SmallByteLM:
    return open_compressor(PRETRAINED).lm()


def contexts_of(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    return Text.of([text]).contexts(np.arange(len(text), dtype=np.int64))


def plain_frequencies(lm: model.SmallByteLM, context: bytes) -> np.ndarray:
    """The definition, in Python integers, for one context (oldest byte first)."""
    hidden = lm.hidden_bias.astype(object)
    h = 0
    for k, byte in enumerate(reversed(context[-model.ORDERS :])):
        h = (257 * h + byte + 1) % 2**64
        rows = lm.embeddings.shape[1]
        slot = (h * model.HASH_MULTIPLIER % 2**64) >> (64 - rows.bit_length() + 1)
        hidden = hidden + lm.embeddings[k][slot].astype(object)
    active = [max(unit, 0) for unit in hidden]
    logits = [
        int(sum(a * w for a, w in zip(active, row, strict=True)) + bias)
        for row, bias in zip(lm.output.astype(object), lm.output_bias.tolist(), strict=True)
    ]
    table = model.exponentials()
    steps = [((max(logits) - x) * lm.logit_scale * model.STEPS_PER_NAT + 2**31) >> 32 for x in logits]
    weights = [int(table[min(step, len(table) - 1)]) for step in steps]
    q = [w * 65280 // sum(weights) + 1 for w in weights]
    q[max(range(256), key=lambda b: (q[b], -b))] += 65536 - sum(q)
    return np.array(q)


@pytest.mark.parametrize("context", [b"", b"d", b"de", b"    ret", b"\x00\xff\x00", b"import nump", b"\n\n\n\n\n\n"])
def test_frequencies_are_the_plain_integer_formula(lm: model.SmallByteLM, context: bytes) -> None:
    contexts, lengths = contexts_of(context + b"?")
    assert np.array_equal(lm.frequencies(contexts, lengths)[-1], plain_frequencies(lm, context))


@settings(max_examples=25, deadline=None)
@given(text=st.binary(min_size=1, max_size=3000), cut=st.integers(1, 3000))
def test_frequencies_do_not_depend_on_the_batch(lm: model.SmallByteLM, text: bytes, cut: int) -> None:
    contexts, lengths = contexts_of(text)
    whole = lm.frequencies(contexts, lengths)
    parts = [lm.frequencies(contexts[part], lengths[part]) for part in (slice(0, cut), slice(cut, None))]
    assert np.array_equal(whole, np.concatenate(parts))
    assert (whole.sum(axis=1) == model.FREQUENCY_TOTAL).all()
    assert whole.min() >= 1


@given(st.lists(st.integers(-(2**24) + 1, 2**24 - 1), min_size=256, max_size=256), st.integers(0, 2**30))
@settings(max_examples=50, deadline=None)
def test_compiled_softmax_equals_its_plain_twin(logits: list[int], scale: int) -> None:
    table = model.exponentials()
    out = np.empty((1, 256), np.uint32)
    kernels.softmax_frequencies(np.array([logits], np.int32), scale, table, out)
    steps = [((max(logits) - x) * scale + 2**31) >> 32 for x in logits]
    weights = np.array([[table[min(step, len(table) - 1)] for step in steps]])
    assert np.array_equal(out, model.quantised_frequencies(weights))
    total = int(weights.sum())
    exact = np.array([int(w) * 65280 // total + 1 for w in weights[0]])
    assert ((out[0] - exact) >= 0).all()
    assert (out[0] != exact).sum() <= 1  # only the largest got the rest


def test_exponential_table_is_the_rounded_down_exponential() -> None:
    table = model.exponentials()
    ideal = 2.0**28 * np.exp(-np.arange(len(table)) / model.STEPS_PER_NAT)
    assert (np.abs(table - ideal) <= 1 + 1e-9 * ideal).all()
    assert table[-1] == 0
    assert hashlib.sha256(table.tobytes()).hexdigest()[:16] == TABLE_DIGEST


def test_absent_context_is_not_a_zero_byte(lm: model.SmallByteLM) -> None:
    fresh = lm.frequencies(*contexts_of(b"x"))[-1]
    after_zero = lm.frequencies(*contexts_of(b"\0x"))[-1]
    assert not np.array_equal(fresh, after_zero)


def test_entropy_matches_its_definition(lm: model.SmallByteLM) -> None:
    frequencies = lm.frequencies(*contexts_of(b"def f(self):\n    return None\n"))
    p = frequencies / 65536
    assert np.allclose(model.entropy_bits(frequencies), -(p * np.log2(p)).sum(axis=1), atol=1e-5)


def test_logits_that_float32_could_round_are_refused(lm: model.SmallByteLM) -> None:
    with pytest.raises(ValueError, match="would not be exact"):
        model.SmallByteLM(
            embeddings=lm.embeddings,
            hidden_bias=np.full_like(lm.hidden_bias, 30_000),
            output=lm.output,
            output_bias=lm.output_bias,
            logit_scale=lm.logit_scale,
        )
