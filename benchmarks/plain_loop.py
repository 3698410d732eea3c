"""The preprocess command with its runner taken out: a plain loop calls the same work for the same units.

    python -m benchmarks.plain_loop PART PARTS OPTIONS...     # the options of `python -m pipelines preprocess`

Prints the seconds that the calls took. With PARTS of 2 it does every other unit and ends there, without a manifest:
two such processes at once are what two workers could do at best.
"""

import sys
import time
from typing import Any
from unittest.mock import patch

from pipelines import cli, preprocess
from pipelines.reading.plan import Unit
from pipelines.runners.running import Work


def main(part: int, parts: int, arguments: list[str]) -> int:
    """Run the command and return its exit status."""

    def loop(work: Work, units: list[Unit], *_: Any, **__: Any) -> None:
        start = time.perf_counter()
        for unit in units[part::parts]:
            work(unit)
        print(time.perf_counter() - start, flush=True)
        if parts > 1:
            sys.exit()

    with patch.object(preprocess, "run_units", loop):
        return cli.run(["preprocess", *arguments])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
