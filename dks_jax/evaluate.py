"""Evaluates weights on held-out images: top-1 and top-5 error, likelihood and calibration.

    python -m dks_jax.evaluate --config configs/NAME.py[:METHOD] --weights PATH [--output FILE.json]
        [--logits FILE.npy] [--skip_unreadable] [--config.FIELD=VALUE ...]

The config says which data to take (data.*), the precision and whether to be deterministic; the network is the
one that the weights describe, and each of its classifiers is evaluated.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dks_jax import compilation, evaluation, evaluation_report
from dks_jax.command_line import ConfigParser, run
from dks_jax.configuration import Config
from dks_jax.errors import InputError
from dks_jax.files import replacing, require_writable

# The fields of a config that have an effect.
FIELDS = (
    "precision",
    "deterministic",
    *("data.source", "data.name", "data.root", "data.image_size", "data.preprocessing"),
    *("data.mean", "data.std", "data.test_per_class", "data.batch_size"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return run(lambda: _evaluate(parse(sys.argv[1:] if argv is None else argv)))


class Command(NamedTuple):
    """What a command line asks for.

    output, logits: files to write, None for none.
    """

    config: Config
    config_file: str
    weights: str
    output: Path | None
    logits: Path | None
    skip_unreadable: bool


def parse(argv: Sequence[str]) -> Command:
    """Reads a command line.

    Raises:
      InputError: a flag or a field of the config is wrong, or a file cannot be written where it is wanted.
    """
    parser = ConfigParser("python -m dks_jax.evaluate", __doc__, FIELDS)
    parser.add_weights()
    parser.add_argument("--output", metavar="FILE.json", help="where to write the result as JSON")
    parser.add_argument(
        "--logits", metavar="FILE.npy", help="where to write the logits, float32 [classifier, example, class]"
    )
    parser.add_argument(
        "--skip_unreadable",
        action="store_true",
        help="leave out images that cannot be decoded, and list them",
    )
    arguments, config = parser.parse_with_config(argv)
    if arguments.skip_unreadable and config.data.source == "tfds" and config.data.test_per_class:
        raise InputError(
            "`data.test_per_class` must be 0 for tfds with `--skip_unreadable`, since images that are chosen "
            f"by class are all decoded before; got {config.data.test_per_class}."
        )
    output, logits = (_destination(arguments, name) for name in ("output", "logits"))
    if output and logits and output.resolve() == logits.resolve():
        raise InputError(
            f"`--logits` must name another file than `--output`; got {arguments.logits!r} twice."
        )
    return Command(config, arguments.config, arguments.weights, output, logits, arguments.skip_unreadable)


def _destination(arguments, name: str) -> Path | None:
    given = getattr(arguments, name)
    if given is None:
        return None
    path = Path(given).expanduser()
    require_writable(path, f"--{name}")
    return path


def _evaluate(command: Command) -> None:
    compilation.keep_programs()
    setting = evaluation.prepare(command.config, command.weights)
    print("\n".join(evaluation_report.describe(setting)), flush=True)
    result = evaluation.evaluate(
        setting, skip_unreadable=command.skip_unreadable, keep_logits=command.logits is not None
    )
    # Shown even where a file cannot be written, and written even where nobody reads what is shown.
    try:
        write(command, setting, result)
    finally:
        print(evaluation_report.show(result), flush=True)


def write(command: Command, setting: evaluation.Setting, result: evaluation.Result) -> None:
    """Writes the files that are wanted, each of them whole or not at all."""
    if command.output:
        description = {**evaluation_report.as_json(setting, result), "config": command.config_file}
        with replacing(command.output) as partial:
            partial.write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")
    if command.logits and result.logits is not None:
        # numpy.save would add .npy to the name of a path.
        with replacing(command.logits) as partial, partial.open("wb") as file:
            np.save(file, result.logits)


if __name__ == "__main__":
    sys.exit(main())
