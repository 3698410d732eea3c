"""What a study found: its gate, its tables, bits per byte by scale and arm with the seeds' spread."""

from collections.abc import Collection

from pipelines.report import form_study, generic
from pipelines.report.forms import object_in, rows_in
from pipelines.report.markup import details
from pipelines.report.privacy import cleaned
from pipelines.report.runs import Object, as_object
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.secrets import redacted

RESULTS = "results.json"
PLAN = "plan.json"


def read(place: str) -> tuple[Object, Object]:
    """The results of a study and its plan; an empty one, where it has none.

    Raises:
        UserError: there are no results, or a damaged file.
    """
    folder = Folder(place)
    try:
        results = as_object(folder.read(RESULTS), folder.locate(RESULTS))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--study {redacted(place)}: no {RESULTS} there; run the study first") from None
    try:
        return results, as_object(folder.read(PLAN), folder.locate(PLAN))
    except (FileNotFoundError, NotADirectoryError):
        return results, {}


def section(results: Object, plan: Object, given: Collection[str]) -> str:
    """The section's HTML; see `privacy` for the paths that are given."""
    results = cleaned(results, given)
    plan = cleaned(plan or object_in(results, "plan"), given)
    known = form_study.drawn(results)
    if known is None:
        parts = [generic.rendered({key: value for key, value in results.items() if key != "plan"})]
    else:
        runs = [{key: value for key, value in run.items() if key != "curve"} for run in rows_in(results.get("runs"))]
        parts = [known, details("All figures of all runs", generic.rendered({"runs": runs}))]
    if plan:
        parts.append(details("The plan", generic.rendered(plan)))
    return "\n".join(parts)
