"""What a study found: its gate, its tables, bits per byte by scale and arm with the seeds' spread."""

from collections.abc import Collection

from pipelines.report import generic
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
    parts = [generic.rendered(cleaned(results, given))]
    if plan:
        parts.append(details("The plan", generic.rendered(cleaned(plan, given))))
    return "\n".join(parts)
