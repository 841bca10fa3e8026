"""Trains a config with several methods, seeds and values of fields, and prints tables of the results.

    python tools/sweep.py --config configs/NAME.py --methods baseline,ds,dks --seeds 0-4
        [--set FIELD=V1,V2,...] [--output DIR] [--parallel N] [--config.FIELD=VALUE ...]

Each combination is a run in a workdir of its own in DIR, e.g. DIR/dks-seed3-weight_decay0.001, by a process
of `python -m dks_jax.train`, whose output goes to a file of this name with the ending .log. Started again,
the same command skips runs that are finished and goes on with the others. A run that fails does not end the
others; failures are listed at the end. A signal to the sweep is passed on: the runs that train are saved and
stop. Values are separated by commas, or by semicolons if there is one, since a value may hold commas.

The tables of tools/summarize.py go to the standard output, everything else to the standard error. The exit
status is 0 if all runs are finished, 1 if one has failed, 2 for wrong input, 128 and the number of the signal
if one has stopped the sweep.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from summary.reading import read_runs
from summary.rows import make_rows
from summary.tables import markdown
from sweeps.plan import PlannedRun, plan
from sweeps.processes import run_all

from dks_jax import command_line
from dks_jax.config import METHODS
from dks_jax.runtime import output


class Command(NamedTuple):
    """A parsed command line.

    runs: the runs of the sweep.
    parallel: number of runs at the same time.
    """

    runs: list[PlannedRun]
    parallel: int


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status, which the docstring of the module explains."""
    failures: dict[str, str] = {}
    status = command_line.run(lambda: failures.update(_sweep(parse(argv))))
    return status or int(bool(failures))


def _sweep(command: Command) -> dict[str, str]:
    unfinished = [run for run in command.runs if not run.is_finished]
    output.complain(f"{len(command.runs)} runs, of which {len(unfinished)} are to be trained")
    failures = run_all(unfinished, command.parallel)
    folders = [run.folder for run in command.runs if run.folder.name not in failures]
    if folders:
        runs, left_out = read_runs(folders)
        print(markdown(make_rows(runs), left_out), end="")
    for name, reason in failures.items():
        output.complain(f"failed: {name}: {reason}")
    return failures


def parse(argv: Sequence[str] | None) -> Command:
    """Parses a command line and plans its runs.

    Raises:
      InputError: an argument or the config of a run is wrong, or a workdir belongs to another run.
    """
    parser = command_line.Parser("python tools/sweep.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="config file")
    parser.add_argument("--methods", required=True, type=_methods, metavar="A,B,...", help="training methods")
    parser.add_argument("--seeds", required=True, type=_seeds, metavar="0-4|0,2,7", help="seeds")
    varied: Any = {"type": _varied, "action": "append", "default": [], "metavar": "FIELD=V1,V2,..."}
    meaning = "values of a field of the config; may be repeated, and all combinations are trained"
    parser.add_argument("--set", help=meaning, **varied)
    parser.add_argument("--output", metavar="DIR", help="folder of the workdirs; default: runs/<config>")
    parser.add_argument("--parallel", type=_positive, default=1, metavar="N", help="runs at the same time")
    arguments, fixed = parser.parse_with_overrides(sys.argv[1:] if argv is None else argv)
    folder = Path(arguments.output or Path("runs", Path(arguments.config).stem)).expanduser()
    runs = plan(
        arguments.config,
        methods=arguments.methods,
        seeds=arguments.seeds,
        varied=arguments.set,
        fixed=fixed,
        output=folder,
    )
    return Command(runs, arguments.parallel)


def _methods(text: str) -> list[str]:
    methods = list(dict.fromkeys(text.split(",")))
    if not METHODS.keys() >= {*methods}:
        raise argparse.ArgumentTypeError(f"must be some of {','.join(METHODS)}; got {text}")
    return methods


def _seeds(text: str) -> list[int]:
    seeds: dict[int, None] = {}
    for part in text.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
        found = range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1) if bounds else ()
        if not found:
            raise argparse.ArgumentTypeError(f"must be seeds such as 0-4 or 0,2,7; got {text}")
        seeds |= dict.fromkeys(found)
    return list(seeds)


def _varied(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be FIELD=V1,V2,... or FIELD=V1;V2;...; got {text}")
    return name, values.split(";" if ";" in values else ",")


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0; got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
