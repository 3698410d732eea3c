"""A study as jobs of Slurm: a list of runs, and a script of an array that does one of them each. Not run here."""

import shlex
from pathlib import Path

from trainer.study.plan import Plan
from trainer.study.runs import Run

_SCRIPT = """\
#!/bin/sh
# {name}: {count} runs, one a job; a job that is stopped goes on when it is submitted again. Fill in what your cluster
# wants (account, partition, GPUs). Make the datasets first. The sizes of some runs follow from others: those are a
# second array, for after the first.
#   {python} -m trainer study --plan {plan} --out {out} --datasets-only
{arrays}#SBATCH --job-name=study-{name}
#SBATCH --signal=B:TERM@120
run=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {list})
exec srun {python} -m trainer study --plan {plan} --out {out} --only "$run"     # on as many GPUs as the plan says
"""


def write_jobs(plan: Plan, out: Path, runs: list[Run]) -> str:
    """Write `jobs.txt` and `jobs.sh` into the study's folder.

    Args:
        plan: of the study.
        out: its folder.
        runs: that are wanted; those that need no other come first.

    Returns:
        What to type.
    """
    ordered = sorted(runs, key=lambda run: run.arm.of is not None)
    first = sum(run.arm.of is None for run in ordered)
    count = len(ordered)
    names, script = out / "jobs.txt", out / "jobs.sh"
    names.write_text("".join(f"{run.name}\n" for run in ordered))
    quoted = shlex.quote(str(script))
    arrays = [f"#   sbatch --array=1-{first} {quoted}\n"] if first else []
    if first < count:
        after = "--dependency=afterok:JOB " if first else ""  # JOB: what the first says
        arrays.append(f"#   sbatch --array={first + 1}-{count} {after}{quoted}\n")
    script.write_text(
        _SCRIPT.format(
            name=plan.name, count=count, arrays="".join(arrays), list=shlex.quote(str(names)),
            plan=shlex.quote(str(out / "plan.json")), out=shlex.quote(str(out)), python=".venv/bin/python",
        )
    )  # fmt: skip
    return f"{count} runs in {names}; what to type is at the top of {script}"
