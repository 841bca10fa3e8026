"""The place, the rate and the randomness of dropout in the wide ResNet and in the training step."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dks_jax.data.feeds.interface import Epochs
from dks_jax.data.feeds.resident import TrainingFeed
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.models import Layers
from dks_jax.models.wide_resnet import Block, Head
from dks_jax.nn import BatchNorm, Conv
from dks_jax.nn.functional import Functional
from dks_jax.runtime.devices import Devices
from dks_jax.supervision import DeeplySupervised
from dks_jax.synergy import objective
from dks_jax.training.optimizers import sgd
from dks_jax.training.steps import Steps
from support import torch_reference as reference
from support.comparison import Named, any_weights, assert_agree
from support.networks import wide_resnet

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_CLASSES = 10
RATE = 0.3


class Recorder(nnx.Module):
    """A layer that leaves what enters it and what comes out among the network's other arrays."""

    def __init__(self, layer: nnx.Module):
        self.layer = layer
        self.entering = nnx.Intermediate(jnp.zeros(()))
        self.leaving = nnx.Intermediate(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.layer(x)
        self.entering.set_value(x)
        self.leaving.set_value(y)
        return y


class Mask(torch.nn.Module):
    """Multiplication by a given factor."""

    def __init__(self, factor: torch.Tensor):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def blocks_of(network: DeeplySupervised) -> dict[str, Block]:
    """Every block of the backbone and the branches by its path."""
    groups = {f"stages.{i}": group for i, group in enumerate(network.stages)}
    for b, branch in enumerate(network.branches):
        groups |= {f"branches.{b}.stages.{i}": group for i, group in enumerate(branch.stages)}
    return {f"{name}.blocks.{i}": block for name, g in groups.items() for i, block in enumerate(g.blocks)}


class DropoutRun(NamedTuple):
    """One forward pass in training mode.

    entering, leaving: by block, what enters its dropout and what comes out [batch, height, width, channel].
    """

    arrays: Named
    images: np.ndarray
    logits: np.ndarray
    entering: Named
    leaving: Named


@pytest.fixture(scope="module")
def dropout_run(quick_compilation) -> DropoutRun:
    with jax.enable_x64(True):
        network = wide_resnet(16, 1, NUM_CLASSES, dropout=RATE, seed=0)
        params, batch_stats = any_weights(network, seed=1)
        blocks = blocks_of(network)
        for block in blocks.values():
            block.dropout = Recorder(block.dropout)
        recording = Functional(network)
        images = np.random.default_rng(2).normal(size=(8, 16, 16, 3))
        logits, recorded = jax.jit(recording.train)(
            params, recording.batch_stats | batch_stats, images, jax.random.key(3)
        )
        entering, leaving = (
            {name: np.array(recorded[f"{name}.dropout.{end}"]) for name in blocks}
            for end in ("entering", "leaving")
        )
        return DropoutRun(params | batch_stats, images, np.array(logits), entering, leaving)


def assert_share(positions, expected):
    """So large a share of the positions is true, up to five standard errors."""
    assert abs(np.mean(positions) - expected) < 5 * math.sqrt(expected * (1 - expected) / np.size(positions))


def test_every_block_drops_positions_of_its_own_at_the_rate_and_rescales_the_rest(dropout_run):
    # A WRN-16: 3 groups of 2 blocks, branch 1 of 2 and 1, branch 2 of 2.
    assert len(dropout_run.entering) == 11
    masks: dict[tuple, list[np.ndarray]] = {}
    for name, entering in dropout_run.entering.items():
        leaving = dropout_run.leaving[name]
        assert entering.min() == 0.0, f"{name}: dropout does not follow a ReLU"
        alive = entering > 0
        dropped = alive & (leaving == 0)
        assert_share(dropped[alive], RATE)
        np.testing.assert_allclose(leaving, np.where(dropped, 0, entering / (1 - RATE)), rtol=1e-12)
        masks.setdefault(entering.shape, []).append(np.where(alive, dropped, np.nan))
    pairs = [(a, b) for same in masks.values() for i, a in enumerate(same) for b in same[:i]]
    # 2 blocks with 16 channels, 4 with 32, 3 with 64 and 2 with 128.
    assert len(pairs) == 1 + 6 + 3 + 1
    for a, b in pairs:
        known = ~np.isnan(a) & ~np.isnan(b)
        assert_share(a[known] * b[known], RATE**2)


def test_dropout_stands_between_bn1_and_conv1(dropout_run):
    theirs = reference.WideResNet(16, 1, NUM_CLASSES).double().train()
    reference.load_arrays(theirs, reference.to_released(dropout_run.arrays))
    received = {}
    for name, entering in dropout_run.entering.items():
        factor = np.where((entering > 0) & (dropout_run.leaving[name] == 0), 0, 1 / (1 - RATE))
        block = theirs.get_submodule(reference.released_name(f"{name}.conv1.kernel").removesuffix(".conv1"))
        block.dropout = Mask(torch.tensor(factor).permute(0, 3, 1, 2))
        block.dropout.register_forward_pre_hook(
            lambda _, inputs, name=name: received.update({name: inputs[0].permute(0, 2, 3, 1).numpy()})
        )
    with torch.no_grad():
        expected = torch.stack(theirs(torch.tensor(dropout_run.images).permute(0, 3, 1, 2))).numpy()
    assert_agree(dropout_run.entering, received, 1e-10)
    assert_agree({"logits": dropout_run.logits}, {"logits": expected}, 1e-10)


def test_seed_and_step_decide_what_is_dropped():
    rng, devices = np.random.default_rng(0), Devices(batches_per_call=1)
    split = Split(rng.integers(0, 256, (8, 16, 16, 3), np.uint8), np.arange(8, dtype=np.int32))
    # The mean is no possible grey level, so that no image has a zero of its own.
    feed = TrainingFeed(split, Preparation((0.501,) * 3, (0.25,) * 3), Epochs(8, 8, False, 0), devices)

    def dropped(seed: int, step: int) -> np.ndarray:
        """Which values of its images a step sets to zero."""
        rngs = nnx.Rngs(0)
        head = Head(3, NUM_CLASSES, Layers(Conv, partial(BatchNorm, rngs=rngs)), rngs)
        network = DeeplySupervised(Recorder(nnx.Dropout(RATE, rngs=rngs)), [], head)
        loss = partial(objective, teaches=np.zeros((1, 1)))
        steps = Steps(network, loss, sgd(lambda step: 0.1), feed, seed=seed, devices=devices)
        state, _ = steps.train(steps.initial_state(step), next(feed.chunks(0)))
        assert np.all(np.asarray(state.batch_stats["stem.entering"]) != 0)
        return np.asarray(state.batch_stats["stem.leaving"]) == 0

    first = dropped(seed=0, step=5)
    np.testing.assert_array_equal(first, dropped(seed=0, step=5))
    for other in (dropped(seed=0, step=6), dropped(seed=1, step=5)):
        # Independent masks differ at 2 r (1 - r) of the positions.
        assert_share(first != other, 2 * RATE * (1 - RATE))
