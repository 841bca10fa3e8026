"""Milliseconds of a training step of a config, and of the forward pass in evaluation mode, beside PyTorch.

All sides have the same weights and batches, which are random and lie on the device, and their losses must
agree. Each runs in a process of its own, one at a time.
training: from normalised images (dks_jax: uint8, normalised in the step; no augmentation) to the new weights;
on an accelerator dks_jax makes all steps of a measurement in one call, and the factors of float32 products
are rounded to TF32 on all sides.
evaluation: the backbone alone, to logits on the host, float32 in full. The released code has no backbone
alone: its branches are included.
x PyTorch, x fastest: how many times as fast as the plain PyTorch and as the fastest PyTorch in float32.
memory: largest resident memory of the process, or largest allocation on the GPU, while it trains.
arithmetic: three times the multiplications and additions of the forward pass's convolutions and matrix
products, over the time of a step, as a share of the rate of a large matrix product of that side.

With --vary, e.g. `--vary width=1,2,4 --vary "precision=float32;bfloat16"`, dks_jax alone is trained with each
value of a size, or of any field of the config, all others being as the other flags and the config say. ratio:
to the images per second of the first value.
classifiers: the main one and branches, beyond 3 further ones like the first two. devices: virtual ones of a
CPU, which share its cores.
"""

import argparse
import os
import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import jax
import numpy as np

from benchmarks import measuring, ours
from benchmarks.measuring import OURS, InputError, add_count, markdown_table, measure_rounds, spread
from benchmarks.torch_training import DEVICE, RELEASED, VARIANTS
from benchmarks.worker import MATRIX, Ask, worker

