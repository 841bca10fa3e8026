"""Time of the synergy loss and its gradient with respect to the logits, beside two forms in PyTorch.

As released: a loop over all ordered pairs of classifiers, each pair with two softmaxes of its own. Stacked:
one log-softmax and one matrix product for all pairs, which is what this library does too.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np

from benchmarks.measuring import OURS, measure_rounds, num_cores, require_positive, spread
from dks_jax.errors import InputError
from dks_jax.steps import Devices
from dks_jax.synergy import all_pairs, objective
from dks_jax.tables import markdown_table

HELP = "the loss and its gradient"
# That of the released training.
EPSILON = 1e-8
# Of the value, and of the gradient's largest entry.
TOLERANCE = 1e-5
# Long enough for a clock and short enough for many rounds.
SECONDS_PER_MEASUREMENT = 0.1
NOTES = """\
A call: from float32 logits and labels on the device to the loss and its gradient there.
ratios: the time of each PyTorch over ours; above 1 where dks_jax is faster."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the subcommand."""
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000], metavar="N", help="100 1000")
    parser.add_argument(
        "--classifiers", type=int, nargs="+", default=[3, 4, 5, 6], metavar="N", help="default 3 4 5 6"
    )
    parser.add_argument("--batch_size", type=int, default=128, metavar="N", help="images in a batch")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of measurements that count")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a call on every side, by numbers of classes and classifiers.

    Raises:
      InputError: an option is wrong, PyTorch is not installed, or the sides differ.
    """
    require_positive(options, ("batch_size", "rounds"))
    for name in ("classes", "classifiers"):
        if min(getattr(options, name)) < 2:
            raise InputError(f"`--{name}` must be 2 or more; got {min(getattr(options, name))}.")
    if not find_spec("torch"):
        raise InputError("The benchmark needs PyTorch: pip install torch.")
    import torch

    from benchmarks import torch_loss

    torch.set_num_threads(num_cores())
    measurements: dict[str, dict[str, Callable[[], None]]] = {}
    num_calls: dict[str, dict[str, int]] = {}
    for classes in options.classes:
        for classifiers in options.classifiers:
            row = f"{classes} classes, {classifiers} classifiers"
            logits, labels = draw(classifiers, options.batch_size, classes)
            calls = {OURS: ours(logits, labels)} | torch_loss.value_and_gradient(logits, labels)
            # Lists, because a tensor on a GPU is no array.
            values = {name: [np.array(x.tolist()) for x in call()] for name, call in calls.items()}
            for name, theirs in values.items():
                require_equal(values[OURS], theirs, f"{name} with {row}")
            repeats = {name: partial(repeat, call) for name, call in calls.items()}
            num_calls[row] = {name: fitting(run) for name, run in repeats.items()}
            measurements[row] = {name: partial(run, num_calls[row][name]) for name, run in repeats.items()}
    times = measure_rounds(measurements, options.rounds)
    seconds = {
        row: {name: [t / num_calls[row][name] for t in own] for name, own in by_name.items()}
        for row, by_name in times.items()
    }
    kept = {name: getattr(options, name) for name in ("classes", "classifiers", "batch_size", "rounds")}
    return {"options": kept, "num_calls": num_calls, "seconds": seconds}


def draw(classifiers: int, batch: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random logits [classifier, batch, class] in float32, and labels [batch]."""
    random = np.random.default_rng(0)
    logits = 2 * random.standard_normal((classifiers, batch, classes), np.float32)
    return logits, random.integers(classes, size=batch)


def ours(logits: np.ndarray, labels: np.ndarray) -> Callable[[], tuple[jax.Array, jax.Array]]:
    """A function that computes the loss of DKS and its gradient [classifier, batch, class].

    Compiled as a training step is.
    """
    teaches = all_pairs(len(logits))

    @partial(jax.jit, compiler_options=Devices().compiler_options)
    @jax.value_and_grad
    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return objective(logits, labels, teaches, epsilon=EPSILON)[0]

    placed = jax.device_put((logits, labels))
    return lambda: jax.block_until_ready(loss(*placed))


def repeat(call: Callable[[], Any], count: int) -> None:
    """Calls so many times."""
    for _ in range(count):
        call()


def fitting(run: Callable[[int], None]) -> int:
    """How many calls take about SECONDS_PER_MEASUREMENT."""
    count = 1
    while True:
        begin = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - begin
        if seconds > SECONDS_PER_MEASUREMENT / 4:
            return max(1, round(count * SECONDS_PER_MEASUREMENT / seconds))
        count *= 4


def require_equal(own: Sequence[np.ndarray], theirs: Sequence[np.ndarray], name: str) -> None:
    """Raises InputError where value or gradient differ by more than rounding."""
    for what, a, b in zip(("loss", "gradient"), own, theirs, strict=True):
        difference, largest = np.abs(a - b).max(), np.abs(b).max()
        # Written so that it holds for NaN too.
        if not difference <= TOLERANCE * largest:
            raise InputError(
                f"The {what} of dks_jax and of {name} must differ by at most {TOLERANCE:g} of the largest, "
                f"{largest:.4g}; they differ by {difference:.2e}: how fast they are cannot be compared."
            )


def show(result: Mapping[str, Any]) -> str:
    """The table of `measure`, and what a call includes."""
    options, seconds = result["options"], result["seconds"]
    names = list(next(iter(seconds.values())))
    header = ["ms a call", *names, *(f"ratio, {name.removeprefix('PyTorch ')}" for name in names[1:])]
    rows = []
    for row, own in seconds.items():
        medians = {name: statistics.median(values) for name, values in own.items()}
        ratios = [f"{medians[name] / medians[OURS]:.2f}" for name in names[1:]]
        rows.append([row, *(spread([1e3 * s for s in own[name]], digits=2) for name in names), *ratios])
    setting = f"batch {options['batch_size']}, float32, {options['rounds']} rounds; median (range)"
    return f"\n{setting}\n\n{markdown_table([header, *rows])}\n\n{NOTES}"
