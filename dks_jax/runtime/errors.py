"""The exception for wrong input, and helpers for error messages."""

from collections.abc import Iterable

LISTED = 5


class InputError(ValueError):
    """An input of the caller is wrong.

    The message is one sentence with the name of the input, its value, what is accepted and the remedy. The
    command lines print it and exit with status 2; any other exception is a bug in the library.
    """


def printable(text: str, limit: int = 60) -> str:
    """A text from a file for a message: on one line, control characters escaped, cut off at `limit`."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return escaped if len(text) <= limit else f"{escaped}..."


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def listing(names: Iterable[str]) -> str:
    """The first names of several, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
