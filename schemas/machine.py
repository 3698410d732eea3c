"""What this machine gives a process."""

import os


def available_cores() -> int:
    """Cores that this process may use; where a system does not say (macOS), all it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
