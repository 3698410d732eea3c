"""Export and import in the format of EvaByte: what is written, what comes back, and what is refused."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from schemas.command_line import FAILED, Command
from schemas.command_line import run as run_command
from schemas.errors import UserError
from schemas.manifest import seal, unseal
from schemas.vocabulary import BYTES, COMP_OFFSET, Vocabulary
from trainer.checkpoints.restore import restore
from trainer.config import TrainOptions
from trainer.evaluate.bpb import BpbOptions, evaluate
from trainer.huggingface import export as export_module
from trainer.huggingface.config import RAW_HEADS
from trainer.huggingface.export import ExportOptions, Kind, export, write
from trainer.huggingface.reading import CONFIG, INDEX, OURS, WEIGHTS, Info, import_model, load_into
from trainer.inference.generate import GenerateOptions, generate
from trainer.model.evabyte import EvaByte, ModelConfig
from trainer.trainer import Trainer

V = 330
PROXY = ModelConfig(
    dim=32, ffn=48, layers=2, heads=2, window=16, chunk=4, vocabulary_size=V, main_heads=2, raw_heads=3
)  # fmt: skip
BYTE_MODEL = replace(PROXY, vocabulary_size=COMP_OFFSET, main_heads=8, raw_heads=0)
VOCABULARY = Vocabulary(proxy="gzip", comp_symbols=V - COMP_OFFSET)
INFO = Info(
    vocabulary=VOCABULARY,
    fingerprint="f" * 64,
    step=7,
    config={"mode": "proxy", "sequence": 64, "val_fraction": 0.1, "data": ["data/x"]},
)
BYTES_INFO = replace(INFO, vocabulary=BYTES, fingerprint=None, config={**INFO.config, "mode": "bytes"})


def drawn(config: ModelConfig, seed: int = 0) -> EvaByte:
    """A model in which every parameter matters."""
    model = EvaByte(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=1.0 if "adaptive" in name or "embed" in name else 0.2, generator=generator)
    return model


def written(model: EvaByte, out: Path, kind: Kind = "full", info: Info = INFO, **changes: Any) -> Path:
    write(model, info, ExportOptions(run="", out=str(out), kind=kind, **changes))
    return out


def published(model: EvaByte, out: Path, **changes: Any) -> Path:
    """A folder as others write it: no file of ours."""
    written(model, out, info=BYTES_INFO, **changes)
    (out / OURS).unlink()
    return out


def logits(model: EvaByte, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Main heads [B, T, P, V] and raw ones [B, T, R, 320]."""
    with torch.no_grad():
        hidden = model(ids, torch.zeros_like(ids), torch.arange(ids.shape[1]).expand(ids.shape))
        raw = model.raw_multibyte_lm_head
        return model.lm_head(hidden), None if raw is None else raw(hidden)


def some_ids(size: int = COMP_OFFSET) -> Tensor:
    return torch.randint(64, size, (2, 52), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("config", [PROXY, BYTE_MODEL], ids=["proxy", "bytes"])
@pytest.mark.parametrize("most", [5_000_000_000, 20_000, 1], ids=["one file", "some", "one a tensor"])
def test_a_full_export_comes_back_to_the_last_bit(tmp_path: Path, config: ModelConfig, most: int) -> None:
    model = drawn(config)
    info = INFO if config is PROXY else BYTES_INFO
    folder = written(model, tmp_path / "out", info=info, max_shard_bytes=most)
    again, found = import_model(str(folder))
    assert again.config == config
    assert (found.vocabulary, found.fingerprint, found.step) == (info.vocabulary, info.fingerprint, 7)
    assert found.config["mode"] == info.config["mode"]
    assert found.config["model"]["vocabulary_size"] == config.vocabulary_size
    assert not again.training
    pairs = zip(model.named_parameters(), again.named_parameters(), strict=True)
    assert all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)
    ids = some_ids(config.vocabulary_size)
    for a, b in zip(logits(model, ids), logits(again, ids), strict=True):
        assert a is b is None or torch.equal(a, b)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    files = sorted(folder.glob("*.safetensors"))
    assert (folder / INDEX).exists() == (len(files) > 1)
    for path in files:
        sizes = [tensor.nbytes for tensor in load_file(path).values()]
        assert sum(sizes) <= most or len(sizes) == 1
    tensors = len(list(model.parameters()))
    assert len(files) == {5_000_000_000: 1, 1: tensors}.get(most, len(files))
    assert most != 20_000 or 3 < len(files) < tensors


