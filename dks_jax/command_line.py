"""What the command lines share: flags, overrides of config fields, and the report of an error."""

import argparse
import json
import logging
import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dks_jax import config, models
from dks_jax.config import Config, Field
from dks_jax.runtime import hosts, output
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.signals import Interrupted

# As of a program of the shell that SIGPIPE ends.
CLOSED_PIPE = 128 + signal.SIGPIPE


class Parser(argparse.ArgumentParser):
    """A parser that raises InputError for a wrong command line, and shows its description as written."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def print_help(self, file: Any = None) -> None:
        """Prints the help as argparse does, which would overlook that nobody reads it."""
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")

    def parse_with_overrides(self, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
        """Parses the flags, and collects the values of config fields as they are typed, by dotted name.

        Raises:
          InputError: a flag is wrong.
        """
        overrides, rest = {}, []
        for argument in argv:
            if override := re.fullmatch(r"--config\.([^=]+)=(.*)", argument, re.DOTALL):
                overrides[override[1]] = override[2]
            else:
                rest.append(argument)
        return self.parse_args(rest), overrides

    def add_weights(self) -> None:
        """Adds the flag --weights, whose value `load_network` accepts."""
        self.add_argument(
            "--weights",
            required=True,
            metavar="PATH",
            help="workdir of a finished run, folder of weights or PyTorch checkpoint",
        )


class ConfigParser(Parser):
    """A parser with the flag --config, and --config.FIELD=VALUE to set a field of the config.

    Args:
      program: name of the program in the usage line.
      description: text of --help above the flags.
      used: names of the fields that have an effect, which --help lists; () for all of them.
      required: whether --config must be given.
    """

    def __init__(
        self, program: str, description: str | None, used: Sequence[str] = (), *, required: bool = True
    ):
        super().__init__(
            program,
            description=description,
            epilog=_fields_help(used),
            allow_abbrev=False,
        )
        self.add_argument(
            "--config",
            required=required,
            metavar="FILE[:METHOD]",
            help="config file, or the name of one that comes with the library, and method",
        )

    def parse_with_config(self, argv: Sequence[str]) -> tuple[argparse.Namespace, Config]:
        """Parses the flags and loads the config with its overrides.

        Raises:
          InputError: a flag or a field of the config is wrong.
        """
        arguments, overrides = self.parse_with_overrides(argv)
        return arguments, models.load_config(arguments.config, overrides)


def load_or_read_config(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> tuple[str, Config]:
    """The path and the config that --config names, or, without it, those of the run of --weights.

    Raises:
      InputError: the config is wrong, or there is none because the weights are not those of a run.
    """
    if arguments.config is not None:
        return arguments.config, models.load_config(arguments.config, overrides)
    file, own = read_config(Path(arguments.weights).expanduser())
    config = models.restore_config(own, overrides)
    output.say(f"config: that of the run, {file}")
    return str(file), config


def read_config(weights: Path) -> tuple[Path, dict[str, Any]]:
    """The config.json of the run that weights belong to, and its config.

    Args:
      weights: a workdir, or the weights/ or best_weights/ in it.

    Raises:
      InputError: the weights are not those of a run.
    """
    folder = weights.parent if weights.name in ("weights", "best_weights") else weights
    file = folder / "config.json"
    try:
        fields = json.loads(file.read_text())["config"]
        if isinstance(fields, dict):
            return file, fields
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        pass
    raise InputError(
        f"`--config` must be given unless `--weights` names a run; {file} is no config.json of a run."
    )


def fields() -> dict[str, Field]:
    """The rows of the schema, with the names of all networks as the accepted words of `model.name`."""
    name = config.FIELDS["model.name"]._replace(words=tuple(models.NETWORKS))
    return config.FIELDS | {"model.name": name}


def _fields_help(used: Sequence[str]) -> str:
    """The list of fields in --help, with the default, the meaning and the accepted values of each."""
    rows = fields()
    for name, family in models.NETWORKS.items():
        rows |= {
            f"model.{argument}": row._replace(meaning=f"for {name}: {row.meaning}")
            for argument, row in family.arguments.items()
        }
    title = "fields of the config that have an effect:" if used else "fields of the config:"
    lines = (
        f"  --config.{name}={row.default!r}\n        {row.meaning} ({row.accepted})"
        for name, row in rows.items()
        if not used or name in used
    )
    return "\n".join([title, *lines])


def run(action: Callable[[], None], interrupted: str = "stopped: the same command starts again") -> int:
    """Runs the action of a command line and returns the exit status.

    Args:
      action: function that does the work.
      interrupted: message that is printed after Ctrl-C.

    Returns:
      0 on success, the status of `report` after an error, 130 after Ctrl-C, that of `Interrupted`.
    """
    silence_libraries()
    try:
        action()
        sys.stdout.flush()
    except Interrupted as stopped:
        output.complain(str(stopped))
        return stopped.status
    except KeyboardInterrupt:
        output.complain(interrupted)
        return 130
    except Exception as error:
        return report(error)
    return 0


def silence_libraries() -> None:
    """Silences warnings of harmless images, and log messages that repeat a reported error."""
    # Pillow warns of odd metadata, palettes and large images even though it decodes them.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Orbax and its threads log errors that `report` prints as well.
    for name in ("asyncio", "absl"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def report(error: Exception) -> int:
    """Prints an error that the user can act on and returns the exit status; raises any other error.

    Returns:
      1 if another process of the job is gone, 2 for wrong input and for errors of the operating system; 141,
      with nothing printed, if nobody reads the standard output.
    """
    if gone := hosts.lost(error):
        output.complain(f"error: {gone}")
        return 1
    if isinstance(error, InputError):
        output.complain(f"error: {error}")
        return 2
    if isinstance(error, BrokenPipeError) and not error.filename:
        output.discard()
        return CLOSED_PIPE
    # Errors of the operating system concern files: no space, no permission, a name that is too long.
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        output.complain(
            f"error: {error.strerror or error}{place}: see that the file can be read or written and that "
            "there is room, and start the same command again."
        )
        return 2
    raise error
