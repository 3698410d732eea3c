"""`python -m trainer study`: all runs of a plan, one after the other or one a GPU, and the tables of what they gave.

Killed at any moment, the same command goes on; `--minutes` stops it cleanly before a limit. A run that fails is named
with its last line, and the others go on.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Queue

from schemas.errors import UserError
from schemas.files import write_whole
from schemas.names import MANIFEST
from trainer.evaluate.sandbox import kernel
from trainer.study.plan import Plan
from trainer.study.presets import PRESETS
from trainer.study.runs import RECORD, Run, check_datasets, data_folder, preprocess_command, runs_of
from trainer.study.slurm import write_jobs
from trainer.study.tables import write_tables

PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Compare ways to train, all by one command; the same command goes on.

    Attributes:
        preset: smoke, cpu, h200 or paper.
        plan: a file like the plan.json of a study, instead of a preset.
        corpus: instead of the plan's; `paper` has none of its own.
        out: folder of the study; default runs/study-NAME.
        gpus: runs at once, each on a GPU of its own; 0: one after the other, wherever torch runs.
        processes: of each run, by torchrun (FSDP); with --gpus 0; default the plan's.
        minutes: stop cleanly after so many; the next call goes on.
        only: names of runs, as --dry-run prints them; all others are left alone.
        datasets_only: make the datasets, train nothing: for a machine that trains and cannot make them.
        dry_run: print the runs, what is done of them and, after the first, how long the others take.
        slurm: write a job list and a script for Slurm, one job a run, instead of running anything.
    """

    preset: str = "cpu"
    plan: str | None = None
    corpus: str | None = None
    out: str | None = None
    gpus: int = 0
    processes: int | None = None
    minutes: float | None = None
    only: tuple[str, ...] = ()
    datasets_only: bool = False
    dry_run: bool = False
    slurm: bool = False

    def __post_init__(self) -> None:
        if self.plan is None and self.preset not in PRESETS:
            raise UserError(f"--preset {self.preset}: expected one of {', '.join(PRESETS)}")
        if self.processes is not None and (self.processes < 1 or (self.processes > 1 and self.gpus)):
            raise UserError("--processes must be 1 or more, and goes with --gpus 0: its processes take all GPUs")
        if self.gpus < 0 or (self.minutes is not None and self.minutes <= 0):
            raise UserError("--gpus must be 0 or more, --minutes more than 0")


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class _StoppedError(Exception):
    """The time is over."""


def study(options: StudyOptions) -> None:
    """The command.

    Raises:
        UserError: another plan in the folder, a dataset that cannot be made, or runs that failed.
    """
    plan = _read_plan(options)
    if not plan.corpus:
        raise UserError(f"plan {plan.name}: has no corpus of its own; give --corpus")
    out = Path(options.out or f"runs/study-{plan.name}")
    runs = runs_of(plan, out)
    is_new = _check_plan(out, plan, runs)
    if unknown := set(options.only) - {run.name for run in runs}:
        raise UserError(f"--only {' '.join(sorted(unknown))}: no such run; --dry-run lists them")
    wanted = [run for run in runs if not options.only or run.name in options.only]
    if options.dry_run:
        sys.stdout.write(_overview(wanted))
        return
    if is_new:
        _write_plan(out, plan)
    if options.slurm:
        sys.stdout.write(write_jobs(plan, out, wanted) + "\n")
        return
    worker = _Worker(None if options.minutes is None else time.monotonic() + 60 * options.minutes)
    signal.signal(signal.SIGTERM, _interrupted)
    failed: list[str] = []  # what failed before the time was over is told, too
    try:
        for dataset in plan.datasets:
            if any(run.arm.dataset == dataset.name for run in wanted):
                _make_dataset(worker, plan, dataset.name, out)
        if options.datasets_only:
            return
        check_datasets(runs)
        _run_all(worker, wanted, options.gpus, options.processes, failed)
    except _StoppedError:
        left = sum(run.record is None for run in wanted)
        _say(f"{options.minutes:g} minutes are over; {left} of {len(wanted)} runs are left: the same command goes on")
    check_datasets(runs)
    sys.stdout.write(write_tables(plan, out, runs))
    if failed:
        raise UserError(f"{len(failed)} of {len(wanted)} runs failed: {'; '.join(failed)}")


def _overview(runs: list[Run]) -> str:
    """A line for each run, and what is left."""
    lines, left, ids_done, seconds = [], 0, 0, 0.0
    for run in runs:
        record = run.record
        if record is not None:
            ids_done, seconds = ids_done + record["symbols"], seconds + record["seconds"]
            lines.append(f"done  {run.name}  {record['symbols']:,} ids, {record['seconds'] / 60:,.1f} min")
            continue
        try:
            size, about = run.size().symbols, ""
        except UserError:  # follows from a run that is not done
            size, about = run.scale.symbols, "at most "
        left += size
        lines.append(f"to do {run.name}  {about}{size:,} ids")
    lines.append(f"{sum(run.record is not None for run in runs)} of {len(runs)} runs are done, {left:,} ids are left")
    if ids_done and left:
        lines[-1] += (
            f": {left / ids_done * seconds / 3600:,.1f} h of training at {ids_done / seconds:,.0f} ids a second"
        )
    return "".join(f"{line}\n" for line in lines)


