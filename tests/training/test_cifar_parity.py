"""DenseNets and MobileNet for CIFAR against independent PyTorch implementations, in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dks_jax import models
from dks_jax.weights.torch_names import to_torch
from support import parity
from support import torch_reference as reference
from support.parity import NUM_CLASSES
from support.torch_densenet import DenseNet
from support.torch_mobilenet import MobileNet

DHM = parity.Recipe(
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    weight_decay=1e-4,
    drop_factor=0.1,
    new_optimizer_at_drops=False,
)
DKS = parity.Recipe(
    mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
    std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    weight_decay=5e-4,
    drop_factor=0.2,
    new_optimizer_at_drops=True,
    # At 0.1 the loss of MobileNet on such small batches rises to 100, and PyTorch's own 6 steps from weights
    # that differ by 1e-15 end 3e-3 apart.
    learning_rate=0.001,
)


class Case(NamedTuple):
    """A network on both sides.

    model: as in a config.
    theirs: makes the network of PyTorch.
    recipe: by which it is trained.
    size: side of the images.
    """

    model: dict[str, Any]
    theirs: Callable[[], torch.nn.Module]
    recipe: parity.Recipe
    size: int = 16

    def build(self) -> models.DeeplySupervised:
        return models.build(self.model, num_classes=NUM_CLASSES, channels=3, seed=2)

    @property
    def named(self) -> Callable[[Any], Any]:
        """The names and layouts of the released checkpoints."""
        return partial(to_torch, models.get_family(self.model["name"]).torch[0])


def basic(depth: int, *blocks: Any, growth: int = 12) -> Case:
    model = {"name": "densenet", "depth": depth, "growth_rate": growth}
    own = {"growth": growth, "bottleneck": False, "compression": 1.0, "num_classes": NUM_CLASSES}
    return Case(model | {"bottleneck": False, "compression": 1.0}, partial(DenseNet, *blocks, **own), DHM)


def compressed(depth: int, *blocks: Any, growth: int = 12) -> Case:
    model = {"name": "densenet", "depth": depth, "growth_rate": growth}
    own = {"growth": growth, "bottleneck": True, "compression": 0.5, "num_classes": NUM_CLASSES}
    return Case(model | {"bottleneck": True, "compression": 0.5}, partial(DenseNet, *blocks, **own), DHM)


# Beside the names, the number of layers of a stage of the backbone, of those of the early branch, and of the
# late branch.
CASES = {
    "densenet-7-5": basic(7, 1, (1, 1), 1, growth=5),
    "densenet-22": basic(22, 6, (6, 3), 6),
    "densenet-40": basic(40, 12, (12, 6), 12),
    "densenet-bc-10-3": compressed(10, 1, (1, 1), 2, growth=3),
    "densenet-bc-22": compressed(22, 3, (3, 3), 6),
    "densenet-bc-100": compressed(100, 16, (16, 16), 32),
    # PyTorch's depthwise convolution is slow in float64.
    "mobilenet": Case({"name": "mobilenet"}, partial(MobileNet, NUM_CLASSES), DKS, size=8),
}
QUICK = ("densenet-bc-10-3",)


def cases(*names: str) -> list[Any]:
    return [pytest.param(CASES[n], marks=() if n in QUICK else pytest.mark.slow, id=n) for n in names]


@pytest.mark.parametrize(
    "case", cases("densenet-7-5", "densenet-bc-10-3", "densenet-22", "densenet-bc-22", "mobilenet")
)
def test_logits_and_gradients_are_those_of_torch(x64, quick_compilation, case):
    parity.assert_same_gradients(case.build(), case.theirs(), case.named, size=8)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases("densenet-22", "densenet-bc-22", "mobilenet"))
def test_it_trains_as_torch_does_through_a_drop(x64, quick_compilation, case):
    # 2 epochs of 3 steps, the last one of 5 images, and a drop after the first.
    options = {"drop_epochs": (2,), "snapshots": (3, 4, 6)}
    images = {"num_images": 21, "num_epochs": 2, "size": case.size}
    task, ours = parity.train_ours(case.build(), case.recipe, "dks", case.named, **images, **options)
    theirs = parity.train_torch(case.theirs(), case.recipe, task, case.named, **options)
    assert len(theirs.history) == 6
    parity.assert_same_training(ours, theirs)


@pytest.mark.parametrize("case", cases(*CASES))
def test_the_arrays_are_those_of_the_released_code(case):
    network = models.Network(
        case.model, models.resolve_branches(case.model, "published"), NUM_CLASSES, channels=3
    )
    shapes = {name: np.broadcast_to(0, array.shape) for name, array in models.shapes(network).items()}
    ours = {name: array.shape for name, array in case.named(shapes).items()}
    with torch.device("meta"):
        theirs = {name: tuple(tensor.shape) for name, tensor in reference.arrays_of(case.theirs()).items()}
    assert ours == theirs
    assert models.get_family(case.model["name"]).torch[0].recognise(ours) == network
