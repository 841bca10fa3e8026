"""Feeds of resident images: every example once, order and augmentation by seed and epoch alone."""

import jax
import numpy as np
import pytest

from dks_jax.data.feeds.interface import Epochs
from dks_jax.data.feeds.resident import EvaluationFeed, TrainingFeed
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.runtime.devices import Devices

NUM = 23
# The single pixel of an image is its index, and its label is the index modulo 5.
SPLIT = Split(np.arange(NUM, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(NUM, dtype=np.int32) % 5)
PLAIN = Preparation((0.0,), (1.0 / 255.0,))  # leaves the pixel values as they are


def training_feed(batch_size=8, drop_last=False, seed=0, batches_per_call=4):
    epochs = Epochs(NUM, batch_size, drop_last, seed)
    return TrainingFeed(SPLIT, PLAIN, epochs, Devices(batches_per_call))


def batches(feed, epoch=0):
    """All batches of an epoch, and the sizes of the chunks that they came in."""
    prepare = jax.jit(feed.batch, static_argnums=2)
    result, chunks = [], []
    for chunk in feed.chunks(epoch):
        chunks.append(chunk.num_batches)
        for i in range(chunk.first, chunk.first + chunk.num_batches):
            result.append(prepare(chunk.arrays, np.int32(i), chunk.batch_size))
    return result, chunks


def pixels(batch):
    return np.rint(np.asarray(batch.images)[:, 0, 0, 0]).astype(int)


def test_an_epoch_holds_every_example_once_with_its_label():
    feed = training_feed()
    epoch, _ = batches(feed)
    assert feed.steps_per_epoch == len(epoch) == 3
    assert [len(batch.targets) for batch in epoch] == [8, 8, 7]
    seen = np.concatenate([pixels(batch) for batch in epoch])
    labels = np.concatenate([batch.targets for batch in epoch])
    assert sorted(seen) == list(range(NUM))
    np.testing.assert_array_equal(labels, seen % 5)


def test_the_last_partial_batch_can_be_dropped():
    feed = training_feed(drop_last=True)
    epoch, _ = batches(feed)
    assert feed.steps_per_epoch == 2
    assert [len(batch.targets) for batch in epoch] == [8, 8]


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return np.concatenate(
            [pixels(batch) for batch in batches(training_feed(seed=seed), epoch)[0]]
        ).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_chunks_grow_while_batches_are_quick():
    _, chunks = batches(training_feed(batch_size=1, batches_per_call=8))
    assert chunks[0] == 1
    assert max(chunks) > 1
    assert sum(chunks) == NUM


@pytest.mark.parametrize("batch_size", [5, 23, 40])
def test_evaluation_counts_every_example_once_in_order(batch_size):
    feed = EvaluationFeed(SPLIT, PLAIN, batch_size=batch_size, devices=Devices(4))
    epoch, _ = batches(feed)
    assert feed.steps_per_epoch == len(epoch) == -(-NUM // batch_size)
    assert {batch.images.shape[0] for batch in epoch} == {batch_size}
    counted = np.concatenate([pixels(batch)[np.asarray(batch.weights) == 1] for batch in epoch])
    assert counted.tolist() == list(range(NUM))
    assert sum(float(batch.weights.sum()) for batch in epoch) == NUM
