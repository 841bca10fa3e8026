"""A side of a measurement in a process of its own, so that its peak memory is its own: the side that answers.

It is asked by a line with a name on its standard input, and answers with a line of JSON. Nothing here imports
JAX, which would be part of PyTorch's memory.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Requests = Mapping[str, Callable[[], Any]]


class UnmeasurableError(Exception):
    """What was asked for cannot be measured here; one sentence says why."""


def serve(build: Callable[[dict[str, Any]], Requests], *errors: type[Exception]) -> None:
    """Answers until nobody asks any more.

    Args:
      build: from the options to what can be asked for; what that returns fits into JSON.
      errors: beside UnmeasurableError, those that are an answer.
    """
    # Ctrl-C reaches every process of a terminal; the one that asks ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    # What libraries print is no answer.
    os.dup2(2, 1)
    requests: Requests | None = None
    for line in sys.stdin:
        try:
            if requests is None:
                requests = build(json.loads(sys.argv[1]))
            answer = {"value": requests[line.strip()]()}
        except (UnmeasurableError, *errors) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    # Not ru_maxrss of getrusage, which on Linux begins with that of the process that has started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise UnmeasurableError("The peak memory of a process is known on Linux alone.")
