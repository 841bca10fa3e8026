"""A side of a measurement in a process of its own, so that its peak memory is its own.

It is sent the name of a request as a line, and answers with a line of JSON. Nothing here imports JAX, which
would add to the memory of PyTorch's processes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Ask = Callable[[str], Any]
Requests = Mapping[str, Callable[[], Any]]
# The side of the square matrices whose product shows what rate of arithmetic a side can reach.
MATRIX = 4096


class UnmeasurableError(Exception):
    """What was asked for cannot be measured here; one sentence says why."""


@contextlib.contextmanager
def worker(name: str, module: str, options: Mapping[str, Any]) -> Iterator[Ask]:
    """A process that runs a module, which calls `serve`, and the function that answers a request to it.

    The function raises InputError where the process cannot measure that, or has ended.
    """
    from benchmarks.measuring import InputError

    # Several such processes share an accelerator.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", module, json.dumps(options)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process: Any = subprocess.Popen(command, env=environment, **pipes)

    def ask(request: str) -> Any:
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(request, file=process.stdin, flush=True)
            line = process.stdout.readline()
        if not line:
            reason = "(-9: it was killed, as the system does where memory runs out)"
            raise InputError(f"The process of {name} has ended with status {process.wait()} {reason}.")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(f"{name}: {answer['error']}")
        return answer["value"]

    try:
        yield ask
    finally:
        process.kill()
        process.communicate()


def serve(build: Callable[[dict[str, Any]], Requests], *errors: type[Exception]) -> None:
    """Answers requests, made of the options by `build`, until nobody sends any more.

    errors: those that are an answer, beside UnmeasurableError.
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
    _, after = Path("/proc/self/status").read_text().split("VmHWM:")
    return int(after.split()[0]) * 1024