def test_a_raw_only_export_is_the_byte_model_inside(tmp_path: Path) -> None:
    model = drawn(PROXY)
    again, info = import_model(str(written(model, tmp_path / "out", "raw-only")))
    assert again.config == replace(PROXY, vocabulary_size=320, main_heads=5, raw_heads=0)
    assert (info.vocabulary, info.fingerprint) == (BYTES, None)
    (main, raw), (found, none) = logits(model, some_ids()), logits(again, some_ids())
    assert none is None
    assert raw is not None
    # other shapes of the same products may round differently
    assert torch.allclose(found, torch.cat([main[..., :COMP_OFFSET], raw], 2), rtol=1e-5, atol=1e-5)
    assert torch.equal(again.embed_tokens.weight, model.embed_tokens.weight[:COMP_OFFSET])
    heads = again.lm_head.weight.detach().split(COMP_OFFSET)
    assert torch.equal(heads[1], model.lm_head.weight[V : V + COMP_OFFSET])
    assert torch.equal(torch.cat(heads[2:]), model.raw_multibyte_lm_head.weight)


def test_names_and_configuration_are_those_of_the_published_code(tmp_path: Path) -> None:
    folder = written(drawn(PROXY), tmp_path / "out")
    layer = {f"self_attn.{n}_proj.weight" for n in "qkvo"} | {"self_attn.adaptive_mu_k", "self_attn.adaptive_phi"}
    layer |= {f"mlp.{n}_proj.weight" for n in ("gate", "up", "down")}
    layer |= {"input_layernorm.weight", "post_attention_layernorm.weight"}
    expected = {f"model.layers.{n}.{name}" for n in range(2) for name in layer}
    expected |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "raw_multibyte_lm_head.weight"}
    assert set(load_file(folder / WEIGHTS)) == expected
    assert json.loads((folder / CONFIG).read_text()) == {
        "architectures": ["EvaByteForCausalLM"],
        "attention_bias": False,
        "attention_class": "eva",
        "auto_map": {
            "AutoConfig": "configuration_evabyte.EvaByteConfig",
            "AutoModelForCausalLM": "modeling_evabyte.EvaByteForCausalLM",
        },
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "chunk_size": 4, "window_size": 16, "num_chunks": None,
        "fp32_ln": True, "fp32_logits": True, "fp32_skip_add": False, "mixedp_attn": True,
        "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 48,
        "max_position_embeddings": 64, "max_seq_length": 64,
        "model_type": "evabyte",
        "norm_add_unit_offset": True,
        "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 2, "num_pred_heads": 2,
        "return_dict": False, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1e5,
        "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True, "vocab_size": V,
    }  # fmt: skip


def test_bfloat16_rounds_each_number_once(tmp_path: Path) -> None:
    model = drawn(PROXY)
    folder = written(model, tmp_path / "out", dtype="bfloat16", max_shard_bytes=30_000)
    assert json.loads((folder / CONFIG).read_text())["torch_dtype"] == "bfloat16"
    assert {t.dtype for path in folder.glob("*.safetensors") for t in load_file(path).values()} == {torch.bfloat16}
    again, _ = import_model(str(folder))
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a.bfloat16().float(), b)


