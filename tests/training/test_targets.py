"""The places in the step for soft targets, mixing and augmentation on the device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax import all_pairs, objective
from dks_jax.data import Preparation, Split
from dks_jax.data.feeds import Batch, Epochs, EvaluationFeed, TrainingFeed
from dks_jax.runtime.devices import Devices
from dks_jax.training.optimizers import sgd
from dks_jax.training.steps import Steps
from support.comparison import assert_same_bits
from support.tiny_network import tiny_network

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES = 10


def images() -> Split:
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (24, 8, 8, 3), np.uint8), random.integers(0, CLASSES, 24, np.int32))


def steps_with(mix=None, augmentations=(), *, batch_size: int = 8) -> Steps:
    devices, network = Devices(), tiny_network(CLASSES)
    preparation = Preparation((0.5,) * 3, (0.25,) * 3, augmentations=augmentations)
    epochs = Epochs(24, batch_size, drop_last=True, seed=0)
    return Steps(
        network,
        partial(objective, teaches=all_pairs(3), names=network.names),
        sgd(lambda step: 0.05),
        TrainingFeed(images(), preparation, epochs, devices),
        EvaluationFeed(images(), preparation, batch_size=batch_size, devices=devices),
        seed=0,
        devices=devices,
        mix=mix,
    )


def trained(steps: Steps):
    """The state and the measurements after an epoch, and the measurements in evaluation."""
    state, measured = steps.initial_state(), []
    for chunk in steps.train_feed.chunks(0):
        state, history = steps.train(state, chunk)
        measured.append(history)
    evaluated = [steps.evaluate(state, chunk) for chunk in steps.test_feed.chunks(0)]
    return jax.device_get(state), measured, evaluated


def one_hot(batch: Batch, key: jax.Array) -> Batch:
    return batch._replace(targets=jax.nn.one_hot(batch.targets, CLASSES))


def mixup(batch: Batch, key: jax.Array) -> Batch:
    share = jax.random.uniform(key)
    soft = one_hot(batch, key)
    return batch._replace(
        images=share * batch.images + (1 - share) * batch.images[::-1],
        targets=share * soft.targets + (1 - share) * soft.targets[::-1],
    )


@pytest.mark.slow
def test_mixing_that_changes_nothing_leaves_every_bit():
    assert_same_bits(trained(steps_with(lambda batch, key: batch)), trained(steps_with()))


def test_targets_can_be_probabilities():
    hard, soft = (trained(steps_with(mix))[1] for mix in (None, one_hot))
    for own, expected in zip(soft, hard, strict=True):
        # The likeliest class counts as the right answer.
        assert own["errors/main"] == expected["errors/main"]
        np.testing.assert_allclose(own["loss"], expected["loss"], rtol=1e-5)


def test_the_loss_of_a_mixed_batch_is_the_mixture_of_the_losses():
    keys = []

    def seen(batch: Batch, key: jax.Array) -> Batch:
        keys.append(jax.random.key_data(key))
        mixed = mixup(batch, key)
        logits = jnp.stack([batch.images[:, 0, 0, :1] * jnp.arange(CLASSES)])
        one, other = (objective(logits, t, all_pairs(1))[0] for t in (batch.targets, batch.targets[::-1]))
        share = jax.random.uniform(key)
        jax.debug.callback(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
            objective(logits, mixed.targets, all_pairs(1))[0],
            share * one + (1 - share) * other,
        )
        return mixed

    trained(steps_with(seen))
    jax.effects_barrier()
    assert keys


def test_mixing_draws_anew_in_every_step_and_alike_in_every_run():
    shares: list[float] = []

    def note(batch: Batch, key: jax.Array) -> Batch:
        jax.debug.callback(lambda share: shares.append(float(share)), jax.random.uniform(key), ordered=True)
        return mixup(batch, key)

    trained(steps_with(note))
    jax.effects_barrier()
    first, shares[:] = list(shares), []
    trained(steps_with(note))
    jax.effects_barrier()
    assert len(set(first)) == 3
    assert shares == first


def test_evaluation_sees_neither_mixing_nor_augmentation():
    def spoil(batch: Batch, key: jax.Array) -> Batch:
        return batch._replace(images=batch.images * jnp.nan)

    steps = steps_with(spoil, augmentations=(lambda keys, images: images * jnp.nan,))
    state = steps.initial_state()
    (first, *_) = steps.test_feed.chunks(0)
    assert np.isfinite(steps.evaluate(state, first)["loss"]).all()
    (first, *_) = steps.train_feed.chunks(0)
    assert np.isnan(steps.train(state, first)[1]["loss"]).all()


def erase_one(keys: jax.Array, images: jax.Array) -> jax.Array:
    """A pixel of each image becomes 0, at a place that its key draws."""
    places = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 8))(keys)
    return images.at[jnp.arange(len(images)), places[:, 0], places[:, 1]].set(0)


@pytest.mark.parametrize("batch_size", [8, pytest.param(6, marks=pytest.mark.slow)])
def test_an_augmentation_draws_by_the_example_and_not_by_the_batch(batch_size: int):
    def epoch(augmentations, batch_size):
        feed = steps_with(augmentations=augmentations, batch_size=batch_size).train_feed
        batches = [feed.batch(c.arrays, c.first, c.batch_size) for c in feed.chunks(3)]
        return np.concatenate([np.asarray(batch.images) for batch in batches])

    plain, erased = epoch((), batch_size), epoch((erase_one,), batch_size)
    changed = np.any(plain != erased, axis=-1)
    assert np.all(changed.sum((1, 2)) == 1)
    # Not one place for all.
    assert len(np.unique(np.argwhere(changed)[:, 1:], axis=0)) > 8
    np.testing.assert_array_equal(erased, epoch((erase_one,), 12))


def test_augmentations_of_one_kind_draw_separately():
    feed = steps_with(augmentations=(erase_one, erase_one)).train_feed
    plain = steps_with().train_feed
    (chunk, *_), (same, *_) = feed.chunks(0), plain.chunks(0)
    twice = feed.batch(chunk.arrays, 0, 8).images != plain.batch(same.arrays, 0, 8).images
    assert np.any(twice, axis=-1).sum() > 8
