"""What all command lines share: wrong input is one sentence and exit status 2."""

import argparse
import sys
from typing import NoReturn

from dks_jax import hosts
from dks_jax.errors import InputError


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other wrong input is reported."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")


def report(error: Exception) -> int:
    """Prints an error that a user can do something about; returns the exit status. Raises any other one."""
    if gone := hosts.lost(error):
        print(f"error: {gone}", file=sys.stderr)
        return 1
    if isinstance(error, InputError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    # The operating system's own errors are about files: no space, no permission, a name too long.
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        print(
            f"error: {error.strerror or error}{place}: see that the file can be read or written and that "
            "there is room, and start the same command again.",
            file=sys.stderr,
        )
        return 2
    raise error
