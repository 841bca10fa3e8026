"""How long it takes to import the library, and to get from the start of a training to its first step.

Every measurement is a process of its own, and both sides of a comparison take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import OURS, require_positive, show_progress, spread
from dks_jax.errors import InputError
from dks_jax.tables import markdown_table

HELP = "importing the library, and the way to the first step of a training"
CONFIG = Path(__file__).parents[2] / "configs" / "digits_wrn.py"
DEPENDENCIES = "jax, flax.nnx, optax"
STARTS = ("cold", "warm")
IMPORT = """\
import time
begin = time.perf_counter()
import {}
print(time.perf_counter() - begin)
"""
NOTES = """\
import: in a fresh interpreter. first step: from the start of the process to the end of the first step of a
training, all that `python -m dks_jax.train` does; cold: compiled programs are kept in a folder that was
empty; warm: the same folder once more. config: all before the data, the devices among it. state: weights and
optimizer on the devices, logs, checkpoints. tracing, compiling, step: of the compiled training step."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the subcommand."""
    parser.add_argument(
        "--config", default=str(CONFIG), metavar="FILE[:METHOD]", help="what to train; default the digits"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of measurements that count")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every import, and of the parts of every start.

    Raises:
      InputError: an option is wrong, or a process has failed.
    """
    require_positive(options, ("rounds",))
    imports: dict[str, list[float]] = {"dks_jax": [], DEPENDENCIES: []}
    starts: dict[str, dict[str, list[float]]] = {start: {} for start in STARTS}
    total = (1 + options.rounds) * len(imports) + options.rounds * len(starts)
    done = 0
    for i in range(1 + options.rounds):
        for modules, seconds in imports.items():
            show_progress(done, total, f"import {modules}")
            measured = float(run(["-c", IMPORT.format(modules)], {}))
            done += 1
            # The first time the files come from the disk.
            if i:
                seconds.append(measured)
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for start, parts in starts.items():
                show_progress(done, total, f"first step, {start}")
                for part, seconds in first_step(options.config, Path(folder), start).items():
                    parts.setdefault(part, []).append(seconds)
                done += 1
    show_progress(total, total, "")
    return {
        "options": {"config": options.config, "rounds": options.rounds},
        "imports": imports,
        "first_step": starts,
    }


def first_step(config: str, folder: Path, name: str) -> dict[str, float]:
    """Seconds of the parts of a training's start, in a workdir of its own; see first_step.py.

    Args:
      config: as the training takes it.
      folder: where compiled programs are kept.
      name: of the workdir.
    """
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    flags = [f"--config={config}", f"--workdir={folder / name}"]
    printed = run(["-m", "benchmarks.first_step", repr(time.monotonic()), *flags], environment)
    return json.loads(printed.splitlines()[-1])


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What an interpreter of its own prints.

    Raises:
      InputError: it has failed.
    """
    # What this process can import the other can too.
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=dict(os.environ) | path | dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise InputError(f"A process that is measured has failed: {last.removeprefix('error: ')}")
    return done.stdout


def show(result: Mapping[str, Any]) -> str:
    """The tables of `measure`, and what their rows include."""
    options = result["options"]
    setting = f"{Path(options['config']).name}, {options['rounds']} rounds; median (range)"
    ours, theirs = result["imports"].values()
    ratio = statistics.median(ours) / statistics.median(theirs)
    imports = [
        ["import, s", OURS, DEPENDENCIES, "ratio"],
        ["", spread(ours, digits=2), spread(theirs, digits=2), f"{ratio:.2f}"],
    ]
    cold, warm = (result["first_step"][start] for start in STARTS)
    whole = [[sum(values) for values in zip(*parts.values(), strict=True)] for parts in (cold, warm)]
    starts = [
        ["first step, s", *STARTS],
        *([part, spread(cold[part], digits=2), spread(warm[part], digits=2)] for part in cold),
        ["sum", *(spread(seconds, digits=2) for seconds in whole)],
    ]
    return f"\n{setting}\n\n{markdown_table(imports)}\n\n{markdown_table(starts)}\n\n{NOTES}"
