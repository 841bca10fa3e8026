"""Milliseconds of a training step of a config, and of the forward pass in evaluation mode, beside PyTorch.

Random images and labels that lie on the device; the same weights and batches on all sides, whose losses must
agree. Each side runs in a process of its own, one at a time.
"""

import argparse
import os
import statistics
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import our_training
from benchmarks.measuring import (
    OURS,
    measure_rounds,
    require_positive,
    require_same_device,
    show_progress,
    spread,
)
from benchmarks.our_training import Setting
from benchmarks.workers import Worker
from dks_jax import models, optim
from dks_jax.data.augment import normalise
from dks_jax.errors import InputError
from dks_jax.functional import get_arrays
from dks_jax.synergy import METHODS
from dks_jax.tables import markdown_table
from dks_jax.torch_names import TABLES, to_torch

HELP = "the training step of a config"
PLAIN = "PyTorch"
ORIGINAL = "released code"
# Largest difference of the first two losses, relative to ours in float32. The second one has gone through the
# gradients and the optimizer, which multiply what rounding does.
TOLERANCES = {"float32": (1e-4, 1e-2), "bfloat16": (5e-2, 5e-1)}
NOTES = """\
training: from normalised images on the device (dks_jax: uint8, normalised in the step; no augmentation) to
the new weights; on an accelerator dks_jax makes all steps of a measurement in one call. On a GPU float32
products of all sides round their factors to TF32 there, and nowhere else.
evaluation: the backbone alone, from images on the device to logits on the host, float32 in full. The released
code has no backbone alone: its branches are included.
x PyTorch, x fastest: how many times as fast as the plain PyTorch and as the fastest PyTorch in float32.
memory: largest resident memory of the process, or largest allocation on the GPU, while it trains.
arithmetic: three times the multiplications and additions of the forward pass's convolutions and matrix
products, over the time of a step, as a share of the rate of a large matrix product of that side."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the subcommand."""
    add_sizes(parser)
    parser.add_argument("--bfloat16", action="store_true", help="measures in bfloat16 too")
    parser.add_argument(
        "--original",
        type=Path,
        metavar="DIR",
        help="checkout of github.com/sundw2014/DKS, to be measured too",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of measurements that count")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="in a measurement; default 2 on a CPU, else 50"
    )
    parser.add_argument(
        "--matrix", type=int, default=4096, metavar="N", help="side of the matrices of the large product"
    )


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is trained."""
    parser.add_argument("--config", required=True, metavar="FILE[:METHOD]", help="config file and method")
    for name, meaning in (
        ("depth", "of the wide ResNet"),
        ("width", "of the wide ResNet"),
        ("batch_size", "images in a batch"),
        ("image_size", "side of the images in pixels"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{meaning}; default as the config")
    parser.add_argument("--classes", type=int, default=100, metavar="N", help="of the labels; default 100")


def overrides(options: argparse.Namespace) -> dict[str, str]:
    """The fields of the config that the flags replace."""
    fields = {
        "model.depth": options.depth,
        "model.width": options.width,
        "data.batch_size": options.batch_size,
        "data.image_size": options.image_size,
    }
    return {name: str(value) for name, value in fields.items() if value is not None}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step and per forward pass, peak memory, and the rates of arithmetic.

    Raises:
      InputError: an option is wrong, PyTorch is not installed or uses another kind of device, or the losses
        of the sides differ.
    """
    if not find_spec("torch"):
        raise InputError("The benchmark needs PyTorch: pip install torch.")
    # All sides live on the device at the same time.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks.torch_training import DEVICE, VARIANTS

    require_same_device(DEVICE.type)
    if options.steps is None:
        options.steps = 2 if jax.default_backend() == "cpu" else 50
    require_positive(options, ("classes", "rounds", "steps", "matrix"))
    ours: dict[str, Any] = {
        "config": options.config,
        "overrides": overrides(options),
        "classes": options.classes,
        "classifiers": None,
        "steps": options.steps,
        "matrix": options.matrix,
    }
    setting = our_training.load(ours)
    _check(setting, options.original)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        arrays = Path(folder) / "arrays.npz"
        # The keywords of savez are the names of arrays, but for one that it declares.
        np.savez(arrays, **cast(Any, _arrays(setting)))
        variants = [name for name, v in VARIANTS.items() if options.bfloat16 or not v.bfloat16]
        workers = {}
        for name, (module, own) in _sides(setting, options, ours, str(arrays), variants).items():
            workers[name] = stack.enter_context(Worker(name, f"benchmarks.{module}", own))
        losses, skipped = _first_losses(workers)
        workers = {name: worker for name, worker in workers.items() if name not in skipped}

        def ask(request: str, kept: Iterable[str] = tuple(workers)) -> dict[str, Any]:
            return {name: partial(workers[name].ask, request) for name in kept}

        training = measure_rounds({"training": ask("train")}, options.rounds)["training"]
        # Before anything else takes memory.
        memory = {name: worker.ask("peak memory") for name, worker in workers.items()}
        evaluation = measure_rounds({"evaluation": ask("forward")}, options.rounds)["evaluation"]
        of_a_kind = {(name.startswith(OURS), _precision(name)): name for name in reversed(workers)}
        products = measure_rounds({"matrix product": ask("product", of_a_kind.values())}, options.rounds)
        arithmetic = {request: workers[f"{OURS} float32"].ask(request) for request in ("flops", "macs")}

    def per_step(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
        return {name: [value / options.steps for value in own] for name, own in seconds.items()}

    return {
        "options": {
            **{"config": options.config, "overrides": ours["overrides"], "original": bool(options.original)},
            **{name: getattr(options, name) for name in ("classes", "rounds", "steps", "matrix")},
        },
        "setting": describe(setting),
        "batch_size": setting.config.data.batch_size,
        "losses": losses,
        "skipped": skipped,
        "seconds": {"training": per_step(training), "evaluation": per_step(evaluation)},
        "matrix_product_seconds": per_step(products["matrix product"]),
        "peak_memory_bytes": memory,
        **arithmetic,
    }


def _check(setting: Setting, original: Path | None) -> None:
    """Raises InputError where the other side cannot train the same."""
    config = setting.config
    if config.model.get("dropout"):
        raise InputError(
            f"`model.dropout` must be 0, since no two sides drop the same; got {config.model.dropout}."
        )
    if config.norm_groups != 1:
        raise InputError(f"`norm_groups` must be 1, as it is in PyTorch; got {config.norm_groups}.")
    if not original:
        return
    if not (original / "wrn_DKS" / "resnet.py").is_file():
        raise InputError(
            "`--original` must name a checkout of github.com/sundw2014/DKS; there is no "
            f"{original / 'wrn_DKS' / 'resnet.py'}."
        )
    released = {"alpha": 1.0, "temperature": 1.0, "epsilon": 1e-8}
    if (config.model.name, config.method, dict(config.synergy), setting.image_shape) != (
        *("wide_resnet", "dks", released),
        (32, 32, 3),
    ):
        raise InputError(
            "`--original` needs a wide ResNet, the method dks and images of 32x32, with the synergy "
            f"{released}; that is all the released code trains."
        )


def _arrays(setting: Setting) -> dict[str, np.ndarray]:
    """The network's arrays by PyTorch's names; images [step, batch, channel, height, width] and labels."""
    config = setting.config
    order = setting.epochs.order(0)
    split = our_training.draw(setting)
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    images = np.asarray(normalise(jnp.asarray(split.images[order]), mean, std, jnp.float32))
    shape = setting.steps, config.data.batch_size
    network = our_training.build_network(setting)
    return {
        **to_torch(TABLES[config.model.name], get_arrays(network)),
        "images": images.transpose(0, 3, 1, 2).reshape(*shape, *images.shape[-1:], *images.shape[1:-1]),
        "labels": split.labels[order].reshape(shape),
    }


def _sides(
    setting: Setting,
    options: argparse.Namespace,
    ours: Mapping[str, Any],
    arrays: str,
    variants: Iterable[str],
) -> dict[str, tuple[str, dict[str, Any]]]:
    """The module that measures each side, and its options."""
    config = setting.config
    precisions = ("float32", "bfloat16") if options.bfloat16 else ("float32",)
    sides = {}
    for precision in precisions:
        replaced = ours["overrides"] | {"precision": precision}
        sides[f"{OURS} {precision}"] = "our_training", {**ours, "overrides": replaced}
    classifiers = 1 if config.method == "baseline" else 3
    pairs = np.argwhere(METHODS[config.method](classifiers)).tolist()
    _, schedule = optim.from_config(config.optimizer, config.epochs, setting.steps)
    kept = ("momentum", "weight_decay", "decay_norm_and_bias", "clip_norm")
    theirs = {
        "arrays": arrays,
        "objective": {"pairs": pairs, **config.synergy},
        "optimizer": {name: config.optimizer[name] for name in kept} | {"learning_rate": float(schedule(0))},
        "matrix": options.matrix,
    }
    sides |= {name: ("torch_training", {**theirs, "variant": name}) for name in variants}
    if options.original:
        model = {"depth": config.model.depth, "width": config.model.width, "classes": setting.classes}
        folder = str(options.original.expanduser().resolve())
        sides[ORIGINAL] = "torch_original", {**theirs, **model, "original": folder}
    return sides


def _first_losses(workers: Mapping[str, Worker]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The first losses of every side, and why some sides are left out.

    Raises:
      InputError: they differ.
    """
    losses: dict[str, list[float]] = {}
    skipped: dict[str, str] = {}
    for done, (name, worker) in enumerate(workers.items()):
        show_progress(done, len(workers), f"first losses, {name}")
        try:
            losses[name] = worker.ask("first losses")
        except InputError as error:
            if not name.endswith("compiled"):
                raise
            skipped[name] = str(error)
            continue
        expected = losses[f"{OURS} float32"]
        for ours, theirs, tolerance in zip(
            expected, losses[name], TOLERANCES[_precision(name)], strict=False
        ):
            # Written so that it holds for NaN too.
            if not abs(theirs - ours) < tolerance * abs(ours):
                raise InputError(
                    f"The first losses of {name} must be those of {OURS} in float32, {expected}, but for "
                    f"{tolerance:g} of them; they are {losses[name]}: how fast they are cannot be compared."
                )
    show_progress(len(workers), len(workers), "")
    return losses, skipped


def _precision(name: str) -> str:
    return "bfloat16" if "bfloat16" in name else "float32"


def describe(setting: Setting) -> str:
    config = setting.config
    return (
        f"{models.describe(config.model)}, method {config.method}, {setting.classes} classes, images of "
        f"{'x'.join(map(str, setting.image_shape))}, batches of {config.data.batch_size}"
    )


def show(result: Mapping[str, Any]) -> str:
    """The tables of `measure`, and what their rows include."""
    header = ["", "ms", "images/s", "x PyTorch", "x fastest"]
    tables = []
    for row, seconds in result["seconds"].items():
        medians = {name: statistics.median(own) for name, own in seconds.items()}
        fastest = min(
            value
            for name, value in medians.items()
            if not name.startswith(OURS) and _precision(name) == "float32"
        )
        lines = [[row, *header[1:]]]
        for name, own in seconds.items():
            median = medians[name]
            rate = result["batch_size"] / median
            cells = [f"{rate:.1f}", f"{medians[PLAIN] / median:.2f}", f"{fastest / median:.2f}"]
            lines.append([name, spread([1e3 * value for value in own]), *cells])
        if row == "training":
            further = [_memory_and_arithmetic(result, name, medians[name]) for name in seconds]
            further.insert(0, ["memory, MiB", "arithmetic"])
            lines = [line + more for line, more in zip(lines, further, strict=True)]
        tables.append(markdown_table(lines))
    size = result["options"]["matrix"]
    rates = ", ".join(
        f"{name} {2e-9 * size**3 / statistics.median(own):.1f}"
        for name, own in result["matrix_product_seconds"].items()
    )
    skipped = [f"left out: {reason}" for reason in result["skipped"].values()]
    agreement = "; ".join(f"{name} {losses[0]:.6g}" for name, losses in result["losses"].items())
    return "\n\n".join(
        [
            f"\n{result['setting']}, {result['options']['rounds']} rounds of {result['options']['steps']} "
            "steps; median (range)",
            *tables,
            f"first loss: {agreement}\nGFLOP/s of the product of two matrices of {size}x{size}: {rates}\n"
            f"GFLOP of a step: {_gflop(result):.4g} (3 x 2 x MACs of the forward pass), "
            f"{1e-9 * result['flops']:.4g} by XLA's count",
            "\n".join([*skipped, NOTES]),
        ]
    )


def _gflop(result: Mapping[str, Any]) -> float:
    return 6e-9 * result["macs"]


def _memory_and_arithmetic(result: Mapping[str, Any], name: str, seconds: float) -> list[str]:
    """The cells of a row: peak memory, and arithmetic as a share of the product's rate of that side."""
    products, size = result["matrix_product_seconds"], result["options"]["matrix"]
    same = [
        statistics.median(own)
        for other, own in products.items()
        if (other.startswith(OURS), _precision(other)) == (name.startswith(OURS), _precision(name))
    ]
    share = _gflop(result) / seconds / (2e-9 * size**3 / same[0])
    return [f"{result['peak_memory_bytes'][name] / 2**20:.0f}", f"{100 * share:.0f} %"]