def test_a_published_folder_is_read_with_its_own_eps_theta_and_dtype(tmp_path: Path) -> None:
    config = replace(BYTE_MODEL, eps=1e-5, rope_theta=5e4, chunk=8)
    model = drawn(config)
    folder = published(model, tmp_path / "out", dtype="bfloat16")
    fields = json.loads((folder / CONFIG).read_text())
    fields |= {"rope_theta": 50_000, "fp32_ln": False, "fp32_skip_add": True, "init_fn": "v2", "_name_or_path": None}
    (folder / CONFIG).write_text(json.dumps(fields))
    again, info = import_model(str(folder))
    assert again.config == config
    assert (info.vocabulary, info.fingerprint, info.step) == (BYTES, None, 0)
    assert all(
        torch.equal(a.bfloat16().float(), b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    restored = restore(str(folder))
    assert (restored.config["mode"], restored.config["sequence"], restored.config["data"]) == ("no-sentinels", 64, [])


def test_of_a_published_folder_with_raw_heads_only_sizes_are_known(tmp_path: Path) -> None:
    model, other = drawn(PROXY), EvaByte(PROXY)
    folder = published(model, tmp_path / "out")
    again, info = import_model(str(folder))
    assert again.config == PROXY
    assert (info.vocabulary, info.fingerprint) == (Vocabulary(proxy="unknown", comp_symbols=10), None)
    load_into(other, str(folder), vocabulary=VOCABULARY, fingerprint="e" * 64)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    changed_tensors(lambda tensors: tensors.update({RAW_HEADS: torch.zeros(700, 32)}))(folder)
    with pytest.raises(UserError, match=r"raw_multibyte_lm_head.weight \[700, 32\], expected \[640, 32\]"):
        import_model(str(folder))


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "published"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_byte_model_fills_a_bytes_run(tmp_path: Path, is_ours: bool, dtype: torch.dtype) -> None:
    model = drawn(BYTE_MODEL)
    folder = written(model, tmp_path / "out", info=BYTES_INFO)
    if not is_ours:
        (folder / OURS).unlink()
    other = EvaByte(BYTE_MODEL).to(dtype)
    load_into(other, str(folder), vocabulary=BYTES, fingerprint="of the data, which has symbols too")
    assert all(torch.equal(a.to(dtype), b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in other.parameters())


@pytest.mark.parametrize(
    ("config", "vocabulary", "fingerprint", "message"),
    [
        (replace(PROXY, vocabulary_size=340), VOCABULARY, "f" * 64, "vocabulary_size 330 -> 340"),
        (replace(PROXY, rope_theta=1e4), VOCABULARY, "f" * 64, "rope_theta 100000.0 -> 10000.0"),
        (replace(PROXY, window=32), VOCABULARY, "f" * 64, "window 16 -> 32"),
        (replace(PROXY, raw_heads=1), VOCABULARY, "f" * 64, "raw_heads 3 -> 1"),
        (PROXY, replace(VOCABULARY, proxy="bpe"), "f" * 64, "proxy gzip -> bpe"),
        (PROXY, VOCABULARY, "e" * 64, "fingerprint of the proxy ffffffffffff... -> eeeeeeeeeeee..."),
    ],
    ids=["size", "theta", "window", "heads", "proxy", "fingerprint"],
)  # fmt: skip
def test_another_model_or_proxy_is_refused_and_nothing_touched(
    tmp_path: Path, config: ModelConfig, vocabulary: Vocabulary, fingerprint: str, message: str
) -> None:
    folder = written(drawn(PROXY), tmp_path / "out")
    model = drawn(config, seed=1)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(UserError) as caught:
        load_into(model, str(folder), vocabulary=vocabulary, fingerprint=fingerprint)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_full_export_fills_a_run_of_its_proxy_and_no_other_number_of_heads_a_bytes_run(tmp_path: Path) -> None:
    model, other = drawn(PROXY), EvaByte(PROXY)
    load_into(other, str(written(model, tmp_path / "full")), vocabulary=VOCABULARY, fingerprint="f" * 64)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    folder = written(model, tmp_path / "raw", "raw-only")
    with pytest.raises(UserError, match="main_heads 5 -> 8"):
        load_into(EvaByte(BYTE_MODEL), str(folder), vocabulary=BYTES, fingerprint="")


SHARED = """
import sys
import torch
from trainer.huggingface.reading import import_model, load_into
from trainer.model.evabyte import EvaByte
from trainer.parallel import Processes, shard

processes = Processes.join("cpu")
whole, info = import_model(sys.argv[1])
ids = torch.arange(64, 116)[None]
arguments = ids, torch.zeros_like(ids), torch.arange(52)[None]
for replicas in (1, 2):
    with torch.device("meta"):
        model = EvaByte(whole.config)
    shard(model, processes, replicas=replicas, precision=None)
    model.to_empty(device="cpu")
    load_into(model, sys.argv[1], vocabulary=info.vocabulary, fingerprint=info.fingerprint)
    parts = 0
    for (name, a), b in zip(whole.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(a, b[1].full_tensor()), name
        parts += b[1].to_local().numel() < a.numel()
    with torch.no_grad():
        assert torch.equal(whole(*arguments), model(*arguments))
    if processes.is_first:
        print(f"replicas {replicas}: {parts} parted")
processes.leave()
"""


def test_parameters_that_are_shared_by_processes_are_filled(tmp_path: Path) -> None:
    # 331 rows make parts of unequal length
    config = replace(PROXY, vocabulary_size=331, main_heads=1)
    info = replace(INFO, vocabulary=Vocabulary(proxy="gzip", comp_symbols=11))
    folder = written(drawn(config), tmp_path / "out", info=info, max_shard_bytes=20_000)
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*launcher, str(script), str(folder)], capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # mu and phi of both layers are not parted: their first axis is 1 long, and the first process has all of it
    assert f"replicas 1: {len(list(EvaByte(config).parameters())) - 4} parted" in done.stdout
    assert "replicas 2: 0 parted" in done.stdout


def changed_config(**changes: Any) -> Callable[[Path], None]:
    """Change keys of config.json; None as a value removes a key."""

    def change(folder: Path) -> None:
        fields = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))

    return change


