"""Time of the synergy loss and its gradient with respect to the logits, beside two forms in PyTorch.

A call: from float32 logits and labels on the device to the loss and its gradient there. As released: a loop
over all ordered pairs of classifiers, each pair with two softmaxes of its own. Stacked: one log-softmax and
one matrix product for all pairs, as in this library.
"""

import argparse
import timeit
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import measuring, ours
from benchmarks.measuring import OURS, InputError
from benchmarks.torch_training import DEVICE, released_loss, smooth, stacked_loss
from dks_jax.runtime.cores import num_cores

# Of the value, and of the gradient's largest entry.
TOLERANCE = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    several: Any = {"type": measuring.positive, "nargs": "+", "metavar": "N"}
    parser.add_argument("--classes", default=[100, 1000], help="default 100 1000", **several)
    parser.add_argument("--classifiers", default=[3, 4, 5, 6], help="default 3 4 5 6", **several)
    measuring.add_count(parser, "--batch_size", 128, "images in a batch")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(num_cores())
    measurements: dict[str, dict[str, Callable[[], float]]] = {}
    for classes in options.classes:
        for classifiers in options.classifiers:
            row = f"{classes} classes, {classifiers} classifiers"
            random = np.random.default_rng(0)
            logits = 2 * random.standard_normal((classifiers, options.batch_size, classes), np.float32)
            labels = random.integers(classes, size=options.batch_size)
            calls = {OURS: ours.loss_and_gradient(logits, labels), **_in_pytorch(logits, labels)}
            _require_equal(calls, row)
            measurements[row] = {name: partial(_seconds, call) for name, call in calls.items()}
    return {"seconds": measuring.measure_rounds(measurements, options.rounds)}


def _in_pytorch(logits: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], Any]]:
    """By name, a function that computes the loss and its gradient [classifier, batch, class]."""
    on_device = torch.tensor(labels, device=DEVICE)
    together = torch.tensor(logits, device=DEVICE, requires_grad=True)
    apart = [torch.tensor(own, device=DEVICE, requires_grad=True) for own in logits]

    def released() -> tuple[Tensor, Tensor]:
        value = released_loss(_divergence, apart, on_device)
        return _finished(value, torch.stack(torch.autograd.grad(value, apart)))

    def stacked() -> tuple[Tensor, Tensor]:
        value = stacked_loss(together, on_device)
        return _finished(value, *torch.autograd.grad(value, together))

    return {"PyTorch as released": released, "PyTorch stacked": stacked}


def _finished(value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return value.detach(), gradient


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(p_teacher || p_student) of logits [batch, class], both smoothed, averaged over the batch."""
    p, q = (smooth(F.softmax(logits, dim=1)) for logits in (teacher, student))
    return (p * torch.log(p / q)).sum(dim=1).mean()


def _seconds(call: Callable[[], Any]) -> float:
    """Of a call, over so many that they take 0.2 s or more."""
    count, seconds = timeit.Timer(call).autorange()
    return seconds / count


def _require_equal(calls: Mapping[str, Callable[[], Any]], row: str) -> None:
    """Raises InputError where a value or a gradient differs from ours by more than rounding."""
    # Lists, because a tensor on a GPU is no array.
    values = {name: [np.array(x.tolist()) for x in call()] for name, call in calls.items()}
    for name, theirs in values.items():
        for what, a, b in zip(("loss", "gradient"), values[OURS], theirs, strict=True):
            difference, largest = np.abs(a - b).max(), np.abs(b).max()
            # Written so that it holds for NaN too.
            if not difference <= TOLERANCE * largest:
                raise InputError(
                    f"The {what} of {name} with {row} must be that of {OURS} but for {TOLERANCE:g} of the "
                    f"largest, {largest:.4g}; they differ by {difference:.2e} and cannot be compared."
                )


def show(result: dict[str, Any]) -> list[str]:
    return [measuring.side_table("ms a call", result["seconds"], lambda _, seconds: 1e3 * seconds, digits=2)]
