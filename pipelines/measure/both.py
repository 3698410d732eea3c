"""`python -m pipelines measure both`: stability and fuzziness of the same proxies on the same corpus, for one page."""

from dataclasses import dataclass, fields

from pipelines.measure import fuzziness, stability
from pipelines.measure.fuzziness import FuzzinessOptions
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
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    of_second = FuzzinessOptions(**{field.name: given[field.name] for field in fields(FuzzinessOptions)})
    stability.run(StabilityOptions(**{field.name: given[field.name] for field in fields(StabilityOptions)}))
    fuzziness.run(of_second)
