"""Signals as requests to stop, which the training loop follows between two steps.

The module is light, because the commands import it before anything that takes long.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Ctrl-C, a cluster's preemption, what Slurm's --signal sends, and a terminal that hangs up.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> Iterator[None]:
    """A context manager that installs a handler of SIGNALS and restores the previous handlers.

    A SIGHUP that is ignored, as under `nohup`, stays so.
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, earlier in zip(numbers, before, strict=True):
            signal.signal(number, earlier)


def imports_begin() -> None:
    """Has Ctrl-C end the program with one line and status 130, until `imports_end`.

    It is for the programs alone: a library must leave the signals to whoever imports it.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def imports_end() -> None:
    """Has Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) == _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    # An exception would be lost in an import that takes it for one of its own.
    del frame
    os.write(2, b"stopped during start-up: the same command starts again\n")
    os._exit(128 + number)


class Interrupted(KeyboardInterrupt):
    """A request to stop that has been followed.

    Args:
      number: number of the signal.
      message: sentence that says what was saved and how to resume.
      saved: whether the run was saved, by all processes of a job at the same step.
    """

    def __init__(self, number: int, message: str, *, saved: bool = False):
        super().__init__(message)
        self.number = number
        self.saved = saved

    @property
    def status(self) -> int:
        """The exit status, 128 and the number of the signal."""
        return 128 + self.number


class StopSignals:
    """Receives signals, within `handling(stop.receive)`, and defers them while the run must be saved first.

    deferred: whether the first signal is stored in `requested` instead of raising Interrupted at once; a
      second signal always raises it.
    requested: number of the stored signal, 0 if there is none.
    """

    def __init__(self) -> None:
        self.requested = 0
        self.deferred = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal; see `StopSignals`."""
        del frame
        if not self.deferred:
            raise Interrupted(number, "stopped before the first step: the same command starts again")
        if self.requested:
            raise Interrupted(
                number, "stopped at once: the same command goes on from the last checkpoint, if any"
            )
        self.requested = number
