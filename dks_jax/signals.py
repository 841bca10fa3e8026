"""SIGTERM and Ctrl-C as a wish to stop, which the loop meets between two steps."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> Iterator[None]:
    """Has a handler receive SIGINT and SIGTERM within `with`; gives both back to those before."""
    before = [signal.signal(number, handler) for number in SIGNALS]
    try:
        yield
    finally:
        for number, earlier in zip(SIGNALS, before, strict=True):
            signal.signal(number, earlier)


class Interrupted(KeyboardInterrupt):
    """A wish to stop, met.

    message: what was saved, and how to go on.
    saved: whether the run was saved, all processes of a job in step.
    nothing_lost: whether it was, or had not begun.
    """

    def __init__(self, number: int, message: str, *, saved: bool = False, begun: bool = True):
        super().__init__(message)
        self.number = number
        self.saved = saved
        self.nothing_lost = saved or not begun

    @property
    def status(self) -> int:
        """Exit status: 130 after Ctrl-C, else 0 where nothing is lost, else 143, as if not caught."""
        if self.number == signal.SIGTERM and self.nothing_lost:
            return 0
        return 128 + self.number


class StopSignals:
    """Signals as `handling(stop.receive)` has them received.

    One raises Interrupted at once until `deferred` is set, and is kept afterwards. A second one raises
    Interrupted in any case.

    requested: the number of the signal that was kept, 0 where there was none.
    """

    def __init__(self) -> None:
        self.requested = 0
        self.deferred = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
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