OUR_MODULE = "benchmarks.ours"
# Largest difference of the first two losses, relative to ours in float32. The second one has gone through the
# gradients and the optimizer, which multiply what rounding does.
TOLERANCES = {"float32": (1e-4, 1e-2), "bfloat16": (5e-2, 5e-1)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ours.add_arguments(parser)
    parser.add_argument("--bfloat16", action="store_true", help="measures in bfloat16 too")
    checkout = "checkout of github.com/sundw2014/DKS, to be measured too"
    parser.add_argument("--original", type=Path, metavar="DIR", help=checkout)
    varied: Any = {"type": _varied, "action": "append", "metavar": "NAME=V1,V2,..."}
    meaning = f"values of one of {', '.join(ours.SIZES)}; or FIELD=V1;V2;... of a field of the config"
    parser.add_argument("--vary", help=meaning, **varied)
    add_count(parser, "--steps", None, "steps in a measurement; default 2 on a CPU, else 50")


def _varied(text: str) -> tuple[str, list[int] | list[str]]:
    name, _, values = text.partition("=")
    if name in ours.SIZES:
        return name, [measuring.positive(value) for value in values.split(",")]
    if not values:
        raise argparse.ArgumentTypeError(f"must be NAME=V1,V2,... or FIELD=V1;V2;...; got {text}")
    # The value of a field may hold commas.
    return name, values.split(";")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    # All sides live on the device at the same time.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    options.steps = options.steps or (2 if jax.default_backend() == "cpu" else 50)
    given = {"config": options.config, "sizes": ours.given_sizes(options), "steps": options.steps}
    given["fields"] = ours.NOT_AUGMENTED | options.fields
    return _measure_sizes(options, given) if options.vary else _measure_sides(options, given)


def _measure_sizes(options: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    num_images, seconds = {}, {}
    for name, values in options.vary:
        group = "sizes" if name in ours.SIZES else "fields"
        cases = {str(value): given | {group: given[group] | {name: value}} for value in values}
        num_images[name] = {value: ours.load(**case).num_images for value, case in cases.items()}
        with ExitStack() as stack:
            asks = {v: stack.enter_context(worker(f"{name} {v}", OUR_MODULE, c)) for v, c in cases.items()}
            seconds[name] = _ask_all(asks, "train", options.rounds)
    return {"num_images": num_images, "seconds": seconds}


def _measure_sides(options: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    setting = ours.load(**given)
    measuring.require_same_device(DEVICE.type)
    theirs = ours.options_for_pytorch(setting, options.original)
    precisions = ("float32", "bfloat16") if options.bfloat16 else ("float32",)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        theirs["arrays"] = f"{folder}/arrays.npz"
        # The keywords of savez are the names of arrays, but for one that it declares.
        arrays = ours.network_for_pytorch(setting, ours.build_network(setting))
        np.savez(theirs["arrays"], **cast(Any, arrays | ours.batches_for_pytorch(setting)))
        sides = [
            (f"{OURS} {p}", OUR_MODULE, given | {"fields": given["fields"] | {"precision": p}})
            for p in precisions
        ]
        for name in [*VARIANTS, RELEASED] if options.original else VARIANTS:
            if _precision(name) in precisions:
                sides.append((name, "benchmarks.torch_training", theirs | {"variant": name}))
        asks = {side[0]: stack.enter_context(worker(*side)) for side in sides}
        losses, skipped = first_losses(asks)
        asks = {name: ask for name, ask in asks.items() if name not in skipped}
        seconds = {"training": _ask_all(asks, "train", options.rounds)}
        # Before anything else takes memory.
        memory = {name: ask("peak memory") for name, ask in asks.items()}
        seconds["evaluation"] = _ask_all(asks, "forward", options.rounds)
        of_a_kind = {_kind(name): ask for name, ask in reversed(asks.items())}
        seconds["product"] = _ask_all(of_a_kind, "product", options.rounds)
        arithmetic = asks[f"{OURS} float32"]("arithmetic")
    result = {"num_images": setting.num_images, "losses": losses, "skipped": skipped, "seconds": seconds}
    return {**result, "peak_memory_bytes": memory, **arithmetic}


def _ask_all(asks: Mapping[str, Ask], request: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of a request to each process in every round."""
    return measure_rounds({request: {k: partial(ask, request) for k, ask in asks.items()}}, rounds)[request]


def first_losses(workers: Mapping[str, Ask]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The first losses of every side, and why some are left out. Raises InputError where they differ."""
    losses, skipped = {}, {}
    for name, ask in workers.items():
        try:
            losses[name] = ask("first losses")
        except InputError as error:
            if not name.endswith("compiled"):
                raise
            skipped[name] = str(error)
            continue
        expected, tolerances = losses[f"{OURS} float32"], TOLERANCES[_precision(name)]
        for own, theirs, tolerance in zip(expected, losses[name], tolerances, strict=False):
            # Written so that it holds for NaN too.
            if not abs(theirs - own) < tolerance * abs(own):
                raise InputError(
                    f"The first losses of {name} must be those of {OURS} in float32, {expected}, but for "
                    f"{tolerance:g} of them; they are {losses[name]}: how fast they are cannot be compared."
                )
    return losses, skipped


def _precision(name: str) -> str:
    return "bfloat16" if "bfloat16" in name else "float32"


def _kind(name: str) -> str:
    """The library and the precision of a side, by which its matrix product goes."""
    return f"{OURS if name.startswith(OURS) else 'PyTorch'} {_precision(name)}"


def show(result: dict[str, Any]) -> list[str]:
    return _show_sizes(result) if "vary" in result["options"] else _show_sides(result)


def _show_sizes(result: Mapping[str, Any]) -> list[str]:
    tables = []
    for name, cases in result["seconds"].items():
        rates = {v: [result["num_images"][name][v] / s for s in own] for v, own in cases.items()}
        medians = [statistics.median(own) for own in rates.values()]
        lines = [[v, spread(rates[v]), f"{m / medians[0]:.2f}"] for v, m in zip(rates, medians, strict=True)]
        tables.append(markdown_table([[name.replace("_", " "), "images/s", "ratio"], *lines]))
    return tables


def _show_sides(result: Mapping[str, Any]) -> list[str]:
    steps, gflop = result["options"]["steps"], 6e-9 * result["macs"]
    products = result["seconds"]["product"].items()
    gflops = {kind: 2e-9 * MATRIX**3 * steps / statistics.median(own) for kind, own in products}
    tables = []
    for row in ("training", "evaluation"):
        sides = result["seconds"][row]
        medians = {name: statistics.median(own) for name, own in sides.items()}
        theirs = [name for name in medians if not name.startswith(OURS) and _precision(name) == "float32"]
        fastest = min(medians[name] for name in theirs)
        lines = [[row, "ms", "images/s", "x PyTorch", "x fastest", "memory, MiB", "arithmetic"]]
        for name, median in medians.items():
            line = [name, spread(1e3 * seconds / steps for seconds in sides[name])]
            line += [f"{result['num_images'] / median:.1f}"]
            line += [f"{other / median:.2f}" for other in (medians[VARIANTS[0]], fastest)]
            line += [f"{result['peak_memory_bytes'][name] / 2**20:.0f}"]
            lines.append([*line, f"{100 * gflop * steps / median / gflops[_kind(name)]:.0f} %"])
        # Memory and arithmetic are those of the training.
        tables.append(markdown_table(lines if row == "training" else [line[:-2] for line in lines]))
    losses = ", ".join(f"{name} {own[0]:.6g}" for name, own in result["losses"].items())
    rates = ", ".join(f"{kind} {rate:.1f}" for kind, rate in gflops.items())
    by_xla = f"by XLA's count {1e-9 * result['flops']:.4g}"
    figures = [*(f"left out: {reason}" for reason in result["skipped"].values()), f"first loss: {losses}"]
    figures.append(f"GFLOP/s of the product of two matrices of {MATRIX}x{MATRIX}: {rates}")
    figures.append(f"GFLOP of a step: {gflop:.4g} (3 x 2 x MACs of the forward pass), {by_xla}")
    return [*tables, "\n".join(figures)]
