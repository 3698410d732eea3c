"""`python -m trainer evaluate humaneval`: does what a model writes pass the tests.

    problems ── samples ──> completions ── sandbox ──> outcomes ── pass@k ──> table, JSON

Programs run in sandboxes while the model goes on writing. Every sample is a line of a journal, so the command can be
killed at any moment. See docs/evaluating-programs.md.
"""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.files import write_whole
from schemas.remote import is_remote, local_path
from trainer.evaluate.intervals import Interval
from trainer.evaluate.journal import FOLDER, Journal, folder_of, identity_of, print_table
from trainer.evaluate.programs.passk import estimate
from trainer.evaluate.programs.problems import Problem, load_problems
from trainer.evaluate.programs.running import Job, ProgramOptions, outcomes_of, statuses
from trainer.evaluate.programs.samples import Completion, completions, programs_of, read_samples, seed_of
from trainer.evaluate.sandbox.run import Status, require_confinement
from trainer.inference.continuation import Options
from trainer.inference.decoding import Generator
from trainer.inference.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class HumanevalOptions(ProgramOptions):
    """pass@k of generated programs.

    Attributes:
        samples: score these completions instead of a model's: JSON lines of task_id and completion or solution.
        n: samples of each problem.
        temperature: 0 takes the likeliest byte; default 0 for one sample, 0.2 for more.
        top_p: only the likeliest bytes that together have at least this probability.
        seed: of sampling.
        k: of pass@k; none is larger than the samples of a problem.
        out: folder of the result; default evaluations/ in the run's folder, or beside --samples.
        afresh: forget an earlier call's samples.
        json: print JSON instead of a table.
    """

    samples: str | None = None
    n: int = 1
    temperature: float | None = None
    top_p: float = 0.95
    seed: int = 0
    k: tuple[int, ...] = (1,)
    out: str | None = None
    afresh: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_bytes < 1 or self.batch < 1 or (self.workers is not None and self.workers < 1):
            raise UserError("--n, --max-bytes, --batch and --workers must be 1 or more")
        super().__post_init__()
        if not self.k or min(self.k) < 1 or len(set(self.k)) < len(self.k):
            raise UserError("--k takes numbers of 1 or more, each once")
        if self.samples is None and max(self.k) > self.n:
            raise UserError(f"pass@{max(self.k)} needs --n {max(self.k)} samples or more")
        Sampling(temperature=self.chosen_temperature, top_p=self.top_p)
        if self.samples is None and self.n > 1 and self.chosen_temperature == 0:
            raise UserError("at --temperature 0 all samples are the same; take --n 1 or a temperature")

    @property
    def chosen_temperature(self) -> float:
        """The temperature that is meant."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.n == 1 else 0.2


def evaluate(options: HumanevalOptions) -> dict[str, Any]:
    """The `evaluate humaneval` command.

    Returns:
        The figures: see `figures_of`.

    Raises:
        UserError: no sandbox, no problems, no model or samples; a folder that cannot be written.
    """
    require_confinement(options.unsafe)
    problems = load_problems(options.problems)[: options.limit]
    given = generator = None
    if options.samples is not None:
        given = read_samples(options.samples, problems)
        _check_k(options.k, given)
        source: dict[str, Any] = {
            "completions": digest_of({task: [vars(one) for one in found] for task, found in given.items()})
        }
        beside = "." if is_remote(options.samples) else str(Path(local_path(options.samples)).parent)
        folder = Path(options.out) if options.out is not None else Path(beside) / FOLDER
    else:
        folder = folder_of(options.run, options.out)
        generator = Generator.from_run(options.run)
        source = _source(options, generator)
    configuration = {
        **source,
        "problems": digest_of({"problems": [asdict(problem) for problem in problems]}),
        "sanitize": options.sanitize, "limits": asdict(options.limits), "confined": not options.unsafe,
        "python": list(sys.version_info[:2]),
    }  # fmt: skip
    with Journal(folder, "humaneval", configuration, afresh=options.afresh) as journal:
        jobs = _jobs(options, problems, generator, given, journal.items)
        total = sum(map(len, given.values())) if given is not None else options.n * len(problems)
        with contextlib.closing(
            outcomes_of(jobs, options, "samples", total=total, done=len(journal.items))
        ) as outcomes:
            for job, found in outcomes:
                journal.add(job.key, {**vars(job.completion), "outcomes": statuses(found)})
        kept = {problem.task_id: _kept(journal.items, problem.task_id) for problem in problems}
        figures = figures_of(problems, kept, options.k, confined=not options.unsafe)
        path = journal.finish(figures)
        _write_samples(path.with_name(f"{path.stem}-samples.jsonl"), kept)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        _print(options, figures, path)
    return figures


def figures_of(
    problems: Sequence[Problem], kept: dict[str, list[dict[str, Any]]], ks: Sequence[int], *, confined: bool
) -> dict[str, Any]:
    """What is reported.

    Args:
        problems: all of them.
        kept: items of the journal by task.
        ks: of pass@k.
        confined: whether programs ran in a sandbox.

    Returns:
        JSON: problems, samples, confined, cut_off (samples that were ended by their length), outcomes (samples by
        status of their tests); and by "base" and, where there are plus tests, "plus" (base and plus tests both): by
        "pass@k": value, low, high (95 % by drawing problems anew), between 0 and 1.
    """
    items = [item for found in kept.values() for item in found]
    tests = Counter(item["outcomes"][0]["status"] for item in items)
    figures: dict[str, Any] = {
        "problems": len(problems),
        "samples": len(items),
        "confined": confined,
        "cut_off": sum(item["ended"] == "length" for item in items),
        "outcomes": {status.value: tests[status.value] for status in Status},
        "base": _passes(kept, ks, 1),
    }
    if any(problem.plus is not None for problem in problems):
        more = Counter(item["outcomes"][-1]["status"] for item in items)
        figures["plus_outcomes"] = {status.value: more[status.value] for status in Status}
        figures["plus"] = _passes(kept, ks, None)
    return figures


def _passes(kept: dict[str, list[dict[str, Any]]], ks: Sequence[int], programs: int | None) -> dict[str, Any]:
    """pass@k by k, from the first programs of each sample; None: all of them."""
    counts = [
        (len(found), sum(all(one["status"] == Status.PASSED for one in item["outcomes"][:programs]) for item in found))
        for found in kept.values()
    ]
    return {f"pass@{k}": estimate(counts, k).rounded(6) for k in ks}


def _source(options: HumanevalOptions, generator: Generator) -> dict[str, Any]:
    """What decides the bytes of a model's samples."""
    identity = identity_of(generator.model)
    sampled = options.chosen_temperature > 0
    return {
        **identity, "start": list(generator.start),
        # of a GPU a batch decides between nearly equal bytes; what does not change a byte is left out
        "batch": None if identity["device"] == "cpu" else options.batch,
        "n": options.n, "temperature": options.chosen_temperature, "max_bytes": options.max_bytes,
        "top_p": options.top_p if sampled else None, "seed": options.seed if sampled else None,
    }  # fmt: skip


