"""Activations computed twice: the same numbers in less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from comparison import as_numpy, assert_agree
from dks_jax import Branch, DeeplySupervised, all_pairs, configuration, experiment, models, objective
from dks_jax.data.feed import Epochs
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.data.resident import TrainingFeed
from dks_jax.functional import Functional
from dks_jax.layers import Conv, Stage
from dks_jax.models import resnet, wide_resnet
from dks_jax.optim import sgd
from dks_jax.steps import Devices, Steps
from runs import CONFIGS

CHANNELS, CLASSES = 8, 4


def wide_block(rngs):
    return wide_resnet.Block(CHANNELS, CHANNELS, 1, dropout=0.3, norm_groups=2, rngs=rngs)


def bottleneck(rngs):
    return resnet.Bottleneck(CHANNELS, CHANNELS // 4, 1, norm_groups=1, rngs=rngs)


def setting(block, *, num_blocks, num_images, dtype, remat):
    """(steps, state, feed, chunk) of a network with a branch, whose stages have so many blocks and one."""
    rngs = nnx.Rngs(0)
    stage, own = (Stage([block(rngs) for _ in range(count)]) for count in (num_blocks, 1))
    head, own_head = (resnet.Head(CHANNELS, CLASSES, rngs=rngs) for _ in range(2))
    network = DeeplySupervised(Conv(3, CHANNELS, 3, rngs=rngs), [stage], head, [Branch(0, [own], own_head)])
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_images, 16, 16, 3), np.uint8)
    split = Split(images, random.integers(0, CLASSES, num_images).astype(np.int32))
    devices = Devices(batches_per_call=1)
    preparation = Preparation((0.5,) * 3, (0.25,) * 3, dtype=dtype)
    feed = TrainingFeed(split, preparation, Epochs(num_images, num_images, False, 0), devices)
    loss = partial(objective, teaches=all_pairs(2))
    steps = Steps(network, loss, sgd(lambda step: 0.1), seed=0, devices=devices, remat=remat)
    state = steps.initial_state()
    if dtype == jnp.float64:
        state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)
    return steps, state, feed, next(iter(feed.chunks(0)))


def first_step(block, *, remat):
    """What a step leaves: measurements, batch statistics and, as momentum, the gradients."""
    steps, state, feed, chunk = setting(block, num_blocks=2, num_images=4, dtype=jnp.float64, remat=remat)
    state, history = steps.train(state, feed, chunk)
    (gradients,) = (part.momentum for part in state.opt_state if hasattr(part, "momentum"))
    return history, as_numpy(state.batch_stats), as_numpy(gradients)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("block", [wide_block, bottleneck])
def test_loss_gradients_and_statistics_are_the_same(block):
    for recomputed, kept in zip(first_step(block, remat=True), first_step(block, remat=False), strict=True):
        assert_agree(recomputed, kept, 1e-12)


def memory(block, *, remat):
    """Bytes for what a step computes on the way, as the compiler has laid them out."""
    steps, state, feed, chunk = setting(block, num_blocks=3, num_images=32, dtype=jnp.float32, remat=remat)
    arguments = (state, chunk.arrays, chunk.first, chunk.num_batches)
    compiled = steps._train.lower(*arguments, feed=feed, batch_size=chunk.batch_size).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("block", [wide_block, pytest.param(bottleneck, marks=pytest.mark.slow)])
def test_a_step_takes_less_memory(block):
    kept, recomputed = memory(block, remat=False), memory(block, remat=True)
    print(f"{kept / 1e6:.1f} MB kept, {recomputed / 1e6:.1f} MB recomputed")
    assert recomputed < 0.7 * kept


# 3 stages of 2 blocks, 2 and 1 of the early branch, 2 of the late one; 4 stages of 2, 1 and 2, 2.
@pytest.mark.parametrize(
    ("model", "num_blocks"),
    [({"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}, 11), ({"name": "resnet18"}, 13)],
)
def test_every_block_of_a_backbone_and_its_branches_is_recomputed_in_training_alone(model, num_blocks):
    network = models.build(model, num_classes=CLASSES, channels=3, branches=True, seed=0)
    functional = Functional(network, remat=True)
    arrays, images = (functional.params, functional.batch_stats), jnp.zeros((2, 32, 32, 3))
    training = jax.make_jaxpr(functional.train)(*arrays, images, jax.random.key(0))
    evaluation = jax.make_jaxpr(functional.eval)(*arrays, images)
    # A parameter that jax.checkpoint alone has.
    counts = [sum("prevent_cse" in e.params for e in program.eqns) for program in (training, evaluation)]
    assert counts == [num_blocks, 0]


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("remat", [False, True])
def test_a_config_asks_for_it(remat, monkeypatch):
    given = []
    monkeypatch.setattr(experiment, "Steps", lambda *_, remat, **__: given.append(remat))
    config = configuration.load(str(CONFIGS / "digits_wrn.py"), {"remat": str(remat)})
    experiment.prepare(config, resumed=False)
    assert given == [remat]
