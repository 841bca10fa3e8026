"""Fits early exits: an image leaves at the first classifier that is sure enough, and costs no more.

    python -m dks_jax.early_exit --weights RUN [--config configs/NAME.py[:METHOD]]
        [--loss POINTS | --cost SHARE | --patience N] [--output FILE.json] [--curve FILE.png]
        [--config.FIELD=VALUE ...]

Temperatures and thresholds are fitted on one half of the held-out images; all that is reported is of the
other half. The wish is a loss of accuracy in points of % (0 without a
flag: the main classifier's accuracy), a mean cost as a share of the MACs of staying, or a number of
consecutive classifiers that agree. `python -m dks_jax.predict --exit FILE.json` follows the operating point.
The config gives the data, as in evaluation; where RUN is a run, its own config is the default. The network
computes in float32, as prediction does.

The exit status is 0, 2 for wrong input, 130 after Ctrl-C, 141 if nobody reads the standard output.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dks_jax.runtime import signals

if __name__ == "__main__":
    signals.imports_begin()

from dks_jax.command_line import ConfigParser, load_or_read_config, run
from dks_jax.config import Config
from dks_jax.inference import evaluation
from dks_jax.inference import report as evaluation_report
from dks_jax.inference.exits import curve, report
from dks_jax.inference.exits.study import Wish, require, study
from dks_jax.runtime import compilation, output
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write, require_writable

FIELDS = tuple(name for name in evaluation.FIELDS if name != "precision")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status, which the docstring of the module explains."""
    return run(lambda: _early_exit(parse(sys.argv[1:] if argv is None else argv)))


class Command(NamedTuple):
    """A parsed command line.

    weights: path of the weights.
    wish: what is wished.
    output, curve: files to write; None where the flag is absent.
    """

    config: Config
    weights: str
    wish: Wish
    output: Path | None
    curve: Path | None


def parse(argv: Sequence[str]) -> Command:
    """Parses a command line.

    Raises:
      InputError: a flag or a field of the config is wrong, or a file cannot be written.
    """
    parser = ConfigParser("python -m dks_jax.early_exit", __doc__, FIELDS, required=False)
    parser.add_weights()
    wishes = parser.add_mutually_exclusive_group()
    wishes.add_argument("--loss", type=float, metavar="POINTS", help="wished loss of accuracy, points of %%")
    wishes.add_argument("--cost", type=float, metavar="SHARE", help="wished mean cost, share of staying")
    wishes.add_argument("--patience", type=int, metavar="N", help="leave once N classifiers in a row agree")
    parser.add_argument("--output", metavar="FILE.json", help="file for the operating point")
    parser.add_argument(
        "--curve", metavar="FILE.png", help="file for the figure of error against cost and time"
    )
    arguments, overrides = parser.parse_with_overrides(argv)
    files = {}
    for name in ("output", "curve"):
        files[name] = getattr(arguments, name) and Path(getattr(arguments, name)).expanduser()
        if files[name]:
            require_writable(files[name], f"--{name}")
    if files["output"] and files["curve"] and files["output"].resolve() == files["curve"].resolve():
        raise InputError(f"`--curve` must name another file than `--output`; got {arguments.curve!r} twice.")
    wish = Wish(arguments.cost, arguments.loss, arguments.patience)
    if wish == Wish():
        wish = Wish(loss=0.0)
    _, config = load_or_read_config(arguments, overrides)
    config.precision = "float32"
    return Command(config, arguments.weights, wish, **files)


def _early_exit(command: Command) -> None:
    compilation.enable_cache()
    prepared = evaluation.prepare(command.config, command.weights)
    require(prepared, command.wish)
    output.say("\n".join(evaluation_report.describe(prepared)))
    result = study(prepared, command.wish, time_curve=command.curve is not None)
    # The files are written first because printing fails where nobody reads the output; the result is printed
    # even if a file cannot be written.
    try:
        if command.output:
            described = report.as_json(prepared, command.wish, result)
            with atomic_write(command.output) as partial:
                partial.write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")
        if command.curve:
            curve.draw(prepared, result, command.curve)
    finally:
        print(report.show(prepared, result), flush=True)


if __name__ == "__main__":
    signals.imports_end()
    sys.exit(main())
