"""Measuring sides against each other in one run, and saying where and when that was."""

import contextlib
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from dks_jax.errors import InputError
from dks_jax.files import replacing

# Seconds of every round, by row and column of the table.
Times = dict[str, dict[str, list[float]]]
Measurements = Mapping[str, Mapping[str, Callable[[], Any]]]

OURS = "dks_jax"
PACKAGES = ("jax", "flax", "torch", "Pillow")
# Load average from which on the figures are not to be trusted.
BUSY = 0.5


def measure_rounds(measurements: Measurements, rounds: int) -> Times:
    """Seconds of every round; of each row one column after another, and a round before to warm up."""
    times: Times = {row: {name: [] for name in by_name} for row, by_name in measurements.items()}
    total = (1 + rounds) * sum(map(len, measurements.values()))
    done = 0
    for _ in range(1 + rounds):
        for row, by_name in measurements.items():
            for name, run in by_name.items():
                show_progress(done, total, f"{row}, {name}")
                begin = time.perf_counter()
                run()
                times[row][name].append(time.perf_counter() - begin)
                done += 1
    show_progress(total, total, "")
    return {row: {name: seconds[1:] for name, seconds in by_name.items()} for row, by_name in times.items()}


def show_progress(done: int, total: int, what: str) -> None:
    """A line on a terminal that says what is being measured; it vanishes at the end."""
    if sys.stderr.isatty():
        line = f"{done + 1} of {total} measurements: {what}" if done < total else ""
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def require_positive(options: Any, names: Iterable[str]) -> None:
    """Raises InputError where an option of these names is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise InputError(f"`--{name}` must be 1 or more; got {getattr(options, name)}.")


def require_same_device(of_torch: str) -> None:
    """Raises InputError where JAX has several devices, or one of another kind than PyTorch, cpu or cuda."""
    platform_of_torch = {"cpu": "cpu", "cuda": "gpu"}[of_torch]
    if (jax.device_count(), jax.default_backend()) != (1, platform_of_torch):
        raise InputError(
            f"JAX and PyTorch must use one device of the same kind; JAX has {jax.device_count()} "
            f"{jax.default_backend()} and PyTorch {platform_of_torch}: set JAX_PLATFORMS or "
            "CUDA_VISIBLE_DEVICES."
        )


def spread(values: Sequence[float] | None, digits: int = 1) -> str:
    """Median and range, a dash where nothing was measured."""
    if not values:
        return "-"
    median, least, most = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least}-{most})"


def ratio(rates: Mapping[str, Sequence[float]]) -> str:
    """Our median rate over that of the fastest other column."""
    medians = {name: statistics.median(own) for name, own in rates.items()}
    return f"{medians.pop(OURS) / max(medians.values()):.2f}"


def describe_run(argv: Iterable[str], load_average: float) -> dict[str, Any]:
    """Machine, versions, date, load of the machine by others, and command."""
    return {
        "cpu": cpu_model(),
        "cores": num_cores(),
        "device": jax.devices()[0].device_kind,
        "versions": dict(_versions()),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "load_average_before": load_average,
        "command": shlex.join(["python", "tools/benchmark.py", *argv]),
    }


def _versions() -> Iterable[tuple[str, str]]:
    """Of the packages that are installed."""
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def show_run(run: Mapping[str, Any]) -> str:
    """What `describe_run` has found, in two lines; a third warns of load."""
    load = run["load_average_before"]
    # With one busy neighbour on two cores PyTorch's ResNet-50 fell from 13.8 to 3.8 images/s: after every
    # operation its threads wait for the slowest.
    busy = "\nwarning: others used the cores, which slows PyTorch's threads down most" if load > BUSY else ""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        f"{run['cpu']}, {run['cores']} cores, device {run['device']}; "
        f"{versions}; {run['date']}; load average before "
        f"{load:.2f}\n{run['command']}{busy}"
    )


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Writes all figures; infinite ones and NaN have no place there."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """The processor's name as Linux has it, else what Python knows."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
