"""A loss of one's own: with or without terms and weights, and for the real number of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax import InputError
from dks_jax.data import Preparation
from dks_jax.data.feeds import Epochs, EvaluationFeed, TrainingFeed
from dks_jax.runtime.devices import Devices
from dks_jax.training.optimizers import sgd
from dks_jax.training.steps import Steps
from support.tiny_network import tiny_network
from support.tiny_steps import NUM_CLASSES, images

pytestmark = pytest.mark.usefixtures("quick_compilation")


def steps_with(loss, *, batches_per_call=1, test_batch=13) -> Steps:
    """26 images, in training in batches of 13."""
    devices, preparation = Devices(batches_per_call), Preparation((0.5,) * 3, (0.25,) * 3)
    return Steps(
        tiny_network(NUM_CLASSES),
        loss,
        sgd(lambda step: 0.05),
        TrainingFeed(images(), preparation, Epochs(26, 13, drop_last=False, seed=0), devices),
        EvaluationFeed(images(), preparation, batch_size=test_batch, devices=devices),
        seed=0,
        devices=devices,
    )


def measured(steps: Steps):
    """What an epoch of training and an evaluation measure, by name."""
    state = steps.initial_state()
    training, evaluation = [], []
    for chunk in steps.train_feed.chunks(0):
        state, history = steps.train(state, chunk)
        training.append(history)
    evaluation = [steps.evaluate(state, chunk) for chunk in steps.test_feed.chunks(0)]
    return [
        {name: np.concatenate([h[name] for h in many]) for name in many[0]} for many in (training, evaluation)
    ]


def cross_entropies(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[None, :, None], axis=-1)[..., 0]


@pytest.mark.parametrize("batches_per_call", [1, 8])
def test_it_sees_as_many_classes_as_there_are_and_its_terms_are_kept(batches_per_call):
    rarity = jnp.arange(1.0, NUM_CLASSES + 1)

    def by_class(logits, labels, weights):
        each = cross_entropies(logits, labels) * rarity[labels] * weights
        sums = jnp.zeros((NUM_CLASSES,)).at[labels].add(each.sum(0)) / jnp.sum(weights)
        counts = jnp.sum(jax.nn.one_hot(labels, logits.shape[-1]) @ rarity * weights)
        terms = {f"class/{c}": sums[c] for c in range(NUM_CLASSES)}
        return jnp.sum(sums), terms | {"rarity": counts.astype(jnp.float16)}

    for history in measured(steps_with(by_class, batches_per_call=batches_per_call)):
        terms = sum(history[f"class/{c}"] for c in range(NUM_CLASSES))
        np.testing.assert_allclose(history["loss"], terms, rtol=1e-5)
        # All measurements of a call are in one array, of the widest type.
        assert history["rarity"].dtype == np.float32
        assert np.sum(history["rarity"]) == np.sum(images().labels + 1.0)


def test_it_may_be_a_scalar_alone_and_take_no_weights_where_every_batch_is_full():
    scalar, pair = (
        measured(steps_with(loss))
        for loss in (
            lambda logits, labels: cross_entropies(logits, labels).mean(axis=1).sum(),
            lambda logits, labels, weights: (cross_entropies(logits, labels).mean(axis=1).sum(), {}),
        )
    )
    of_evaluation = {"errors/mean", *(f"gaps/{i}" for i in range(15))}
    for ours, expected in zip(scalar, pair, strict=True):
        assert ours.keys() - of_evaluation == {
            "examples",
            "loss",
            *(f"errors/{name}" for name in ("branch1", "branch2", "main")),
        }
        np.testing.assert_array_equal(ours["loss"], expected["loss"])


def test_without_weights_it_is_refused_where_padding_would_count():
    with pytest.raises(InputError, match=r"`loss`.*`weights`"):
        measured(steps_with(lambda logits, labels: cross_entropies(logits, labels).mean(), test_batch=8))
