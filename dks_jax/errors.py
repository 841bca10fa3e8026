"""The one exception that a user's input can raise, and what other errors say."""


class InputError(ValueError):
    """Something the caller gave is wrong.

    The message is one sentence: the name, its value, what is accepted and the remedy. The command
    lines print it and end with status 2; any other exception is a defect of the library.
    """


def printable(text: str, limit: int = 60) -> str:
    """A text out of a file, for a message: on one line, without control characters, cut off at `limit`."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return escaped if len(text) <= limit else f"{escaped}..."


def first_line(error: BaseException) -> str:
    """What an error says first, its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
