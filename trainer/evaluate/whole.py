"""`python -m trainer evaluate all`: every evaluation that a run's mode allows, one after the other.

Bits per byte, translation, programs, robustness, cost: each with its own defaults but for what is asked here, and each
with its own result in the run's folder, which `python -m pipelines report --run` shows on one page. Killed at any
moment, the same command goes on. One that cannot be done is named with its reason, and the others go on.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from schemas.errors import UserError
from trainer.checkpoints.restore import restore
from trainer.data.views import Mode
from trainer.evaluate import bpb, cost, translation
from trainer.evaluate.programs import humaneval, robustness
from trainer.evaluate.programs.problems import HUMANEVAL

What = Literal["bpb", "translation", "humaneval", "robustness", "cost"]


@dataclass(frozen=True, kw_only=True)
class AllOptions:
    """All evaluations of a run.

    Attributes:
        run: folder of the run, or of a full export.
        data: dataset; default the run's first.
        documents: held-out ones that bits per byte are measured on; of translation a half.
        written: of those, that the model translates by writing the bytes.
        problems: "humaneval", or a path or URL of HumanEval, HumanEval+, MBPP or MBPP+.
        limit: only the first so many problems.
        variants: draws of each perturbation.
        beside: folder of a comp-only run of the same trunk, for what inference costs.
        only: these alone.
        unsafe: run programs without a sandbox if this machine has none.
        out: folder of the results; default evaluations/ in the run's folder.
        afresh: forget what earlier calls did.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    data: str | None = None
    documents: int = 400
    written: int = 20
    problems: str = HUMANEVAL
    limit: int | None = None
    variants: int = 5
    beside: str | None = None
    only: tuple[What, ...] = ()
    unsafe: bool = False
    out: str | None = None
    afresh: bool = False


class Step(NamedTuple):
    """One evaluation: its name, and the call."""

    name: What
    call: Callable[[], object]


def evaluate(options: AllOptions) -> None:
    """The `evaluate all` command.

    Raises:
        UserError: no run, or evaluations that could not be done, with the reason of each.
    """
    steps = [step for step in _steps(options) if not options.only or step.name in options.only]
    restored = restore(options.run)
    mode, has_symbols = Mode(restored.config["mode"]), bool(restored.vocabulary.comp_symbols)
    del restored
    failed = []
    for step in steps:
        sys.stdout.write(f"\n== {step.name} ==\n")
        if (reason := _unfit(step.name, mode, has_symbols)) is not None:
            sys.stdout.write(f"left out: {reason}\n")
            continue
        sys.stdout.flush()
        try:
            step.call()
        except UserError as error:
            sys.stdout.write(f"not done: {error}\n")
            failed.append(step.name)
    sys.stdout.write(f"\nas one page: make report RUN={options.run}\n")
    if failed:
        raise UserError(f"{', '.join(failed)}: not done, for the reason above; the same command goes on with the rest")


def _unfit(name: What, mode: Mode, has_symbols: bool) -> str | None:
    if mode is Mode.COMP_ONLY and name != "bpb":
        return "a run of comp-only writes no bytes"
    if name == "translation" and not mode.mixes:
        return f"a run of {mode} knows one view"
    if name == "translation" and not has_symbols:
        return "a raw-only export has no symbols"
    return None


def _steps(options: AllOptions) -> Iterator[Step]:
    run, out, afresh, data = options.run, options.out, options.afresh, options.data
    yield Step(
        "bpb",
        lambda: bpb.evaluate(bpb.BpbOptions(run=run, data=data, documents=options.documents, out=out, afresh=afresh)),
    )
    yield Step(
        "translation",
        lambda: translation.evaluate(
            translation.TranslationOptions(
                run=run, data=data, documents=max(2, options.documents // 2), written=options.written, out=out,
                afresh=afresh,
            )
        ),
    )  # fmt: skip
    yield Step(
        "humaneval",
        lambda: humaneval.evaluate(
            humaneval.HumanevalOptions(
                run=run, problems=options.problems, limit=options.limit, unsafe=options.unsafe, out=out, afresh=afresh
            )
        ),
    )
    yield Step(
        "robustness",
        lambda: robustness.evaluate(
            robustness.RobustnessOptions(
                run=run, problems=options.problems, limit=options.limit, variants=options.variants,
                unsafe=options.unsafe, out=out, afresh=afresh,
            )
        ),
    )  # fmt: skip
    yield Step(
        "cost",
        lambda: cost.evaluate(cost.CostOptions(run=run, data=data, beside=options.beside, out=out, afresh=afresh)),
    )
