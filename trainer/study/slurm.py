"""A study as jobs of Slurm: a list of runs, and a script of an array that does one of them each. Not run here."""

import shlex
from pathlib import Path

from trainer.study.plan import Plan
from trainer.study.runs import Run

_SCRIPT = """\
#!/bin/sh
# {name}: {count} runs, one a job; a job that is stopped goes on when it is submitted again. Fill in what your cluster
# wants (account, partition, GPUs). Make the datasets first. The runs of the second array have sizes that follow from
# runs of the first: submit it after that.
#   {python} -m trainer study --plan {plan} --out {out} --datasets-only
#   sbatch --array=1-{first} {script}
#   sbatch --array={second}-{count} --dependency=afterok:JOB {script}
#SBATCH --job-name=study-{name}
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
    names, script = out / "jobs.txt", out / "jobs.sh"
    names.write_text("".join(f"{run.name}\n" for run in ordered))
    script.write_text(
        _SCRIPT.format(
            name=plan.name, count=len(ordered), first=first, second=first + 1, script=shlex.quote(str(script)),
            list=shlex.quote(str(names)), plan=shlex.quote(str(out / "plan.json")), out=shlex.quote(str(out)),
            python=".venv/bin/python",
        )
    )  # fmt: skip
    return f"{len(ordered)} runs in {names}; what to type is at the top of {script}"
