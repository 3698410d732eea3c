"""The training loop of the byte LMs: drawn by step, resumable at any step, watched.

What a step does follows from the options, the text and the step's number, so that a run that was killed and goes on
from its saved state ends with the same weights to the last bit on the same machine, torch build and threads. The state
is one file that is replaced whole: every 30 s, at SIGINT and at SIGTERM.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from compressor_model.progress import Report, TrainingProgress
from compressor_model.text import Text
from compressor_model.trainee import Trainee
from compressor_model.training_state import State
from schemas.errors import UserError

SAVE_SECONDS = 30.0
"""Between saves: what a kill can cost."""

HELD_OUT_TIMES = 10
"""How often in a run held-out text is tried."""

MIN_TEXT_BYTES = 1 << 16


def check_text(text: Text) -> None:
    """Refuse too little text.

    Raises:
        UserError: fewer than 64 KiB.
    """
    if len(text.data) < MIN_TEXT_BYTES:
        raise UserError(
            f"byte LM: {len(text.data):,} bytes of training text; at least {MIN_TEXT_BYTES:,} are needed: give a "
            "larger --corpus or --text-bytes"
        )


def cosine(step: int, steps: int, *, warm_up: int, last: float) -> float:
    """Share of the peak rate: a line from 0 over `warm_up` steps, then half a cosine down to `last`."""
    if step < warm_up:
        return (step + 1) / warm_up
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def train(trainee: Trainee, state: State | None, report: Report) -> float:
    """Run the steps that are left.

    Args:
        trainee: what is trained, in place.
        state: where to go on from and to save; None saves nothing.
        report: lines for people.

    Returns:
        Seconds that training took, earlier runs included.

    Raises:
        UserError: the state is of something else or damaged, or the loss is no longer finite.
        KeyboardInterrupt: SIGINT, with the state saved.
        SystemExit: SIGTERM, likewise.
    """
    import torch

    done, before = state.restore(trainee) if state else (0, 0.0)
    if done:
        report(f"  goes on after step {done:,} of {trainee.steps:,}")
    begin = saved = time.monotonic()
    every = max(1, trainee.steps // HELD_OUT_TIMES)
    progress = TrainingProgress(report, trainee.steps, trainee.batch, done)
    trainee.module.train()
    with _signals() as caught, progress:
        for step in range(done, trainee.steps):
            for group in trainee.optimiser.param_groups:
                group["lr"] = trainee.rate(step)
            loss = trainee.loss(step)
            trainee.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if trainee.clip is not None:
                torch.nn.utils.clip_grad_norm_(trainee.module.parameters(), trainee.clip)
            trainee.optimiser.step()
            bits = float(loss.item()) / math.log(2)
            if not math.isfinite(bits):
                raise UserError(f"byte LM: the loss of step {step + 1:,} is {bits}; give a lower --learning-rate")
            held_out = trainee.held_out() if (step + 1) % every == 0 or step + 1 == trainee.steps else None
            progress.update(step + 1, bits, held_out)
            if state and (caught or time.monotonic() - saved >= SAVE_SECONDS):
                state.save(trainee, step + 1, before + time.monotonic() - begin)
                saved = time.monotonic()
            if caught:
                if state:
                    report(f"stopped after step {step + 1:,}; the same command goes on from there")
                if caught[0] == signal.SIGINT:
                    raise KeyboardInterrupt
                raise SystemExit(128 + caught[0])
        if state:  # the rest of the fit may be stopped, too
            state.save(trainee, trainee.steps, before + time.monotonic() - begin)
    trainee.module.eval()
    return before + time.monotonic() - begin


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that came, for the loop to look at between steps; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def catch(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resolve_device(wanted: str, option: str = "--device") -> Literal["cpu", "cuda"]:
    """What auto, cpu or cuda means here: cpu or cuda; `option` is what asked for it.

    Raises:
        UserError: cuda where there is none.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{option} cuda: no GPU is found here; give cpu, or leave it out")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
