"""The generate command: one prompt streamed, many as lines of JSON, and what it says of itself."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from schemas.command_line import BAD_OPTIONS, FAILED, Command, run
from schemas.errors import UserError
from schemas.vocabulary import BYTE_OFFSET, EOS, RAW_CLOSE
from trainer.inference import decoding
from trainer.inference.continuation import Generated
from trainer.inference.decoding import Generator
from trainer.inference.generate import GenerateOptions, generate, read_prompts, result_line
from trainer.model.evabyte import EvaByte, ModelConfig

COMMANDS = {"generate": Command("trainer.inference.generate", "GenerateOptions", "generate", "bytes in, bytes out")}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> EvaByte:
    """What every run holds here: a small model that never ends by itself."""
    config = ModelConfig(
        dim=32, ffn=48, layers=2, heads=2, window=16, chunk=4, vocabulary_size=320, main_heads=3, raw_heads=0
    )
    made = EvaByte(config)
    made.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.lm_head.weight.mul_(20)
        made.lm_head.weight[[RAW_CLOSE, EOS]] = made.lm_head.weight[BYTE_OFFSET].clone()
    restored = SimpleNamespace(model=made.double(), config={"mode": "bytes"})
    monkeypatch.setattr(decoding, "restore", lambda run: restored)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return copy.deepcopy(made)


@pytest.mark.parametrize("prompt", [b"", b"def ", b"\xff\xfe\x00 any bytes", "\u00e9".encode()])
def test_one_prompt_is_given_back_with_what_follows(
    model: EvaByte, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], prompt: bytes
) -> None:
    expected = prompt + Generator(model).generate([prompt], max_bytes=30)[0].data + b"\n"
    (tmp_path / "prompt").write_bytes(prompt)
    text = prompt.decode("utf-8", "surrogateescape")
    plain = {"prompt": text, "speculation": False}
    for options in ({"prompt_file": str(tmp_path / "prompt")}, {"prompt": text}, plain):
        generate(GenerateOptions(run="x", max_bytes=30, **options))
        out, err = capfdbinary.readouterr()
        assert out == expected
        assert err.startswith(b"30 bytes, ")
        rate = float(err.split()[-4])
        assert err.endswith(b" bytes a pass\n")
        assert rate == 1 if options is plain else rate >= 1


def test_many_prompts_give_a_line_each(model: EvaByte, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"one"\n\n{"prompt": "tw\\u00f6", "id": 7}\n"three"\n')
    assert read_prompts(str(path)) == [b"one", "tw\u00f6".encode(), b"three"]
    options = {"max_bytes": 12, "temperature": 0.7, "top_p": 0.9, "seed": 4}
    generate(GenerateOptions(run="x", prompts=str(path), batch=2, stop=("\n",), **options))
    out, err = capfd.readouterr()
    found = sorted(map(json.loads, out.splitlines()), key=lambda line: line["number"])
    expected = Generator(model).generate(read_prompts(str(path)), stop=["\n"], **options)
    for line, result in zip(found, expected, strict=True):
        assert (bytes.fromhex(line["hex"]) if "hex" in line else line["text"].encode()) == result.data
        assert (line["ended"], line["made"]) == (result.ended, result.made)
    assert err.startswith(f"{sum(result.made for result in expected)} bytes, ")
    path.write_text("")
    generate(GenerateOptions(run="x", prompts=str(path)))
    assert capfd.readouterr().out == ""


def test_bytes_that_are_no_text_are_written_in_hex_too() -> None:
    line = result_line(3, Generated(b"a\xff", "length", 2, 1))
    assert line == {"number": 3, "text": "a\ufffd", "hex": "61ff", "ended": "length", "made": 2, "passes": 1}
    assert "hex" not in result_line(0, Generated("\u00e9".encode(), "end", 2, 1))


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--max-bytes", "0"], BAD_OPTIONS, "max-bytes is 0"),
        (["--temperature", "-1"], BAD_OPTIONS, "temperature is -1.0"),
        (["--top-p", "0"], BAD_OPTIONS, "top-p is 0.0"),
        (["--batch", "0"], BAD_OPTIONS, "batch is 0"),
        (["--prompt", "a", "--prompts", "b"], BAD_OPTIONS, "--prompt, --prompt-file and --prompts exclude each other"),
        (["--prompt-file", "no/such"], FAILED, "--prompt-file no/such: cannot be read (No such file"),
        (["--prompts", "no/such"], FAILED, "--prompts no/such: cannot be read (No such file"),
        (["--run", "no/such"], FAILED, "no checkpoint there"),
    ],
)
def test_bad_options_give_one_line(
    capfd: pytest.CaptureFixture[str], arguments: list[str], status: int, says: str
) -> None:
    assert run("trainer", COMMANDS, ["generate", *arguments]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert says in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is not JSON"),
        ("7", "line 2 is neither a text nor an object"),
        ('{"text": "a"}', "line 2 is neither a text nor an object"),
        ('"\\ud800"', "line 2 has half a surrogate pair"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'"good"\n{line}\n')
    with pytest.raises(UserError, match=says):
        read_prompts(str(path))