def changed_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])


def flipped(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def garbled_header(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[20:40] = b"\xff" * 20
    (folder / WEIGHTS).write_bytes(data)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_config(rope_theta=1e4), r"config.json: changed since the export \(rope_theta 100000.0 -> 10000.0\)"),
        (changed_config(window_size=32), r"changed since the export \(window 16 -> 32\)"),
        (changed_config(vocab_size=331), "vocabulary_size 330 -> 331"),
        (changed_config(chunk_size=None), "config.json: no chunk_size in it; add what the model was trained with"),
        (changed_config(norm_add_unit_offset=False), "norm_add_unit_offset is false; this model can only be true"),
        (lambda folder: (folder / CONFIG).write_text("{"), "config.json: not JSON"),
        (lambda folder: (folder / CONFIG).unlink(), "config.json: cannot be read"),
        (lambda folder: (folder / WEIGHTS).unlink(), "model.safetensors: cannot be read"),
        (cut, "model.safetensors: damaged"),
        (flipped, "model.safetensors: damaged"),
        (changed_tensors(lambda tensors: tensors.pop(NORM)), "model.safetensors: damaged"),
        (lambda folder: (folder / OURS).write_bytes((folder / OURS).read_bytes().replace(b"f", b"e")), "damaged"),
    ],
    ids=["theta", "window", "vocabulary", "no key", "offset", "json", "no config", "no file", "cut", "flipped", "fewer",
         "ours"],
)  # fmt: skip
def test_a_folder_of_ours_that_was_changed_is_one_clear_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = written(drawn(PROXY), tmp_path / "out")
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        import_model(str(folder))
    assert "\n" not in str(caught.value)
    assert "out" in str(caught.value)


