"""`python -m trainer generate`: bytes in, bytes out, one byte at a time with the window cache.

The prompt is `bos <raw> bytes`; only bytes and the ends (`</raw>`, eos) can be generated, whatever symbols the model
was trained on. About 1,500 bytes a second for `tiny` on one core.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from schemas.errors import UserError
from schemas.vocabulary import BOS, BYTE_OFFSET, COMP_OFFSET, EOS, RAW_CLOSE, RAW_OPEN
from trainer.model.cache import Cache
from trainer.model.evabyte import EvaByte
from trainer.restore import restore


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Generate bytes from a trained model.

    Attributes:
        run: folder of the run.
        prompt: text to go on from; may be empty.
        prompt_file: read the prompt from a file instead, any bytes.
        max_bytes: to generate at most.
        temperature: 0 takes the likeliest byte.
        seed: of sampling.
        stop: texts that end the generation; they are not given out.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    prompt: str = ""
    prompt_file: str | None = None
    max_bytes: int = 400
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.temperature < 0:
            raise UserError("--max-bytes must be 1 or more, --temperature 0 or more")


def generate_bytes(
    model: EvaByte,
    prompt: bytes,
    *,
    max_bytes: int,
    temperature: float = 0.0,
    seed: int = 0,
    sentinels: bool = True,
) -> Iterator[int]:
    """Bytes that go on from a prompt, one at a time.

    Args:
        model: a trained model.
        prompt: any bytes.
        max_bytes: at most so many.
        temperature: 0 is greedy; else softmax(logits / temperature) over bytes and ends.
        seed: of sampling.
        sentinels: whether the model was trained with them.
    """
    start = [BOS, RAW_OPEN] if sentinels else [BOS]
    ids = torch.tensor([start + [BYTE_OFFSET + byte for byte in prompt]])
    rng = np.random.default_rng(seed)
    allowed = np.full(COMP_OFFSET, -np.inf)
    allowed[BYTE_OFFSET:] = 0
    allowed[[EOS, RAW_CLOSE]] = 0
    cache = Cache(model)
    hidden = cache.prefill(ids)[:, -1]
    for _ in range(max_bytes):
        with torch.no_grad():
            logits = model.lm_head(hidden)[0, 0, :COMP_OFFSET].double().numpy() + allowed
        if temperature == 0:
            chosen = int(logits.argmax())
        else:
            weights = np.exp((logits - logits.max()) / temperature)
            chosen = int(rng.choice(COMP_OFFSET, p=weights / weights.sum()))
        if chosen in (EOS, RAW_CLOSE):
            return
        yield chosen - BYTE_OFFSET
        hidden = cache.step(torch.tensor([chosen]))


def until_stop(data: Iterator[int], stops: tuple[bytes, ...]) -> Iterator[bytes]:
    """Pass bytes on as soon as they cannot be the beginning of a stop text; end before one."""
    held = b""
    longest = max(map(len, stops), default=0)
    for byte in data:
        held += bytes([byte])
        for stop in stops:
            at = held.find(stop)
            if at >= 0:
                yield held[:at]
                return
        free = len(held) - max(longest - 1, 0)
        if free > 0:
            yield held[:free]
            held = held[free:]
    yield held


def generate(options: GenerateOptions) -> None:
    """The `generate` command: the prompt and what follows, streamed to standard output.

    Raises:
        UserError: no run, or no prompt file.
    """
    prompt = options.prompt.encode("utf-8", "surrogateescape")
    if options.prompt_file is not None:
        try:
            with open(options.prompt_file, "rb") as file:  # noqa: PTH123 - also /dev/stdin
                prompt = file.read()
        except OSError as error:
            raise UserError(f"--prompt-file {options.prompt_file}: cannot be read ({error.strerror})") from None
    restored = restore(options.run)
    stops = tuple(stop.encode() for stop in options.stop if stop)
    out = sys.stdout.buffer
    out.write(prompt)
    stream = generate_bytes(
        restored.model,
        prompt,
        max_bytes=options.max_bytes,
        temperature=options.temperature,
        seed=options.seed,
        sentinels=restored.config["mode"] != "no-sentinels",
    )
    for part in until_stop(stream, stops):
        out.write(part)
        out.flush()
    out.write(b"\n")
    out.flush()
