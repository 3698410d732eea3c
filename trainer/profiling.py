"""A trace of a few steps, on request: where a step's time goes, for chrome://tracing or Perfetto.

Steps before FIRST are left out: they compile, warm up and fill caches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

FIRST = 5
FOLDER = "traces"


@contextmanager
def profiled(run: Path, steps: int, rank: int) -> Iterator[Callable[[], None]]:
    """Record steps FIRST .. FIRST + steps - 1 of this process.

    Args:
        run: folder of the run; the trace is traces/rank-K.json.gz in it.
        steps: to record; 0: none.
        rank: K.

    Yields:
        To be called after each step.
    """
    if steps == 0:
        yield lambda: None
        return

    def write(profiler: profile) -> None:
        (run / FOLDER).mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(run / FOLDER / f"rank-{rank}.json.gz"))

    activities = [each for each in (ProfilerActivity.CPU, ProfilerActivity.CUDA) if each in supported_activities()]
    plan = schedule(wait=FIRST - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step
