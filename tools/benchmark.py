"""Measures this library beside PyTorch, both on this machine and in the same run.

    python tools/benchmark.py evaluate --root FOLDER [--model resnet50] [--batch_size 32] [--workers N]
        [--rounds 5] [--images N] [--json FILE]

The measurements alternate within each round; of the rounds, after one to warm up, the tables have the median
and the range. Every subcommand tells of itself with --help.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import compiled, evaluation, growth, loss, pipelines, start, train_step
from benchmarks.measuring import describe_run, show_run, write_json

from dks_jax import command_line
from dks_jax.files import require_writable

COMMANDS = {
    "train": train_step,
    "growth": growth,
    "evaluate": evaluation,
    "loss": loss,
    "input": pipelines,
    "start": start,
    "compiled": compiled,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return command_line.run(lambda: _benchmark(sys.argv[1:] if argv is None else argv))


def _benchmark(argv: Sequence[str]) -> None:
    options = parse(argv)
    command = COMMANDS[options.command]
    # That of others, since the work here is yet to begin.
    load_average = os.getloadavg()[0]
    result = command.measure(options) | describe_run(argv, load_average)
    print(f"{command.show(result)}\n\n{show_run(result)}")
    if options.json:
        write_json(options.json, result)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What a command line asks for.

    Raises:
      InputError: an argument is wrong; the subcommand checks those of its own as it begins.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = command_line.Parser(
        "python tools/benchmark.py", description=__doc__, formatter_class=layout, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=layout, allow_abbrev=False
        )
        module.add_arguments(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="where to write every figure as JSON")
    options = parser.parse_args(argv)
    if options.json:
        options.json = options.json.expanduser()
        require_writable(options.json, "--json")
    return options


if __name__ == "__main__":
    sys.exit(main())
