"""The forms of the neural proxy: which parameters go together, what each promises, and that a wrong view is found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compressor_model.artefact import PRETRAINED, open_compressor
from pipelines import proxies
from pipelines.prove import ProofError, prove
from pipelines.proxies import neural, target_ratio
from pipelines.proxies.base import EncodedBatch
from pipelines.proxies.neural import Parameters
from pipelines.proxies.options import ProxyOptions
from schemas.errors import UserError

CODE = [Path(name).read_bytes() for name in ("pipelines/shard.py", "pipelines/reading/plan.py", "trainer/trainer.py")]
FORMS = {
    "codebook": Parameters(),
    "packed": Parameters(windows="packed"),
    "equal-info": Parameters(windows="equal-info"),
    "tail": Parameters(fuzz="tail"),
    "packed-tail": Parameters(windows="packed", fuzz="tail"),
    "lm": Parameters(segmentation="lm"),
    "range": Parameters(coder="range"),
    "range-lm": Parameters(coder="range", segmentation="lm"),
}


def build(parameters: Parameters) -> neural.NeuralProxy:
    return neural.build(open_compressor(PRETRAINED), parameters)


@pytest.fixture(scope="module")
def built() -> dict[str, neural.NeuralProxy]:
    return {name: build(parameters) for name, parameters in FORMS.items()}


def ratio(proxy: neural.NeuralProxy) -> float:
    return sum(map(len, CODE)) / len(proxy.encode_batch(CODE).ids)


def test_each_form_is_another_proxy(built: dict[str, neural.NeuralProxy]) -> None:
    assert len({proxy.fingerprint for proxy in built.values()}) == len(FORMS)
    views = {name: proxy.encode_batch(CODE).ids.tobytes() for name, proxy in built.items()}
    assert len(set(views.values())) == len(FORMS)


def test_windows_of_several_segments_cover_more(built: dict[str, neural.NeuralProxy]) -> None:
    assert ratio(built["codebook"]) < ratio(built["packed"]) < ratio(built["equal-info"])
    assert ratio(built["codebook"]) < ratio(built["tail"])
    assert ratio(built["packed"]) < ratio(built["packed-tail"])


def test_only_fuzz_and_range_lose_bytes(built: dict[str, neural.NeuralProxy]) -> None:
    for name, proxy in built.items():
        batch = proxy.encode_batch(CODE)
        assert proxy.lossless == (name in ("codebook", "packed", "equal-info", "lm"))
        assert (batch.dropped_bytes > 0) == name.endswith("tail")
        assert proxy.provable == (not name.startswith("range"))
        assert not proxy.mismatches(CODE, batch).any()
        if name.endswith("tail"):
            assert len(proxy.decode(batch.ids)) == sum(map(len, CODE)) - batch.dropped_bytes


def test_documents_of_a_batch_do_not_touch(built: dict[str, neural.NeuralProxy]) -> None:
    rng = np.random.default_rng(0)
    pieces = [CODE[0][at : at + int(rng.integers(0, 200))] for at in range(0, 20_000, 37)]
    for proxy in built.values():
        whole = proxy.encode_batch(pieces)
        for size in (1, 7, 256):
            parts = [proxy.encode_batch(pieces[at : at + size]) for at in range(0, len(pieces), size)]
            assert np.array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
            assert np.array_equal(np.concatenate([part.spans for part in parts]), whole.spans)
            assert np.array_equal(np.concatenate([part.counts for part in parts]), whole.counts)


@pytest.mark.parametrize("name", ["codebook", "tail", "packed-tail"])
def test_a_wrong_view_is_found(built: dict[str, neural.NeuralProxy], name: str) -> None:
    proxy = built[name]
    batch = proxy.encode_batch(CODE)
    assert batch.spans is not None
    second = int(batch.counts[0]) + 5
    other_id = batch.ids.copy()
    other_id[second] = other_id[second] + 1 if other_id[second] < proxy.vocabulary.size - 1 else other_id[second] - 1
    longer = batch.spans.copy()  # two windows each say that one byte of the second is the first's: over the bound
    at = second + int(np.flatnonzero((batch.spans[second:-1] == 1) & (batch.spans[second + 1 :] > 1))[0])
    longer[at] += 1
    longer[at + 1] -= 1
    for changed in (replace(batch, ids=other_id), replace(batch, spans=longer)):
        if name == "codebook" and changed.ids is batch.ids:
            continue  # a lossless view decodes without its spans
        assert proxy.mismatches(CODE, changed).tolist() == [False, True, False]
        with pytest.raises(ProofError, match="document 1 of the batch"):
            prove(proxy, CODE, changed)


def test_ids_that_are_no_codewords_are_an_error(built: dict[str, neural.NeuralProxy]) -> None:
    batch = EncodedBatch(np.array([70], np.uint32), np.array([1], np.uint16), np.array([1], np.int64))
    for name in ("codebook", "tail"):
        with pytest.raises(ValueError, match="no codeword"):
            built[name].mismatches([b"a"], batch)


def test_a_uri_without_parameters_is_the_default() -> None:
    default = proxies.load(f"neural:{PRETRAINED}")
    assert isinstance(default, neural.CodebookProxy)
    assert default.fingerprint == build(Parameters()).fingerprint
    explicit = Parameters(threshold=default.segmenter.threshold)
    assert build(explicit).fingerprint == default.fingerprint


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("coder=huffman", "CODER=huffman: unknown; give codebook or range"),
        ("bits=11", "BITS=11"),
        ("bits=many", "bits=many: give a number"),
        ("segmentation=bpe", "SEGMENTATION=bpe"),
        ("windows=all", "WINDOWS=all"),
        ("fuzz=head", "FUZZ=head"),
        ("coder=range&windows=packed", "leave them out with CODER=range"),
        ("coder=range&fuzz=tail", "leave them out with CODER=range"),
        ("windows=equal-info&fuzz=tail", "WINDOWS=equal-info has none"),
    ],
)
def test_parameters_that_do_not_exist_or_go_together_are_refused(query: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        proxies.load(f"neural:{PRETRAINED}?{query}")
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["codebook", "tail", "lm", "range"])
def test_target_ratio_is_reached_by_the_least_threshold(built: dict[str, neural.NeuralProxy], name: str) -> None:
    found = target_ratio.search(built[name], CODE, 2.2)
    assert found.ratio >= 2.2
    there = build(replace(FORMS[name], threshold=found.threshold))
    assert ratio(there) == pytest.approx(found.ratio)
    assert ratio(build(replace(FORMS[name], threshold=found.threshold - 1))) < 2.2


def test_target_ratio_of_one_is_every_byte_and_too_much_is_refused(built: dict[str, neural.NeuralProxy]) -> None:
    assert target_ratio.search(built["codebook"], CODE, 1).ratio >= 1
    with pytest.raises(UserError, match=r"at most \d\.\d\d bytes a symbol are reached .* ask for less"):
        target_ratio.search(built["codebook"], CODE, 40)
    with pytest.raises(UserError, match="no text to try it on"):
        target_ratio.search(built["codebook"], [b""], 2)


def test_never_and_always_cutting_work(built: dict[str, neural.NeuralProxy]) -> None:
    always, never = build(Parameters(threshold=-1)), build(Parameters(threshold=1 << 20))
    assert len(always.encode_batch(CODE).ids) == sum(map(len, CODE))
    assert ratio(never) == ratio(built["equal-info"])
    for proxy in (always, never):
        prove(proxy, CODE, proxy.encode_batch(CODE))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tau": float("nan")}, "--tau nan"),
        ({"target_ratio": 0.5}, "--target-ratio 0.5"),
        ({"tau": 2.0, "target_ratio": 3.0}, "both say where segments start"),
        ({"target_ratio": 3.0, "windows": "packed"}, "hardly follow tau; use WINDOWS=segment"),
        ({"windows": "packed", "coder": "range"}, "leave them out with CODER=range"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as refused:
        ProxyOptions(**options)
    assert said in str(refused.value)
