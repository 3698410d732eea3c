"""`python -m trainer generate`: bytes in, bytes out.

One prompt is streamed: it and what follows go to standard output as they are made. A file of many prompts gives a line
of JSON for each. Either way the last line on standard error says how fast it was. See `decoding.py`.
"""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from schemas.errors import UserError
from trainer.inference.continuation import Generated, Options, Request, as_bytes
from trainer.inference.decoding import BATCH, Generator


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Generate bytes from a trained model.

    Attributes:
        run: folder of the run.
        prompt: text to go on from; may be empty.
        prompt_file: read the prompt from a file instead, any bytes.
        prompts: a JSONL file of prompts: each line a text, or an object with a text "prompt". A line of JSON for
            each comes out, in the order in which they are done.
        max_bytes: to generate at most, for each prompt.
        temperature: 0 takes the likeliest byte.
        top_p: only the likeliest bytes that together have at least this probability.
        seed: of sampling.
        stop: texts that end the generation; they are not given out.
        batch: of --prompts, in work at once.
        speculation: look several bytes ahead in a pass if the model has heads for it; the output is the same without.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    prompt: str = ""
    prompt_file: str | None = None
    prompts: str | None = None
    max_bytes: int = 400
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    batch: int = BATCH
    speculation: bool = True

    def __post_init__(self) -> None:
        Request(**self.options)
        if self.batch < 1:
            raise UserError(f"batch is {self.batch}; expected 1 or more")
        if sum(bool(given) for given in (self.prompt, self.prompt_file, self.prompts)) > 1:
            raise UserError("--prompt, --prompt-file and --prompts exclude each other")

    @property
    def options(self) -> Options:
        """What the generator is asked for."""
        return {
            "max_bytes": self.max_bytes,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
        }


def generate(options: GenerateOptions) -> None:
    """The `generate` command.

    Raises:
        UserError: no run, one that cannot write bytes, or a file of prompts that cannot be read.
    """
    # files first: they are quickly found wanting
    prompts = [] if options.prompts is None else read_prompts(options.prompts)
    prompt = as_bytes(options.prompt) if options.prompt_file is None else _read("--prompt-file", options.prompt_file)
    generator = Generator.from_run(options.run, nodes=None if options.speculation else 1)
    start = time.perf_counter()
    results = _each(generator, prompts, options) if options.prompts is not None else [_one(generator, prompt, options)]
    made, passes = (sum(getattr(result, name) for result in results) for name in ("made", "passes"))
    speed = made / max(time.perf_counter() - start, 1e-9)
    print(f"{made:,} bytes, {speed:,.0f} bytes/s, {made / max(passes, 1):.2f} bytes a pass", file=sys.stderr)  # noqa: T201


def read_prompts(path: str) -> list[bytes]:
    """The prompts of a JSONL file; blank lines are none.

    Raises:
        UserError: it cannot be read, or a line is not a prompt.
    """
    prompts = []
    for number, line in enumerate(_read("--prompts", path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(f"--prompts {path}: line {number} is not JSON ({error})") from None
        text = value.get("prompt") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise UserError(f'--prompts {path}: line {number} is neither a text nor an object with a text "prompt"')
        try:
            prompts.append(text.encode())
        except UnicodeEncodeError:
            raise UserError(f"--prompts {path}: line {number} has half a surrogate pair; write whole ones") from None
    return prompts


def result_line(number: int, result: Generated) -> dict[str, Any]:
    """What is written of one of many prompts: its number, text (and hex if not UTF-8), why it ended, sizes."""
    data: dict[str, Any] = {"text": result.data.decode(errors="replace")}
    if data["text"].encode() != result.data:
        data["hex"] = result.data.hex()
    return {"number": number, **data, "ended": result.ended, "made": result.made, "passes": result.passes}


def _one(generator: Generator, prompt: bytes, options: GenerateOptions) -> Generated:
    out = sys.stdout.buffer
    out.write(prompt)
    out.flush()
    stream = generator.stream(prompt, **options.options)
    for part in stream:
        out.write(part)
        out.flush()
    out.write(b"\n")
    out.flush()
    assert stream.result is not None
    return stream.result


def _each(generator: Generator, prompts: list[bytes], options: GenerateOptions) -> Iterable[Generated]:
    results = []
    for number, result in generator.results(prompts, batch=options.batch, **options.options):
        sys.stdout.write(json.dumps(result_line(number, result), ensure_ascii=False) + "\n")
        sys.stdout.flush()
        results.append(result)
    return results


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - also /dev/stdin
            return file.read()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be read ({error.strerror})") from None
