"""Measures this library beside PyTorch, both on this machine and in the same run.

    python tools/benchmark.py train --config configs/cifar100_wrn.py --depth 16 --width 2
    python tools/benchmark.py evaluate --root FOLDER

The measurements alternate within each round; after one round to warm up, the tables have the median and the
range. COMMAND --help describes a subcommand.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measuring import InputError, add_count, describe_run

from dks_jax import command_line
from dks_jax.runtime.files import atomic_write, require_writable

# A module of benchmarks for each.
COMMANDS = {
    "train": "the training step and the forward pass of a config, or the step against its sizes",
    "evaluate": "the evaluation on image files",
    "loss": "the loss and its gradient",
    "input": "the input pipelines, and what a step waits for them",
    "start": "importing the library, and the time to the first step of a training",
    "compiled": "what a step does, by the program compiled for it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return command_line.run(lambda: _benchmark(sys.argv[1:] if argv is None else argv))


def _benchmark(argv: Sequence[str]) -> None:
    options = parse(argv)
    # Before the work here begins, the load is that of others.
    load_average = os.getloadavg()[0]
    module: Any = vars(options).pop("module")
    measured = module.measure(options)
    given = {name: value for name, value in vars(options).items() if value}
    run, command = describe_run(load_average), shlex.join(["python", "tools/benchmark.py", *argv])
    result = {"options": given, "run": run, "command": command, **measured}
    heading, footing = (", ".join(f"{name} {own[name]}" for name in own) for own in (given, run))
    tables = [f"{heading}; median (range)", *module.show(result)]
    print("\n\n".join([*tables, module.__doc__.strip(), f"{footing}\n{command}"]))
    if options.json:
        with atomic_write(options.json) as partial:
            # Infinite figures and NaN have no place in JSON.
            partial.write_text(json.dumps(result, indent=2, allow_nan=False, default=str) + "\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What a command line asks for. Raises InputError for a wrong argument, or where PyTorch is missing."""
    parser = command_line.Parser("python tools/benchmark.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, meaning in COMMANDS.items():
        command = commands.add_parser(name, help=meaning, allow_abbrev=False)
        # The others are not imported, since not all of them need PyTorch.
        if name in argv[:1]:
            if name not in ("start", "compiled") and not find_spec("torch"):
                raise InputError(f"`{name}` needs PyTorch: pip install torch.")
            module = import_module(f"benchmarks.{name}")
            command.description = module.__doc__
            command.set_defaults(module=module)
            module.add_arguments(command)
            if name != "compiled":
                add_count(command, "--rounds", 5, "measurements that count")
            command.add_argument("--json", type=Path, metavar="FILE", help="where to write every figure")
    options, fields = parser.parse_with_overrides(argv)
    if fields and "fields" not in options:
        raise InputError(f"`--config.{next(iter(fields))}` is for train and compiled; got {options.command}.")
    if fields:
        options.fields = fields
    if options.json:
        options.json = options.json.expanduser()
        require_writable(options.json, "--json")
    return options


if __name__ == "__main__":
    sys.exit(main())
