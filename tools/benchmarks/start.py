"""How long it takes to import the library, and to get from the start of a training to its first step.

Every measurement is a process of its own: a fresh interpreter that imports what training needs, or all that
`python -m dks_jax.train` does until its first step is finished. cold: the folder where compiled programs are
kept is empty. warm: it holds those of the cold start.
"""

import argparse
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import measuring, ours
from benchmarks.measuring import OURS

# The package itself imports its parts where they are used; this is the part for training.
IMPORTED = {OURS: "dks_jax.training", "jax, flax.nnx, optax": "jax, flax.nnx, optax"}
IMPORT = "import time; begin = time.perf_counter(); import {}; print(time.perf_counter() - begin)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = str(ours.CONFIGS / "digits_wrn.py")
    parser.add_argument("--config", default=default, metavar="FILE[:METHOD]", help="default the digits")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    ours.load(options.config, {}, {})
    with TemporaryDirectory() as folder:
        workdir, programs = Path(folder, "run"), Path(folder, "programs")

        def first_step(*before: Path) -> None:
            for path in before:
                shutil.rmtree(path, ignore_errors=True)
            flags = [f"--config={options.config}", f"--workdir={workdir}"]
            _run(ours.FIRST_STEP, *flags, JAX_COMPILATION_CACHE_DIR=str(programs))

        imports = {side: lambda m=m: float(_run(IMPORT.format(m))) for side, m in IMPORTED.items()}
        cold, warm = partial(first_step, workdir, programs), partial(first_step, workdir)
        rows = {"import": imports, "first step, cold": {OURS: cold}, "first step, warm": {OURS: warm}}
        return {"seconds": measuring.measure_rounds(rows, options.rounds)}


def _run(program: str, *arguments: str, **environment: str) -> str:
    """What a program in an interpreter of its own prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def show(result: dict[str, Any]) -> list[str]:
    return [measuring.side_table("s", result["seconds"], lambda _, seconds: seconds, digits=2)]
