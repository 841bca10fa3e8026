"""What all command lines share: flags, config overrides; wrong input is one sentence and status 2."""

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from dks_jax import configuration, hosts, models
from dks_jax.configuration import Config
from dks_jax.errors import InputError


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other wrong input is reported."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")

    def add_weights(self) -> None:
        """The flag --weights, as `load_network` takes it."""
        self.add_argument(
            "--weights",
            required=True,
            metavar="PATH",
            help="workdir of a run, folder of weights or PyTorch file",
        )


class ConfigParser(Parser):
    """A parser with the flag --config, whose fields --config.FIELD=VALUE replaces.

    Args:
      used: the fields that have an effect; () for all.
    """

    def __init__(self, program: str, description: str | None, used: Sequence[str] = ()):
        super().__init__(
            program,
            description=description,
            epilog=_fields_help(used),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--config", required=True, metavar="FILE[:METHOD]", help="config file and method")

    def parse_with_config(self, argv: Sequence[str]) -> tuple[argparse.Namespace, Config]:
        """The flags and the config.

        Raises:
          InputError: a flag or a field of the config is wrong.
        """
        overrides, rest = {}, []
        for argument in argv:
            if override := re.fullmatch(r"--config\.([^=]+)=(.*)", argument, re.DOTALL):
                overrides[override[1]] = override[2]
            else:
                rest.append(argument)
        arguments = self.parse_args(rest)
        return arguments, configuration.load(arguments.config, overrides)


def _fields_help(used: Sequence[str]) -> str:
    """The fields of a config, or those used, and their meaning, a line each."""
    meanings = {name: field.meaning for name, field in configuration.FIELDS.items()}
    for model in models.MODELS:
        meanings |= {f"model.{name}": f"of {model}" for name in models.arguments(model)}
    title = "fields of the config; others have no effect:" if used else "fields of the config:"
    return "\n".join([title, *(f"  --config.{name:34} {meanings[name]}" for name in used or meanings)])


def run(action: Callable[[], None], interrupted: str = "stopped: the same command starts again") -> int:
    """Does what a command line asks for; returns the exit status: 0, that of `report`, or 130 after Ctrl-C.

    Args:
      interrupted: what to say then.
    """
    silence_libraries()
    try:
        action()
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except Exception as error:
        return report(error)
    return 0


def silence_libraries() -> None:
    """Keeps back what libraries say beside the one sentence about an error, or about no error."""
    # Pillow warns of odd metadata, palettes and large images that it decodes all the same.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Orbax and its threads complain of an error that is reported too.
    for name in ("asyncio", "absl"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


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
