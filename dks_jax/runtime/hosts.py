"""Jobs of several processes, usually one per host, that train together through `jax.distributed`."""

import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from dks_jax.runtime.errors import InputError, first_line
from dks_jax.runtime.signals import Interrupted, handling

T = TypeVar("T")

# The environment variable for each flag.
VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


class LostHostError(RuntimeError):
    """Another process of the job is gone."""


class ProcessInfo(NamedTuple):
    """The place of this process in a job.

    coordinator_address: HOST:PORT of process 0.
    num_processes: number of processes in the job.
    process_id: number of this process, from 0.
    """

    coordinator_address: str
    num_processes: int
    process_id: int


def process_info(
    coordinator: str | None, num_processes: str | None, process_id: str | None
) -> ProcessInfo | None:
    """The place of this process in a job, from flags or the environment; None if neither gives any value.

    An argument that is None is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES or JAX_PROCESS_ID.

    Args:
      coordinator: HOST:PORT of process 0, the same for all processes.
      num_processes: number of processes in the job.
      process_id: number of this process, from 0.

    Raises:
      InputError: only some of the values are given, or a value is malformed or out of range.
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
    return ProcessInfo(present["coordinator"], count, number)


@contextmanager
def job(process: ProcessInfo | None, *, detect: bool = False) -> Iterator[None]:
    """A context manager within which this process belongs to a job; enter it before any other use of JAX.

    At the end all processes leave the job together, unless an error other than a saved interruption ended the
    block. Without `process` and `detect` the process is alone.

    Args:
      process: place of this process; see `process_info`.
      detect: whether the cluster (SLURM, Open MPI, Cloud TPU, Kubernetes) gives the place instead.

    Raises:
      InputError: the other processes cannot be reached.
    """
    if process is None and not detect:
        yield
        return
    # The training loop itself saves on a signal to stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # The default handlers end the process here, where Python's would not run for minutes.
        with handling(signal.SIG_DFL):
            jax.distributed.initialize(**(process._asdict() if process else {}))
            # The first exchange waits at most half a minute, so it comes here, where all are in step.
            _wait_for_all("start")
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The processes of the job cannot be joined ({first_line(error)[:200]}): check that all of them "
            "are started with the same coordinator, that its port is free, and that the network lets them "
            "reach it."
        ) from error
    try:
        yield
    except Interrupted as interrupted:
        if interrupted.saved:
            jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


def is_primary() -> bool:
    """Whether this process is the one that writes the files of the job."""
    return jax.process_index() == 0


def _wait_for_all(place: str) -> None:
    """Waits until all processes have reached this place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def on_primary(action: Callable[[], T]) -> T | None:
    """Runs an action on the primary process only, while the others wait.

    Returns:
      The result of the action on the primary process, None on the others.

    Raises:
      InputError: on the other processes, if the action failed; the primary raises the action's own error.
    """
    result, failure = None, None
    if is_primary():
        try:
            result = action()
        except Exception as error:
            failure = error
    (failed,) = max_over_processes(failure is not None)
    if failure:
        raise failure
    if failed:
        raise InputError("Process 0 of the job has stopped: its own message says why.")
    return result


def from_primary(action: Callable[[], T]) -> T:
    """The result of an action, which only the primary process runs and whose result is sent to the others.

    Raises:
      InputError: as for `on_primary`.
    """
    result = on_primary(action)
    if jax.process_count() > 1:
        content = np.frombuffer(pickle.dumps(result), np.uint8) if is_primary() else np.zeros(0, np.uint8)
        size = int(broadcast(np.array(content.size)))
        result = pickle.loads(broadcast(content if is_primary() else np.zeros(size, np.uint8)).tobytes())
    return cast(T, result)


def broadcast(tree: Any) -> Any:
    """The arrays of the primary process, to the bit, on all; the others give arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    # As bytes, because the arrays are added up with zeros, which would change -0.0.
    sent = multihost_utils.broadcast_one_to_all(jax.tree.map(lambda x: np.ravel(x).view(np.uint8), tree))
    return jax.tree.map(lambda x, own: np.asarray(own).view(x.dtype).reshape(x.shape), tree, sent)


def max_over_processes(*values: float) -> list[float]:
    """The maximum of each value over all processes, all of which must call this function."""
    if jax.process_count() == 1:
        return list(values)
    return multihost_utils.process_allgather(np.array(values, np.float32)).max(axis=0).tolist()


def lost(error: BaseException) -> LostHostError | None:
    """The error to report if `error` was raised because another process is gone; None otherwise."""
    if isinstance(error, LostHostError):
        return error
    # An InputError is a ValueError, and its message may mention a connection.
    if isinstance(error, InputError) or not jax.distributed.is_initialized():
        return None
    # The backend and the place decide whether this is a ValueError, a JaxRuntimeError or a TimeoutError.
    signs = r"gloo|nccl|coordination|connection|heartbeat|unavailable|deadline|barrier|timed out"
    if isinstance(error, ValueError | RuntimeError | OSError) and re.search(signs, str(error), re.IGNORECASE):
        return LostHostError(
            f"Process {jax.process_index()} stops because another process of the job is gone "
            f"({first_line(error)[:200]}): start all of them again to go on from the last checkpoint."
        )
    return None


def leave(status: int) -> None:
    """Ends this process at once if it is still in a job, because a normal exit would wait for the others."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
