"""The commands of `python -m pipelines`."""

from collections.abc import Sequence

from schemas import command_line
from schemas.command_line import Command

COMMANDS = {
    "preprocess": Command("pipelines.preprocess", "PreprocessOptions", "preprocess", "corpus -> verified shards"),
    "summary": Command("pipelines.summary", "SummaryOptions", "run", "what a job did: speed, rejects, slowest units"),
    "plan": Command("pipelines.planning.plan_job", "PlanJobOptions", "run", "what a job of any size would take"),
    "verify": Command("pipelines.verify", "VerifyOptions", "run", "check every byte of a dataset"),
    "manifest": Command("pipelines.manifest", "ManifestOptions", "run", "make a dataset's manifest anew"),
    "inspect": Command("pipelines.inspect", "InspectOptions", "inspect", "show a document cut at its symbols"),
    "measure both": Command("pipelines.measure.both", "BothOptions", "run", "which proxy will work: the two below"),
    "measure stability": Command(
        "pipelines.measure.stability", "StabilityOptions", "run", "how much symbols change when text is edited"
    ),
    "measure fuzziness": Command(
        "pipelines.measure.fuzziness", "FuzzinessOptions", "run", "which different texts get the same symbols"
    ),
    "report": Command("pipelines.report.command", "ReportOptions", "report", "a dataset, runs, a study as one page"),
    "sql": Command("pipelines.sql", "SqlOptions", "sql", "DuckDB over a dataset"),
}


def run(arguments: Sequence[str]) -> int:
    """Run a command and return the exit status, see `schemas.command_line`."""
    return command_line.run("pipelines", COMMANDS, arguments)
