"""Evaluates weights on held-out images: top-1 and top-5 error, likelihood and calibration.

    python -m dks_jax.evaluate --weights PATH [--config configs/NAME.py[:METHOD]] [--output FILE.json]
        [--predictions FILE.csv] [--logits FILE.npy] [--skip_unreadable] [--config.FIELD=VALUE ...]

The config gives the data (data.*), the precision and whether a GPU computes deterministically. Where PATH is
a run, its own config is the default. The network is the one that the weights belong to; each of its
classifiers is evaluated. --predictions writes a line for each image: its path, its class, the class that the
main classifier predicts with its probability, and the same two of each branch.

The exit status is 0, 2 for wrong input, 130 after Ctrl-C, 141 if nobody reads the standard output.
"""

import json
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from dks_jax.runtime import signals

if __name__ == "__main__":
    signals.imports_begin()

import numpy as np

from dks_jax.command_line import ConfigParser, load_or_read_config, run
from dks_jax.config import Config
from dks_jax.data import source
from dks_jax.inference import evaluation, report
from dks_jax.runtime import compilation, output
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write, require_writable


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status, which the docstring of the module explains."""
    return run(lambda: _evaluate(parse(sys.argv[1:] if argv is None else argv)))


class Command(NamedTuple):
    """A parsed command line.

    config_file: path of the config, from --config or of a run's config.json.
    weights: path of the weights.
    output, predictions, logits: files to write; None where the flag is absent.
    skip_unreadable: whether to leave out images that cannot be decoded.
    """

    config: Config
    config_file: str
    weights: str
    output: Path | None
    predictions: Path | None
    logits: Path | None
    skip_unreadable: bool


def parse(argv: Sequence[str]) -> Command:
    """Parses a command line.

    Raises:
      InputError: a flag or a field of the config is wrong, or an output file cannot be written.
    """
    parser = ConfigParser("python -m dks_jax.evaluate", __doc__, evaluation.FIELDS, required=False)
    parser.add_weights()
    parser.add_argument("--output", metavar="FILE.json", help="file for the result in JSON")
    parser.add_argument(
        "--predictions", metavar="FILE.csv", help="file for the predictions, a line for each image"
    )
    parser.add_argument(
        "--logits", metavar="FILE.npy", help="file for the logits, float32 [classifier, example, class]"
    )
    parser.add_argument(
        "--skip_unreadable",
        action="store_true",
        help="leave out images that cannot be decoded, and list them",
    )
    arguments, overrides = parser.parse_with_overrides(argv)
    config_file, config = load_or_read_config(arguments, overrides)
    if (
        arguments.skip_unreadable
        and config.data.test_per_class
        and source(config.data.source).read_for_labels
    ):
        raise InputError(
            f"`data.test_per_class` must be 0 for {config.data.source} with `--skip_unreadable`, because "
            f"choosing images by class decodes all of them; got {config.data.test_per_class}."
        )
    files = {name: _destination(arguments, name) for name in ("output", "predictions", "logits")}
    for (first, path), (second, other) in combinations(files.items(), 2):
        if path and other and path.resolve() == other.resolve():
            raise InputError(
                f"`--{second}` must name another file than `--{first}`; got {str(path)!r} twice."
            )
    return Command(config, config_file, arguments.weights, skip_unreadable=arguments.skip_unreadable, **files)


def _destination(arguments, name: str) -> Path | None:
    given = getattr(arguments, name)
    if given is None:
        return None
    path = Path(given).expanduser()
    require_writable(path, f"--{name}")
    return path


def _evaluate(command: Command) -> None:
    compilation.enable_cache()
    prepared = evaluation.prepare(command.config, command.weights)
    output.say("\n".join(report.describe(prepared)))
    result = evaluation.evaluate(
        prepared, skip_unreadable=command.skip_unreadable, keep_logits=command.logits is not None
    )
    # The files are written first because printing fails where nobody reads the output; the result is printed
    # even if a file cannot be written.
    try:
        write(command, prepared, result)
    finally:
        print(report.show(result), flush=True)


def write(command: Command, prepared: evaluation.Evaluation, result: evaluation.Result) -> None:
    """Writes the requested files, each completely or not at all."""
    if command.output:
        description = {**report.as_json(prepared, result), "config": command.config_file}
        with atomic_write(command.output) as partial:
            partial.write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")
    if command.predictions:
        table = report.as_csv(prepared, result)
        with atomic_write(command.predictions) as partial:
            # Names of files may be bytes that are no UTF-8.
            partial.write_text(table, encoding="utf-8", errors="surrogateescape", newline="")
    if command.logits and result.logits is not None:
        # Given a path, numpy.save would append .npy to its name.
        with atomic_write(command.logits) as partial, partial.open("wb") as file:
            np.save(file, result.logits)


if __name__ == "__main__":
    signals.imports_end()
    sys.exit(main())
