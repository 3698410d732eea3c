"""`python -m pipelines measure both`: stability and fuzziness of the same proxies on the same corpus, for one page."""

from dataclasses import dataclass, fields
from typing import Any

from pipelines.measure import fuzziness, stability
from pipelines.measure.fuzziness import FuzzinessOptions
from pipelines.measure.options import MeasureOptions
from pipelines.measure.stability import StabilityOptions


@dataclass(frozen=True, kw_only=True)
class BothOptions(StabilityOptions):
    """Measure how much proxies' symbols change when text is edited, and which texts they confuse.

    Attributes:
        bytes: of text to encode for the second, from the corpus in its drawn order.
    """

    bytes: int = FuzzinessOptions.bytes


def run(options: BothOptions) -> None:
    """Measure, print, and write the results where asked.

    Raises:
        UserError: see the two commands.
    """
    stability.run(StabilityOptions(**_of(options, StabilityOptions)))
    fuzziness.run(FuzzinessOptions(**_of(options, FuzzinessOptions)))


def _of(options: BothOptions, kind: type[MeasureOptions]) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(kind)}
