"""Several processes, usually one per host, that train together through `jax.distributed`."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dks_jax.errors import InputError, first_line
from dks_jax.signals import Interrupted, handling

T = TypeVar("T")

# By flag, the environment variable that stands for it.
VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


# Run beside a process of a job: speaks for it where JAX's runtime ends it without asking.
WATCHER = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not sys.stdin.read():
    print(sys.argv[1], file=sys.stderr)
"""


class LostHostError(RuntimeError):
    """Another process of the job is gone."""


class Membership(NamedTuple):
    """Number of this process among those of a job."""

    coordinator_address: str
    num_processes: int
    process_id: int


def membership(
    coordinator: str | None, num_processes: str | None, process_id: str | None
) -> Membership | None:
    """The place of this process in a job, from flags or else from the environment; None where neither tells.

    Args:
      coordinator: HOST:PORT of process 0, the same for all.
      num_processes: how many there are.
      process_id: number of this one, from 0.

    What is None is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      InputError: only a part is given, or a value is out of range.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    given = {name: os.environ.get(VARIABLES[name]) if v is None else v for name, v in given.items()}
    present = {name: value for name, value in given.items() if value}
    if not present:
        return None
    if absent := [name for name in given if name not in present]:
        raise InputError(
            f"`--{absent[0]}` (or {VARIABLES[absent[0]]}) must be given with `--{next(iter(present))}`: "
            "several processes need --coordinator HOST:PORT, --num_processes and --process_id."
        )
    if not re.fullmatch(r".+:\d+", present["coordinator"]):
        raise InputError(
            "`--coordinator` must be HOST:PORT of process 0, e.g. 10.0.0.1:1234; got "
            f"{present['coordinator']!r}."
        )
    for name in ("num_processes", "process_id"):
        if not present[name].isdecimal():
            raise InputError(f"`--{name}` must be a whole number; got {present[name]!r}.")
    count, number = int(present["num_processes"]), int(present["process_id"])
    if not 0 <= number < count:
        raise InputError(
            f"`--process_id` must be at least 0 and below --num_processes, {count}; got {number}."
        )
    return Membership(present["coordinator"], count, number)


@contextmanager
def job(place: Membership | None, *, detect: bool = False) -> Iterator[None]:
    """Within `with`, this process is one of a job's; alone where `place` is None and `detect` is not set.

    To be entered before anything is done with JAX. At the end all processes leave together, unless an error
    other than a saved interruption ends it.

    Args:
      place: see `membership`.
      detect: whether the cluster tells the place instead (SLURM, Open MPI, Cloud TPU, Kubernetes).

    Raises:
      InputError: the other processes cannot be reached.
    """
    if place is None and not detect:
        yield
        return
    # Training saves by itself when it is told to stop.
    jax.config.update("jax_enable_preemption_service", False)
    advice = (
        "check that all of them are started with the same coordinator, that its port is free, and that the "
        "network lets them reach it."
    )
    joining = _watched(f"The processes of the job could not be joined: {advice}")
    try:
        # A signal ends the process here, where Python would not see it for minutes.
        with joining, handling(signal.SIG_DFL):
            jax.distributed.initialize(**(place._asdict() if place else {}))
            # The first exchange waits for half a minute at most: here, where all are close together.
            wait_for_all("start")
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The processes of the job cannot be joined ({first_line(error)[:200]}): {advice}"
        ) from error
    gone = (
        f"Process {jax.process_index()} was ended from outside, most likely because another process of the "
        "job is gone: start all of them again to go on from the last checkpoint."
    )
    with _watched(gone):
        try:
            yield
        except Interrupted as interrupted:
            if interrupted.saved:
                jax.distributed.shutdown()
            raise
        jax.distributed.shutdown()


@contextmanager
def _watched(sentence: str) -> Iterator[None]:
    """Leaves a sentence where the process ends within `with` by other means than Python's.

    JAX's runtime does that where it notices before we do that process 0 is gone.
    """
    command = [sys.executable, "-I", "-S", "-c", WATCHER, f"error: {sentence}"]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        watcher.communicate(b"done")


def is_primary() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def wait_for_all(place: str) -> None:
    """Returns once all processes have come to this place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def on_primary(action: Callable[[], T]) -> T | None:
    """What an action gives that the primary process alone does; None on the others, once it is done.

    Raises:
      InputError: on the others, where the action has failed. The primary raises what the action did.
    """
    result, failure = None, None
    if is_primary():
        try:
            result = action()
        except Exception as error:
            failure = error
    (failed,) = largest(failure is not None)
    if failure:
        raise failure
    if failed:
        raise InputError("Process 0 of the job has stopped: its own message says why.")
    return result


def largest(*values: float) -> list[float]:
    """For each value, the largest that any process gave. All processes must call it."""
    if jax.process_count() == 1:
        return list(values)
    return multihost_utils.process_allgather(np.array(values, np.float32)).max(axis=0).tolist()


def lost(error: BaseException) -> LostHostError | None:
    """The error that says that another process is gone, where this is why `error` was raised."""
    if isinstance(error, LostHostError):
        return error
    # An InputError is a ValueError, and may well speak of a connection.
    if isinstance(error, InputError) or not jax.distributed.is_initialized():
        return None
    # A broken connection surfaces as a ValueError, a JaxRuntimeError or a TimeoutError, by backend and place.
    signs = r"gloo|nccl|coordination|connection|heartbeat|unavailable|deadline|barrier|timed out"
    if isinstance(error, ValueError | RuntimeError | OSError) and re.search(signs, str(error), re.IGNORECASE):
        return LostHostError(
            f"Process {jax.process_index()} stops, since another process of the job is gone "
            f"({first_line(error)[:200]}): start all of them again to go on from the last checkpoint."
        )
    return None


def leave(status: int) -> None:
    """Ends a process at once that has not left its job with all others: the usual end would wait for them."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
