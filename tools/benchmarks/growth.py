"""Images per second of our training step against its sizes, from the batch to the number of devices.

Of every size the first value is that of the base case; a size with more values gets a table, in which the
other sizes are those of the base case. Every case runs in a process of its own, one at a time.
"""

import argparse
import os
import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks import our_training
from benchmarks.measuring import measure_rounds, require_positive, spread
from benchmarks.workers import Worker
from dks_jax.errors import InputError
from dks_jax.synergy import METHODS
from dks_jax.tables import markdown_table

HELP = "our training step against its sizes"
# The first value of each is that of the base case.
AXES = {
    "batch_size": ((64, 16, 32, 128, 256), "images in a batch"),
    "width": ((1, 2, 4), "of the wide ResNet"),
    "depth": ((16, 22, 28, 40), "of the wide ResNet"),
    "classifiers": (
        (3, 1, 2, 4, 5, 6),
        "the main one and branches; beyond 3, further ones like the first two",
    ),
    "classes": ((100, 10, 1000), "of the labels"),
    "devices": ((1, 2, 4), "virtual ones of a CPU, which share its cores"),
}
NOTES = """\
ratio: of the images per second to those of the base case, whose value comes first in each table. Random
images that lie on the device, not augmented."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the subcommand."""
    parser.add_argument(
        "--config", default="configs/cifar100_wrn.py", metavar="FILE[:METHOD]", help="config file and method"
    )
    for name, (values, meaning) in AXES.items():
        shown = " ".join(map(str, values))
        parser.add_argument(
            f"--{name}",
            type=int,
            nargs="+",
            default=values,
            metavar="N",
            help=f"{meaning}; base case first; default {shown}",
        )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of measurements that count")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="in a measurement; default 2")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of every case, by axis and value.

    Raises:
      InputError: an option is wrong.
    """
    require_positive(options, ("rounds", "steps"))
    axes = {name: list(dict.fromkeys(getattr(options, name))) for name in AXES}
    for name, values in axes.items():
        if min(values) < 1:
            raise InputError(f"`--{name}` must be 1 or more; got {min(values)}.")
    base = {name: values[0] for name, values in axes.items()}
    tables = {name: [base | {name: value} for value in values] for name, values in axes.items()}
    tables = {name: cases for name, cases in tables.items() if len(cases) > 1} or {"batch_size": [base]}
    for case in (case for cases in tables.values() for case in cases):
        _check(options, case)
    rates = {name: _measure_axis(options, name, cases) for name, cases in tables.items()}
    kept = {"config": options.config, "rounds": options.rounds, "steps": options.steps}
    return {"options": kept | axes, "base": base, "images_per_second": rates}


def _worker_options(options: argparse.Namespace, case: Mapping[str, int]) -> dict[str, Any]:
    fields = {"model.depth": "depth", "model.width": "width", "data.batch_size": "batch_size"}
    return {
        "config": options.config,
        "overrides": {field: str(case[name]) for field, name in fields.items()},
        "classes": case["classes"],
        "classifiers": case["classifiers"],
        "steps": options.steps,
    }


def _check(options: argparse.Namespace, case: Mapping[str, int]) -> None:
    """Raises InputError for a case that cannot be, before the first of them is measured."""
    setting = our_training.load(_worker_options(options, case))
    if setting.config.method == "baseline":
        methods = [method for method in METHODS if method != "baseline"]
        raise InputError(
            f"`method` must be one of {', '.join(methods)}; got {setting.config.method!r}: --classifiers 1 "
            "is the baseline."
        )
    if case["batch_size"] % case["devices"]:
        raise InputError(
            f"`--batch_size` must be a multiple of the devices, {case['devices']}; got {case['batch_size']}."
        )


def _measure_axis(
    options: argparse.Namespace, axis: str, cases: list[dict[str, int]]
) -> dict[str, list[float]]:
    """Images per second of every round, by the value of the axis."""
    with ExitStack() as stack:
        measurements = {}
        for case in cases:
            environment = _virtual_devices(case["devices"]) if axis == "devices" else {}
            name = f"{axis} {case[axis]}"
            worker = Worker(name, "benchmarks.our_training", _worker_options(options, case), environment)
            measurements[str(case[axis])] = partial(stack.enter_context(worker).ask, "train")
        times = measure_rounds({axis: measurements}, options.rounds)[axis]
    images = {str(case[axis]): options.steps * case["batch_size"] for case in cases}
    return {value: [images[value] / seconds for seconds in own] for value, own in times.items()}


def _virtual_devices(count: int) -> dict[str, str]:
    """The environment of a process that sees so many of them."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def show(result: Mapping[str, Any]) -> str:
    """A table for every axis."""
    options, base = result["options"], result["base"]
    tables = []
    for axis, rates in result["images_per_second"].items():
        first = statistics.median(next(iter(rates.values())))
        lines = [
            [value, spread(own), f"{statistics.median(own) / first:.2f}"] for value, own in rates.items()
        ]
        tables.append(markdown_table([[axis.replace("_", " "), "images/s", "ratio"], *lines]))
    case = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in base.items())
    setting = (
        f"\n{options['config']}; base case: {case}; {options['rounds']} rounds of {options['steps']} steps; "
        "median (range)"
    )
    return "\n\n".join([setting, *tables, NOTES])
