"""Activations computed twice: the same numbers in less memory."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dks_jax import Branch, DeeplySupervised, all_pairs, models, objective
from dks_jax.data.feeds.interface import Epochs
from dks_jax.data.feeds.resident import TrainingFeed
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.models import resnet, wide_resnet
from dks_jax.nn.functional import Functional
from dks_jax.nn.layers import BatchNorm, Conv, Stage
from dks_jax.runtime.devices import Devices
from dks_jax.training.optimizers import sgd
from dks_jax.training.steps import Steps
from support.comparison import as_numpy, assert_agree

CHANNELS, CLASSES = 8, 4


def layers(rngs, **norm):
    return models.Layers(partial(Conv, rngs=rngs), partial(BatchNorm, rngs=rngs, **norm))


def wide_block(rngs):
    dropout = partial(nnx.Dropout, 0.3, rngs=rngs)
    return wide_resnet.Block(CHANNELS, CHANNELS, 1, layers(rngs, norm_groups=2), dropout)


def bottleneck(rngs):
    return resnet.Bottleneck(CHANNELS, CHANNELS // 4, 1, layers(rngs, unit_scale=True))


def first_step(block, *, num_blocks, num_images, remat, dtype=jnp.float32, dump=None):
    """What a step leaves: measurements, batch statistics and, as momentum, the gradients.

    Of a network with a branch, whose stages have so many blocks and one.
    """
    rngs = nnx.Rngs(0)
    stage, own = (Stage([block(rngs) for _ in range(count)]) for count in (num_blocks, 1))
    head, own_head = (resnet.Head(CHANNELS, CLASSES, rngs=rngs) for _ in range(2))
    network = DeeplySupervised(Conv(3, CHANNELS, 3, rngs=rngs), [stage], head, [Branch(0, [own], own_head)])
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_images, 16, 16, 3), np.uint8)
    split = Split(images, random.integers(0, CLASSES, num_images).astype(np.int32))
    devices = Devices(batches_per_call=1)
    if dump:
        devices.compiler_options |= {"xla_dump_to": str(dump), "xla_dump_hlo_as_text": True}
    preparation = Preparation((0.5,) * 3, (0.25,) * 3, dtype=dtype)
    feed = TrainingFeed(split, preparation, Epochs(num_images, num_images, False, 0), devices)
    loss = partial(objective, teaches=all_pairs(2))
    steps = Steps(network, loss, sgd(lambda step: 0.1), feed, seed=0, devices=devices, remat=remat)
    state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, steps.initial_state())
    state, history = steps.train(state, next(iter(feed.chunks(0))))
    (gradients,) = (part.momentum for part in state.opt_state if hasattr(part, "momentum"))
    return history, as_numpy(state.batch_stats), as_numpy(gradients)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("block", [pytest.param(wide_block, marks=pytest.mark.slow), bottleneck])
def test_loss_gradients_and_statistics_are_the_same(block):
    recomputed, kept = (
        first_step(block, num_blocks=2, num_images=4, dtype=jnp.float64, remat=remat)
        for remat in (True, False)
    )
    for ours, theirs in zip(recomputed, kept, strict=True):
        assert_agree(ours, theirs, 1e-12)


def memory(block, folder, *, remat):
    """Bytes for what a step computes on the way, as the compiler has laid them out."""
    first_step(block, num_blocks=3, num_images=32, remat=remat, dump=folder)
    (file,) = folder.glob("*train_chunk*buffer-assignment.txt")
    return sum(
        map(int, re.findall(r"^allocation .* size (\d+), .*preallocated-temp", file.read_text(), re.M))
    )


@pytest.mark.slow
@pytest.mark.parametrize("block", [wide_block, bottleneck])
def test_a_step_takes_less_memory(block, tmp_path):
    kept, recomputed = (memory(block, tmp_path / str(remat), remat=remat) for remat in (False, True))
    print(f"{kept / 1e6:.1f} MB kept, {recomputed / 1e6:.1f} MB recomputed")
    assert 0 < recomputed < 0.7 * kept


# 3 stages of 2 blocks, 2 and 1 of the early branch, 2 of the late one; 4 stages of 2, 1 and 2, 2.
@pytest.mark.parametrize(
    ("model", "num_blocks"),
    [({"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}, 11), ({"name": "resnet18"}, 13)],
)
def test_every_block_of_a_backbone_and_its_branches_is_recomputed_in_training_alone(model, num_blocks):
    network = models.build(model, num_classes=CLASSES, channels=3, seed=0)
    functional = Functional(network, remat=True)
    arrays, images = (functional.params, functional.batch_stats), jnp.zeros((2, 32, 32, 3))
    training = jax.make_jaxpr(functional.train)(*arrays, images, jax.random.key(0))
    evaluation = jax.make_jaxpr(functional.eval)(*arrays, images)
    # A parameter that jax.checkpoint alone has.
    counts = [sum("prevent_cse" in e.params for e in program.eqns) for program in (training, evaluation)]
    assert counts == [num_blocks, 0]


class Foreign(nnx.Module):
    """Has attributes of the same names, which mean something else."""

    def __init__(self):
        self.remat, self.statistics = "everything", (0.5, 0.25)
        self.stage = Stage([nnx.Linear(2, 2, rngs=nnx.Rngs(0)), BatchNorm(2, rngs=nnx.Rngs(0))])


def test_attributes_of_other_modules_are_left_as_they_are():
    module = Foreign()
    Functional(module, remat=True, statistics="one_pass")
    assert (module.remat, module.statistics) == ("everything", (0.5, 0.25))
    assert (module.stage.remat, module.stage.blocks[1].statistics) == (False, "one_pass")
