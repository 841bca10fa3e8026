"""The processor cores of this machine."""

import os


def num_cores() -> int:
    """The number of cores that this process may use; of all cores where the system has no such limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