def _read_plan(options: StudyOptions) -> Plan:
    if options.plan is None:
        plan = PRESETS[options.preset]
    else:
        try:
            plan = Plan.from_json(Path(options.plan).read_bytes(), options.plan)
        except OSError as error:
            raise UserError(f"--plan {options.plan}: cannot be read ({error.strerror})") from None
    return plan if options.corpus is None else replace(plan, corpus=options.corpus)


def _check_plan(out: Path, plan: Plan, runs: list[Run]) -> bool:
    """See that the plan keeps every run that is done; it may grow, by seeds, arms or scales.

    Returns:
        Whether it is another one than the folder's.

    Raises:
        UserError: a run that is done is not in the plan, or would be another one.
    """
    path = out / PLAN
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give another --out") from None
    known = Plan.from_json(data, str(path))
    if known == plan:
        return False
    done = {run.name for run in runs_of(known, out) if (run.folder / RECORD).exists()}
    if lost := done - {run.name for run in runs}:
        raise UserError(
            f"{path}: another plan than this, without {', '.join(sorted(lost)[:5])}, which {_are(len(lost))} done; "
            f"give another --out, or --plan {path} to go on with it"
        )
    for run in runs:
        _ = run.record  # of this plan, or that is said
    return True


def _write_plan(out: Path, plan: Plan) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / PLAN, plan.to_json().encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from None


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


class _Worker:
    """Runs commands until a moment."""

    def __init__(self, until: float | None) -> None:
        self._until = until
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(self, command: list[str], log: Path, gpu: int | None = None) -> None:
        """One command of Python, `-m` and what follows, its output into a log.

        Raises:
            UserError: it failed, with its last line.
            _StoppedError: the time is over; the command was told to save and has ended.
        """
        environment = dict(os.environ)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            with self._lock:  # who ends all of them ends this one, too, or it does not begin
                self.check()
                process = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    # else a run would go on without the study, and meet itself when the study is called again
                    preexec_fn=partial(kernel.die_with_parent, signal.SIGTERM) if sys.platform == "linux" else None,
                )
                self._processes.add(process)
            try:
                left = None if self._until is None else max(0.0, self._until - time.monotonic())
                status = process.wait(left)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)  # a run saves and ends
                process.wait()
                raise _StoppedError from None
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
                with self._lock:
                    self._processes.discard(process)
        if self._ended:
            raise _StoppedError
        if status:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise UserError(f"{command[0]} ended with {status}: {lines[-1] if lines else 'no output'} ({log})")

    def check(self) -> None:
        """Go on only before the moment, and before `end`.

        Raises:
            _StoppedError: the time is over.
        """
        if self._ended or (self._until is not None and time.monotonic() > self._until):
            raise _StoppedError

    def end(self) -> None:
        """Tell all that run to save and end, and begin none."""
        with self._lock:
            self._ended = True
            for process in self._processes:
                process.terminate()


def _make_dataset(worker: _Worker, plan: Plan, name: str, out: Path) -> None:
    folder = data_folder(out, name)
    dataset = next(one for one in plan.datasets if one.name == name)
    made_from = json.dumps({"corpus": plan.corpus, "options": dataset.options}) + "\n"
    told = folder.with_name(f"{name}.json")
    if (folder / MANIFEST).exists():
        if not told.exists() or told.read_text() != made_from:
            raise UserError(f"{folder}: not made by this plan ({told}); delete both, and it is made anew")
        return
    _say(f"dataset {name}")
    told.parent.mkdir(parents=True, exist_ok=True)
    write_whole(told, made_from.encode())
    worker.run(["pipelines", *preprocess_command(plan, dataset, out)], out / "logs" / f"data-{name}.log")


def _run_all(worker: _Worker, runs: list[Run], gpus: int, processes: int | None, failed: list[str]) -> None:
    """Do what is not done; what failed is added, a line each."""
    places: Queue[int | None] = Queue()
    for gpu in range(gpus) if gpus else [None]:
        places.put(gpu)
    ended = {run.name: threading.Event() for run in runs}

    def work(run: Run) -> None:
        base = run.base()
        if base is not None and base.name in ended:
            ended[base.name].wait()
        gpu = places.get()
        try:
            _run_one(worker, run, gpu, processes)
        except (UserError, OSError) as error:
            failed.append(f"{run.name}: {error}")
            _say(f"failed: {run.name}: {error}")
        finally:
            places.put(gpu)
            ended[run.name].set()

    # in order, so whom a baseline waits for is done or has a thread
    with ThreadPoolExecutor(max(1, gpus)) as pool:
        futures = [pool.submit(work, run) for run in runs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            worker.end()
            raise


def _run_one(worker: _Worker, run: Run, gpu: int | None, processes: int | None) -> None:
    if run.record is not None:
        return
    worker.check()
    start = time.monotonic()
    _say(f"{run.name}: training")
    log = run.out / "logs" / f"{run.name}.log"
    processes = processes or (1 if gpu is not None else run.scale.processes)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--"]
    worker.run([*(launcher if processes > 1 else []), "trainer", *run.train_command()], log, gpu)
    for command in run.evaluate_commands():
        worker.run(["trainer", *command], log, gpu)
    record = run.make_record()
    write_whole(run.folder / RECORD, json.dumps(record, indent=1).encode() + b"\n")
    found = {name: record[f"{name}_bits_per_byte"] for name in ("raw", "comp")}
    figures = ", ".join(f"{name} {value:.3f} bits per byte" for name, value in found.items() if value is not None)
    _say(f"{run.name}: {figures}; {time.monotonic() - start:.0f} s")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
