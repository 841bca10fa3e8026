"""Stochastic depth and dropout before the head: their rates, their statistics and what they leave alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dks_jax import models
from dks_jax.models.regularisation import Regularisation, identity
from dks_jax.nn import get_arrays
from dks_jax.nn.functional import Functional

pytestmark = pytest.mark.usefixtures("quick_compilation")

WIDE = {"name": "wide_resnet", "depth": 16, "width": 1}
RESNET = {"name": "resnet18"}
RATES = {"drop_path": 0.4, "head_dropout": 0.25}


def build(model, **rates):
    return models.build({**model, **rates}, num_classes=5, channels=3, seed=0)


def stages(network):
    return [*network.stages, *(stage for branch in network.branches for stage in branch.stages)]


def drop_rates(network):
    """The rates of the blocks of every stage, those of the backbone first."""
    return [[block.drop_path.rate for block in stage.blocks] for stage in stages(network)]


def test_the_rate_rises_linearly_and_branches_have_that_of_their_depth():
    # Three stages of two blocks; branches (2, 1) from stage 1 on, and (2,) from stage 2 on.
    backbone = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    expected = [*backbone, [0.3, 0.4], [0.6], [0.5, 0.6]]
    for own, given in zip(drop_rates(build(WIDE, drop_path=0.6)), expected, strict=True):
        np.testing.assert_allclose(own, given, rtol=1e-12)
    # Four stages of two blocks; branches (1, 2) from stage 2 on, and (2,) from stage 3 on.
    backbone = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]
    expected = [*backbone, [0.6], [0.7, 0.8], [0.7, 0.8]]
    for own, given in zip(drop_rates(build(RESNET, drop_path=0.8)), expected, strict=True):
        np.testing.assert_allclose(own, given, rtol=1e-12)


def test_a_stage_of_a_branch_covers_the_rates_of_its_neighbour_and_a_deeper_one_has_the_last():
    made = Regularisation(0.6, 0.0, (2, 4), nnx.Rngs(0))
    rates = {
        (1, 2): [0.4, 0.6],
        (1, 8): [0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6],
        (2, 3): [0.6, 0.6, 0.6],
    }
    for (index, num_blocks), expected in rates.items():
        drops = made.drop_paths(index, num_blocks)
        np.testing.assert_allclose([drop.rate for drop in drops], expected, rtol=1e-12)


def test_the_rate_may_rise_from_zero():
    """As in ConvNeXt: `torch.linspace(0, rate, blocks)`."""
    made = Regularisation(0.5, 0.0, (1, 2, 3), nnx.Rngs(0), from_zero=True)
    drops = [drop for index, blocks in enumerate((1, 2, 3)) for drop in made.drop_paths(index, blocks)]
    assert drops[0] is identity
    np.testing.assert_allclose([drop.rate for drop in drops[1:]], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-12)
    # Those of a branch of one and then two blocks beside the second and the third stage, and of a deeper one.
    branch = [drop.rate for drop in (*made.drop_paths(1, 1), *made.drop_paths(2, 2), *made.drop_paths(3, 1))]
    np.testing.assert_allclose(branch, [0.2, 0.35, 0.5, 0.5], rtol=1e-12)
    assert Regularisation(0.5, 0.0, (1,), nnx.Rngs(0), from_zero=True).drop_paths(0, 1) == [identity]


def assert_share(dropped, rate):
    """So large a share is dropped, up to five standard errors."""
    assert abs(np.mean(dropped) - rate) < 5 * math.sqrt(rate * (1 - rate) / dropped.size)


@pytest.mark.parametrize("size", [(2, 2), (4,)], ids=["pixels", "tokens"])
def test_whole_examples_are_dropped_at_the_rate_of_the_block_and_the_others_rescaled(size):
    drops = Regularisation(0.4, 0.0, (2,), nnx.Rngs(0)).drop_paths(0, 2)
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (4000, *size, 3)))
    dropped = []
    for drop, rate in zip(drops, (0.2, 0.4), strict=True):
        y = np.asarray(drop(x))
        dropped.append(np.all(y.reshape(4000, -1) == 0, axis=1))
        assert_share(dropped[-1], rate)
        np.testing.assert_allclose(y[~dropped[-1]], x[~dropped[-1]] / (1 - rate), rtol=1e-6)
    # Blocks draw on their own.
    assert_share(dropped[0] & dropped[1], 0.2 * 0.4)


def test_before_the_linear_layer_single_values_are_dropped():
    dropout = Regularisation(0.0, 0.25, (2,), nnx.Rngs(0)).before_fc()
    y = np.asarray(dropout(jnp.ones((1000, 8))))
    assert_share(y == 0, 0.25)
    np.testing.assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-6)


@pytest.mark.parametrize("model", [WIDE, RESNET], ids=["wide_resnet", "resnet"])
def test_a_block_that_drops_an_example_passes_its_shortcut_on(model):
    (block,) = build(model, drop_path=0.5).stages[-1].blocks[-1:]
    x = jax.random.normal(jax.random.key(0), (16, 2, 2, 64 if model is WIDE else 512))
    residual, block.drop_path = block.drop_path, identity
    shortcut = x if model is WIDE else nnx.relu(x)
    assert not np.any(np.all(np.asarray(block(x)) == shortcut, axis=(1, 2, 3)))
    block.drop_path = residual
    kept = ~np.all(np.asarray(block(x)) == shortcut, axis=(1, 2, 3))
    assert 0 < kept.sum() < 16


@pytest.mark.parametrize(
    "model", [WIDE, pytest.param(RESNET, marks=pytest.mark.slow)], ids=["wide_resnet", "resnet"]
)
def test_names_initial_values_and_evaluation_do_not_depend_on_the_rates(model):
    plain, regularised = build(model), build(model, **RATES)
    own, others = get_arrays(plain), get_arrays(regularised)
    assert own.keys() == others.keys()
    for name, array in own.items():
        np.testing.assert_array_equal(others[name], array)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    logits = []
    for network in (plain, regularised):
        functional = Functional(network)
        logits.append(jax.jit(functional.eval)(functional.params, functional.batch_stats, images))
    np.testing.assert_array_equal(logits[0], logits[1])


def test_at_a_rate_of_zero_there_is_no_module_and_no_random_stream():
    network = build(RESNET, drop_path=0.0, head_dropout=0.0)
    assert not jax.tree.leaves(nnx.state(network, nnx.RngState))
    assert network.head.dropout is identity
    assert all(block.drop_path is identity for stage in stages(network) for block in stage.blocks)


def test_training_draws_by_the_key_and_differs_from_the_plain_network():
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    functional = Functional(build(WIDE, **RATES))
    arguments = functional.params, functional.batch_stats, images
    train = jax.jit(functional.train)
    one, same, other = (train(*arguments, jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
