"""SIGTERM and Ctrl-C as requests to stop, which the training loop follows between two steps."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> Iterator[None]:
    """A context manager that installs a handler of SIGINT and SIGTERM and restores the previous handlers."""
    before = [signal.signal(number, handler) for number in SIGNALS]
    try:
        yield
    finally:
        for number, earlier in zip(SIGNALS, before, strict=True):
            signal.signal(number, earlier)


class Interrupted(KeyboardInterrupt):
    """A request to stop that has been followed.

    Args:
      number: number of the signal.
      message: sentence that says what was saved and how to resume.
      saved: whether the run was saved, by all processes of a job at the same step.
      begun: whether training had begun.

    Attributes:
      nothing_lost: whether the run was saved or had not begun.
    """

    def __init__(self, number: int, message: str, *, saved: bool = False, begun: bool = True):
        super().__init__(message)
        self.number = number
        self.saved = saved
        self.nothing_lost = saved or not begun

    @property
    def status(self) -> int:
        """The exit status: 130 after Ctrl-C; after SIGTERM 0 if nothing is lost, else 143."""
        if self.number == signal.SIGTERM and self.nothing_lost:
            return 0
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
            raise Interrupted(
                number, "stopped before the first step: the same command starts again", begun=False
            )
        if self.requested:
            raise Interrupted(
                number, "stopped at once: the same command goes on from the last checkpoint, if any"
            )
        self.requested = number
