"""`python -m trainer evaluate robustness`: do prompts that ask for the same get programs that pass as well.

    problems ── perturb ──> forms ── samples ──> completions ── sandbox ──> outcomes ── worst case ──> table, JSON

Greedy. Each prompt's completion and outcome is a line of a journal, so the command can be killed at any moment. A form
in which there is nothing to perturb has the outcome of its nominal prompt. See docs/robustness.md.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.files import write_whole
from trainer.evaluate.journal import Journal, folder_of, identity_of, print_table
from trainer.evaluate.programs.perturb.families import FAMILIES, Family, Form, forms
from trainer.evaluate.programs.problems import Problem, load_problems
from trainer.evaluate.programs.recode import read_recode
from trainer.evaluate.programs.robust import summary
from trainer.evaluate.programs.running import Job, ProgramOptions, outcomes_of, statuses
from trainer.evaluate.programs.samples import completions, programs_of
from trainer.evaluate.sandbox.run import Status, require_confinement
from trainer.inference.decoding import Generator

EXAMPLES = 8
"""Prompts before and after in the result."""


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions(ProgramOptions):
    """Robust pass@1 under perturbed prompts.

    Attributes:
        families: of perturbations.
        variants: draws of each perturbation; of ReCode's files, seeds.
        recode: folder of ReCode's published files; default our own perturbations.
        seed: of the draws.
        perturbed_out: write the prompts there as JSON lines, before and after.
        out: folder of the result; default evaluations/ in the run's folder.
        afresh: forget an earlier call's items.
        json: print JSON instead of a table.
    """

    families: tuple[Family, ...] = FAMILIES
    variants: int = 5
    recode: str | None = None
    seed: int = 0
    perturbed_out: str | None = None
    out: str | None = None
    afresh: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if min(self.variants, self.max_bytes, self.batch) < 1 or (self.workers is not None and self.workers < 1):
            raise UserError("--variants, --max-bytes, --batch and --workers must be 1 or more")
        super().__post_init__()
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
    identity = identity_of(generator.model)
    on_gpu = identity["device"] != "cpu"
    asked = _asked(made)
    configuration = {
        **identity, "start": list(generator.start), "batch": options.batch if on_gpu else None,
        "max_bytes": options.max_bytes,
        "prompts": digest_of({"prompts": [[key, asdict(problem)] for key, problem in asked.items()]}),
        "problems": len(problems), "families": list(options.families), "variants": options.variants,
        "source": "recode" if options.recode is not None else "built in", "seed": options.seed,
        "sanitize": options.sanitize, "limits": asdict(options.limits), "confined": not options.unsafe,
        "python": list(sys.version_info[:2]),
    }  # fmt: skip
    with Journal(folder, "robustness", configuration, afresh=options.afresh) as journal:
        jobs = _jobs(options, asked, generator, 4 * options.batch if on_gpu else 1, journal.items)
        with contextlib.closing(
            outcomes_of(jobs, options, "prompts", total=len(asked), done=len(journal.items))
        ) as outcomes:
            for job, found in outcomes:
                written = job.completion
                journal.add(job.key, {"text": written.text, "ended": written.ended, "outcomes": statuses(found)})
        figures = {
            "problems": len(problems), "prompts": len(asked), "confined": not options.unsafe,
            "cut_off": sum(journal.items[key]["ended"] == "length" for key in asked),
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


def _asked(made: Sequence[Form]) -> dict[str, Problem]:
    """All that a model is asked, by key: nominal prompts once, whatever the number of forms."""
    asked: dict[str, Problem] = {}
    for form in made:
        asked.setdefault(_nominal_key(form), form.nominal)
        asked.setdefault(_key(form), form.problem)
    return asked


def _jobs(
    options: RobustnessOptions, asked: Mapping[str, Problem], generator: Generator, together: int,
    done: Mapping[str, Any],
) -> Iterator[Job]:  # fmt: skip
    """All prompts that are not done.

    Groups are the same whatever is done: on a GPU what is in a batch can decide between nearly equal bytes.
    """
    by_stops: dict[tuple[str, ...], list[str]] = {}
    for key, problem in asked.items():
        by_stops.setdefault(problem.stops, []).append(key)
    for stops, keys in by_stops.items():
        for start in range(0, len(keys), together):
            group = keys[start : start + together]
            if all(key in done for key in group):
                continue
            prompts = [asked[key].prompt for key in group]
            written = completions(
                generator, prompts, batch=options.batch, max_bytes=options.max_bytes, stop=stops, temperature=0.0
            )
            for key, completion in zip(group, written, strict=True):
                if key not in done:
                    yield Job(key, completion, programs_of(asked[key], completion, sanitize=options.sanitize))


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
    try:
        write_whole(path, "".join(json.dumps(_record(form), ensure_ascii=False) + "\n" for form in made).encode())
    except OSError as error:
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
