"""CIFAR ResNets against an independent PyTorch implementation, in float64, by DHM's recipe."""

import numpy as np
import pytest
import torch

from dks_jax import models
from dks_jax.weights.torch_names import to_torch
from support import parity
from support import torch_reference as reference
from support.comparison import Named
from support.parity import NUM_CLASSES
from support.torch_cifar_resnet import CifarResNet

RECIPE = parity.Recipe(
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    weight_decay=1e-4,
    drop_factor=0.1,
    new_optimizer_at_drops=False,
)
# By depth, the blocks of a stage of the backbone, of those of the early branch, and of the late branch.
BLOCKS = {8: (1, (1, 1), 1), 20: (3, (3, 2), 3), 32: (5, (5, 3), 5), 110: (18, (9, 9), 18)}


def network_of(depth: int) -> models.DeeplySupervised:
    return models.build({"name": "cifar_resnet", "depth": depth}, num_classes=NUM_CLASSES, channels=3, seed=2)


def named(arrays: Named) -> Named:
    """By the names of DHM's checkpoints."""
    return to_torch(models.get_family("cifar_resnet").torch[0], arrays)


@pytest.mark.parametrize(
    ("depth", "size"), [(8, 8), pytest.param(32, 32, marks=pytest.mark.slow)], ids=["8", "32"]
)
def test_logits_and_gradients_are_those_of_torch(x64, quick_compilation, depth, size):
    theirs = CifarResNet(*BLOCKS[depth], NUM_CLASSES)
    parity.assert_same_gradients(network_of(depth), theirs, named, size)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [8, 20])
def test_it_trains_as_torch_does_through_a_drop(x64, depth):
    # 2 epochs of 3 steps, the last one of 5 images, and a drop after the first, where the momentum is kept.
    options = {"drop_epochs": (2,), "snapshots": (3, 4, 6)}
    task, ours = parity.train_ours(
        network_of(depth), RECIPE, "dks", named, num_images=21, num_epochs=2, **options
    )
    theirs = parity.train_torch(CifarResNet(*BLOCKS[depth], NUM_CLASSES), RECIPE, task, named, **options)
    assert len(theirs.history) == 6
    parity.assert_same_training(ours, theirs)


@pytest.mark.parametrize("depth", [20, *(pytest.param(d, marks=pytest.mark.slow) for d in (8, 32, 110))])
def test_the_arrays_are_those_of_the_released_code(depth):
    model = {"name": "cifar_resnet", "depth": depth}
    network = models.Network(model, models.resolve_branches(model, "published"), NUM_CLASSES, 3)
    table = models.get_family("cifar_resnet").torch[0]
    shapes = {name: np.broadcast_to(0, array.shape) for name, array in models.shapes(network).items()}
    ours = {name: array.shape for name, array in to_torch(table, shapes).items()}
    with torch.device("meta"):
        theirs = CifarResNet(*BLOCKS[depth], NUM_CLASSES)
    assert ours == {name: tuple(tensor.shape) for name, tensor in reference.arrays_of(theirs).items()}
    assert table.recognise(ours) == network