def test_a_description_of_a_newer_version_or_of_nothing_is_refused(tmp_path: Path) -> None:
    folder = written(drawn(PROXY), tmp_path / "out")
    fields = unseal((folder / OURS).read_bytes(), OURS)
    (folder / OURS).write_bytes(seal({**fields, "format_version": 999}))
    with pytest.raises(UserError, match="999"):
        import_model(str(folder))
    (folder / OURS).write_bytes(seal({key: fields[key] for key in fields if key != "files"}))
    with pytest.raises(UserError, match="not the description of a model"):
        import_model(str(folder))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_config(hidden_size=32.5), "hidden_size is 32.5; expected a whole number above 0"),
        (changed_config(num_hidden_layers=0), "num_hidden_layers is 0"),
        (changed_config(rope_theta="1e5"), 'rope_theta is "1e5"; expected a number above 0'),
        (changed_config(rms_norm_eps=float("inf")), "rms_norm_eps is Infinity"),
        (changed_config(vocab_size=True), "vocab_size is true"),
        (changed_config(vocab_size=10**400), "vocab_size is 1000"),
        (changed_config(rope_theta=float("nan")), "rope_theta is NaN"),
        (changed_config(chunk_size=5), "window 16 is not a multiple of chunk 5"),
        (changed_config(model_type="llama"), 'model_type is "llama"; this model can only be "evabyte"'),
        (changed_config(rope_scaling={"type": "linear", "factor": 2}), "rope_scaling is"),
        (changed_config(tie_word_embeddings=True), "tie_word_embeddings is true"),
        (changed_config(rope_theta=None), "no rope_theta in it"),
        (changed_config(window_size=None, eps=None), "no window_size in it"),
        (changed_config(num_pred_heads=7), r"of another shape: lm_head.weight \[2560, 32\], expected \[2240, 32\]"),
        (changed_config(num_hidden_layers=3), r"missing: model.layers.2.* and 6 more"),
        (changed_config(num_hidden_layers=1), r"unknown: model.layers.1.* and 6 more"),
        (changed_tensors(lambda tensors: tensors.pop(NORM)), f"missing: {NORM}; take the folder anew"),
        (changed_tensors(lambda tensors: tensors.update(extra=torch.zeros(1))), "unknown: extra"),
        (changed_tensors(lambda t: t.update({NORM: torch.zeros(31)})), r"model.norm.weight \[31\], expected \[32\]"),
        (changed_tensors(lambda t: t.update({NORM: torch.zeros(32).int()})), f"not F32, BF16 or F16: {NORM}"),
        (cut, "model.safetensors: damaged or cut off"),
        (garbled_header, "model.safetensors: damaged or cut off"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "config.json: not a JSON object"),
        (lambda folder: (folder / WEIGHTS).unlink(), "neither model.safetensors nor model.safetensors.index.json"),
    ],
)  # fmt: skip
def test_a_published_folder_that_cannot_be_is_one_clear_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = published(drawn(BYTE_MODEL), tmp_path / "out")
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        import_model(str(folder))
    assert "\n" not in str(caught.value)


def test_an_index_whose_files_are_missing_or_double_is_refused(tmp_path: Path) -> None:
    folder = published(drawn(BYTE_MODEL), tmp_path / "out", max_shard_bytes=20_000)
    import_model(str(folder))
    index = json.loads((folder / INDEX).read_text())
    last = sorted(set(index["weight_map"].values()))[-1]
    fewer = {name: file for name, file in index["weight_map"].items() if file != last}
    for weights, message in (
        (fewer, "missing: lm_head.weight"),
        ({**index["weight_map"], NORM: "model-x.safetensors"}, "model-x.safetensors: missing"),
        ({NORM: "../other.safetensors"}, "no weight_map of tensors to files of this folder"),
        (None, "no weight_map"),
    ):
        (folder / INDEX).write_text(json.dumps({"weight_map": weights}))
        with pytest.raises(UserError, match=message):
            import_model(str(folder))
    (folder / INDEX).write_text(json.dumps(index))
    (folder / last).rename(folder / "away")
    with pytest.raises(UserError, match=f"{last}: missing"):
        import_model(str(folder))
    (folder / last).write_bytes((folder / sorted(folder.glob("*.safetensors"))[0]).read_bytes())
    with pytest.raises(UserError, match=r"is in model-00001-of-\d+.safetensors too"):
        import_model(str(folder))


def test_a_folder_that_is_taken_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    written(drawn(PROXY), out)  # an empty one will do
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match=f"--out {out}: there is something already"):
        written(drawn(PROXY, seed=1), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="there is something already"):
        written(drawn(PROXY), tmp_path / "file")
    with pytest.raises(UserError, match="not written: Not a directory"):
        written(drawn(PROXY), tmp_path / "file" / "out")


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata=metadata)
        if "00002" in path.name:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(export_module, "save_file", full)
    with pytest.raises(UserError, match="no space left on the device; free some and export again"):
        written(drawn(PROXY), tmp_path / "out", max_shard_bytes=20_000)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from test_export import PROXY, drawn, written
from trainer.huggingface import export
from pathlib import Path

