"""Measuring sides against each other in one run, and naming where and when that was."""

import argparse
import contextlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.cores import num_cores
from dks_jax.runtime.errors import InputError

__all__ = ["InputError", "markdown_table"]

# Seconds of every round, by row and column of the table.
Rounds = dict[str, dict[str, list[float]]]
OURS = "dks_jax"


def positive(text: str) -> int:
    """A number of 1 or more, as argparse reads it."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more; got {text}")
    return int(text)


def add_count(parser: argparse.ArgumentParser, flag: str, default: int | None, meaning: str) -> None:
    """A flag that takes a number of 1 or more."""
    shown = "" if default is None else f"; default {default}"
    parser.add_argument(flag, type=positive, default=default, metavar="N", help=f"{meaning}{shown}")


def measure_rounds(measurements: Mapping[str, Mapping[str, Callable[[], Any]]], rounds: int) -> Rounds:
    """Measures all columns of each row in turn, after a round to warm up.

    A measurement that returns a float has taken its own time.
    """
    times: Rounds = {row: {name: [] for name in by_name} for row, by_name in measurements.items()}
    for i in range(1 + rounds):
        for row, name in ((row, name) for row, by_name in measurements.items() for name in by_name):
            if sys.stderr.isatty():
                print(f"\r\033[Kround {i} of {rounds}: {row}, {name}\r", end="", file=sys.stderr)
            begin = time.perf_counter()
            own = measurements[row][name]()
            seconds = own if isinstance(own, float) else time.perf_counter() - begin
            times[row][name] += [seconds] if i else []
    return times


def require_same_device(of_torch: str) -> None:
    """Raises InputError where JAX has several devices, or one of another kind than PyTorch, cpu or cuda."""
    ours, theirs = (jax.device_count(), jax.default_backend()), (1, of_torch.replace("cuda", "gpu"))
    if ours != theirs:
        raise InputError(
            f"JAX and PyTorch must use one device of the same kind; JAX has {ours} and PyTorch {theirs}: set "
            "JAX_PLATFORMS or CUDA_VISIBLE_DEVICES."
        )


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Median and range."""
    kept = list(values)
    median, least, most = (f"{v:.{digits}f}" for v in (statistics.median(kept), min(kept), max(kept)))
    return f"{median} ({least}-{most})"


def side_table(title: str, seconds: Rounds, value: Callable[[str, float], float], digits: int = 1) -> str:
    """A column for each side, a dash where it was not measured; `value` turns a row's seconds into a cell."""
    names = list(dict.fromkeys(name for own in seconds.values() for name in own))
    others = [name for name in names if name != OURS]
    rows = [[title, *names, *(f"ratio, {name.removeprefix('PyTorch ')}" for name in others)]]
    for row, own in seconds.items():
        shown = {name: spread((value(row, s) for s in values), digits) for name, values in own.items()}
        medians = {name: statistics.median(values) for name, values in own.items()}
        ratios = {name: f"{medians[name] / medians[OURS]:.2f}" for name in own}
        rows.append([row, *(shown.get(n, "-") for n in names), *(ratios.get(n, "-") for n in others)])
    return f"{markdown_table(rows)}\n\nratio: time of the other side over ours; above 1 dks_jax is faster"


def describe_run(load_average: float) -> dict[str, Any]:
    """Processor, device, versions, date, and the load of the machine by others, with a warning of it."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    run = {"processor": found[1] if found else platform.machine(), "cores": num_cores()}
    run["device"] = jax.devices()[0].device_kind
    for name in ("jax", "flax", "torch", "Pillow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            run[name] = metadata.version(name)
    run |= {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "load average before": round(load_average, 2),
    }
    if load_average > 0.5:
        # With one busy neighbour on two cores PyTorch's ResNet-50 fell from 13.8 to 3.8 images/s: after every
        # operation its threads wait for the slowest.
        run["warning"] = "others used the cores, which slows PyTorch's threads down most"
    return run
