"""Standard output and standard error, whose reader may have gone, such as `head` or a closed terminal."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def unread() -> Iterator[None]:
    """A context manager for what is printed to standard output but need not be read.

    If the reader is gone, this and all later output is discarded.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # A closed pipe, and a terminal that has hung up.
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        discard()


def say(line: str) -> None:
    """Prints a line at once, if anybody reads it."""
    with unread():
        print(line)


def discard() -> None:
    """Leads standard output nowhere, so that what it has not written yet cannot fail when Python exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def complain(line: str) -> None:
    """Prints a line to standard error, if anybody reads it."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