def _check_k(ks: Sequence[int], given: dict[str, list[Completion]]) -> None:
    task, fewest = min(((task, len(found)) for task, found in given.items()), key=lambda pair: pair[1])
    if max(ks) > fewest:
        raise UserError(f"pass@{max(ks)} needs as many samples of each problem, {task} has {fewest}")


def _jobs(
    options: HumanevalOptions, problems: Sequence[Problem], generator: Generator | None,
    given: dict[str, list[Completion]] | None, done: dict[str, Any],
) -> Iterator[Job]:  # fmt: skip
    """All samples that are not done."""
    for group in _groups(options, problems, generator):
        pairs = [
            (problem, number)
            for problem in group
            for number in range(len(given[problem.task_id]) if given is not None else options.n)
        ]
        if all(_key(problem.task_id, number) in done for problem, number in pairs):
            continue
        if given is not None:
            found = [given[problem.task_id][number] for problem, number in pairs]
        else:
            assert generator is not None
            asked: Options = {
                "max_bytes": options.max_bytes, "stop": group[0].stops, "temperature": options.chosen_temperature,
                "top_p": options.top_p, "seed": seed_of(options.seed, group[0].task_id),
            }  # fmt: skip
            found = completions(generator, [problem.prompt for problem, _ in pairs], batch=options.batch, **asked)
        for (problem, number), completion in zip(pairs, found, strict=True):
            key = _key(problem.task_id, number)
            if key not in done:
                yield Job(key, completion, programs_of(problem, completion, sanitize=options.sanitize))


def _groups(
    options: HumanevalOptions, problems: Sequence[Problem], generator: Generator | None
) -> Iterator[Sequence[Problem]]:
    """Problems that are worked at together: one, whose samples have their noise; on a GPU many, if there is no noise.

    Groups are always the same, whatever is done: on a GPU what is in a batch can decide between nearly equal bytes.
    """
    together = 1
    if generator is not None and generator.model.embed_tokens.weight.is_cuda and options.chosen_temperature == 0:
        together = 4 * options.batch
    start = 0
    for end in range(1, len(problems) + 1):
        if end == len(problems) or end - start == together or problems[end].stops != problems[start].stops:
            yield problems[start:end]
            start = end


def _key(task_id: str, number: int) -> str:
    return f"{task_id} {number}"


def _kept(items: dict[str, dict[str, Any]], task_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while (item := items.get(_key(task_id, len(found)))) is not None:
        found.append(item)
    return found


def _write_samples(path: Path, kept: dict[str, list[dict[str, Any]]]) -> None:
    """All completions in the public format, for other harnesses.

    Raises:
        UserError: a full disk.
    """
    lines = [
        json.dumps({"task_id": task, "solution" if item["whole"] else "completion": item["text"]}) + "\n"
        for task, found in kept.items()
        for item in found
    ]
    try:
        write_whole(path, "".join(lines).encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def _print(options: HumanevalOptions, figures: dict[str, Any], path: Path) -> None:
    names = [name for name in ("base", "plus") if name in figures]
    of = options.samples or options.run
    sys.stdout.write(f"{of}: {figures['samples']:,} samples of {figures['problems']:,} problems\n")
    print_table(
        "",
        ["tests", *figures["base"]],
        [[name, *(Interval(**estimated).share() for estimated in figures[name].values())] for name in names],
    )
    print_table(
        "",
        ["samples", *figures["outcomes"], "cut off"],
        [
            [name, *figures["outcomes" if name == "base" else "plus_outcomes"].values(), figures["cut_off"]]
            for name in names
        ],
    )
    if not figures["confined"]:
        sys.stdout.write("programs ran without a sandbox (--unsafe)\n")
    sys.stdout.write(f"in brackets: 95 % by drawing problems anew; all of it in {path}\n")
