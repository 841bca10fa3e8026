"""Networks that random images leave early, beside the same networks as a whole."""

import math

import numpy as np

from dks_jax.data import Preparation, Split, held_out_feed
from dks_jax.inference.exits import Confidence, StagedNetwork, where_left
from dks_jax.inference.exits.rules import confidences
from dks_jax.inference.forward import Forward
from dks_jax.runtime.devices import Devices

NEVER = math.inf


def on(network, count, batch_size, channels=3, size=8):
    """A feed of random images, and the whole network's logits on it."""
    devices = Devices(batches_per_call=1)
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)
    split = Split(images, np.zeros(count, np.int32))
    preparation = Preparation((0.5,) * channels, (0.25,) * channels)
    feed = held_out_feed(split, preparation, batch_size=batch_size, devices=devices)
    whole = [output.logits for output in Forward(network, feed, devices).batches()]
    return feed, devices, np.concatenate(whole, axis=1)


def median_rule(logits):
    """A rule by which half of the images leave at the first branch, and some of the others at the second.

    Its temperatures are of the size of the logits, so that confidences differ however large these are.
    """
    temperatures = tuple((i + 1) * np.abs(logits[i]).max() for i in (0, 1))
    return Confidence(
        temperatures,
        tuple(np.median(confidences(own, t)) for own, t in zip(logits, temperatures, strict=False)),
    )


def assert_as_the_whole(network, count, batch_size, size=8):
    """Where images leave, logits are those of the whole network: bit-equal in the same batches."""
    feed, devices, whole = on(network, count, batch_size, size=size)
    bound = 1e-5 * np.abs(whole).max()
    # Confidences are at most 1: none leaves, and every batch stays as it is.
    for thresholds, classifier in (
        ((0.0, NEVER), 0),
        ((NEVER, 0.0), 1),
        ((2.0, 2.0), 2),
        ((NEVER, NEVER), 2),
    ):
        rule = Confidence((1.0, 1.0), thresholds)
        left = StagedNetwork(network, rule.exits, feed, devices).run(rule)
        assert np.all(left.classifier == classifier)
        np.testing.assert_array_equal(left.logits, whole[classifier])
    rule = median_rule(whole)
    left = StagedNetwork(network, rule.exits, feed, devices).run(rule)
    expected = where_left(rule, whole)
    assert set(expected) == {0, 1, 2}
    assert left.classifier.tolist() == expected.tolist()
    assert np.abs(left.logits - whole[expected, np.arange(count)]).max() <= bound