real = export.{function}
calls = 0
def deadly(*arguments, **named):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
export.{function} = deadly
written(drawn(PROXY), Path(sys.argv[1]), max_shard_bytes=20_000)
"""


@pytest.mark.parametrize(("function", "call"), [("save_file", 2), ("sync", 3)])
def test_killed_midway_there_is_no_folder_and_the_next_export_is_whole(
    tmp_path: Path, function: str, call: int
) -> None:
    program = KILLED.format(function=function, call=call)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", program, str(out)], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1  # what was written so far, under its other name
    import_model(str(written(drawn(PROXY), out)))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on a small corpus under gzip: 576 ids."""
    corpus, data = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("data") / "out"
    rng = random.Random(0)
    for n in range(40):
        lines = [f"name_{k} = value[{k}]\n" for k in rng.choices(range(40), k=60)]
        (corpus / f"{n}.py").write_text("".join(lines))
    proxy = ProxyOptions(proxy="gzip")
    preprocess(
        PreprocessOptions(
            corpus=str(corpus), out=str(data), proxy=proxy, quiet=True, row_group_bytes=4096
        )
    )  # fmt: skip
    run = tmp_path_factory.mktemp("run") / "run"
    Trainer(
        TrainOptions(
            data=(str(data),), run=str(run), steps=2, batch=2, sequence=256, val_fraction=0.1, tensorboard=False,
            prefetch=0, raw_heads=2,
        )
    ).train()  # fmt: skip
    return run


def test_a_run_goes_out_and_generates_and_is_measured_from_there(
    run: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def shown(call: Callable[[], object]) -> bytes:
        capfdbinary.readouterr()
        call()
        sys.stdout.flush()
        return capfdbinary.readouterr().out

    folders = {kind: str(tmp_path / kind) for kind in ("full", "raw-only")}
    commands = {"export": Command("trainer.huggingface.export", "ExportOptions", "export", "")}
    for kind, folder in folders.items():
        arguments = ["export", "--run", str(run), "--out", folder, "--kind", kind]
        line = shown(lambda arguments=arguments: run_command("trainer", commands, arguments)).decode()  # type: ignore[misc]
        assert f"{folder}: {kind} model of step 2 in float32" in line
        assert ("576 ids, 1 heads and 2 raw" if kind == "full" else "320 ids, 3 heads\n") in line
        assert run_command("trainer", commands, arguments) == FAILED  # taken
    trained = restore(str(run))
    for kind, folder in folders.items():
        restored = restore(folder)
        assert restored.step == 2
        assert restored.vocabulary == (trained.vocabulary if kind == "full" else BYTES)
        assert restored.fingerprint == (trained.fingerprint if kind == "full" else None)
        assert {**restored.config, "model": 0, "vocabulary": 0} == {**trained.config, "model": 0, "vocabulary": 0}
    assert trained.fingerprint is not None
    assert len(trained.fingerprint) > 20

    def text(run: str) -> bytes:
        return shown(lambda: generate(GenerateOptions(run=run, prompt="name_1 = ", max_bytes=40)))

    assert text(folders["full"]) == text(folders["raw-only"]) == text(str(run))
    bits = [evaluate(BpbOptions(run=r, documents=2, markov=()))["bits_per_byte"] for r in (str(run), folders["full"])]
    assert bits[0] == bits[1]
    # from a full folder the byte model can be had later too
    export(ExportOptions(run=folders["full"], out=str(tmp_path / "later")))
    later, direct = (import_model(str(tmp_path / name))[0] for name in ("later", "raw-only"))
    assert all(torch.equal(a, b) for a, b in zip(later.parameters(), direct.parameters(), strict=True))


def test_a_model_of_comp_symbols_alone_has_no_byte_model(tmp_path: Path) -> None:
    info = replace(INFO, config={**INFO.config, "mode": "comp-only"})
    folder = written(drawn(PROXY), tmp_path / "full", info=info)
    with pytest.raises(UserError, match="trained on comp symbols alone"):
        export(ExportOptions(run=str(folder), out=str(tmp_path / "raw")))
    assert not (tmp_path / "raw").exists()
    export(ExportOptions(run=str(folder), out=str(tmp_path / "again"), kind="full"))


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--max-shard-bytes 0: give 1 or more"):
        ExportOptions(run="x", out="y", max_shard_bytes=0)
    with pytest.raises(UserError, match="no checkpoint there"):
        export(ExportOptions(run=str(tmp_path / "none"), out=str(tmp_path / "out")))
