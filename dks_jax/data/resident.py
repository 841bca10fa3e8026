"""Feeds of images that stay on the devices as uint8: nothing but a few numbers moves in a step."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax.data.feed import Batch, Chunk, Epochs, Placement
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.hosts import largest

# The host looks at the result of a call this often: short enough for a live progress bar, long enough
# that a GPU, which waits for the host in between, stands still for less than a thousandth of the time.
SECONDS_PER_CALL = 1.0


class TrainingFeed:
    """Batches of a training split, shuffled anew every epoch and augmented.

    Order and augmentation depend on (seed, epoch, example index) alone.

    Args:
      split: the images and labels.
      preparation: normalisation and augmentation.
      epochs: the order of the examples and their division into batches.
      devices: where the images live.
    """

    def __init__(self, split: Split, preparation: Preparation, epochs: Epochs, devices: Placement):
        self.num_examples = split.num_examples
        self.preparation = preparation
        self.epochs = epochs
        self.devices = devices
        self.resident = devices.replicate({"images": split.images, "labels": split.labels})

    @property
    def steps_per_epoch(self) -> int:
        return self.epochs.steps

    def chunks(self, epoch: int, first: int = 0) -> Iterator[Chunk]:
        epochs = self.epochs
        arrays = self.devices.replicate({"order": epochs.order(epoch), "epoch": np.int32(epoch)})
        arrays |= self.resident
        yield from _paced(arrays, first, epochs.num_full, epochs.batch_size, self.devices.batches_per_call)
        if first < epochs.steps and epochs.remainder:
            yield Chunk(arrays, epochs.num_full, 1, epochs.remainder)

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        start = index * self.epochs.batch_size
        indices = self.devices.shard(jax.lax.dynamic_slice(arrays["order"], (start,), (batch_size,)))
        key = self.epochs.key(arrays["epoch"])
        images = self.preparation.training(arrays["images"], indices, indices, key)
        labels = jnp.take(arrays["labels"], indices)
        return self.devices.shard(Batch(images, labels, jnp.ones(batch_size)))


class EvaluationFeed:
    """Batches of a held-out split in order; the last one is filled up with examples of weight 0."""

    def __init__(self, split: Split, preparation: Preparation, *, batch_size: int, devices: Placement):
        self.num_examples = split.num_examples
        self.preparation = preparation
        self.batch_size = batch_size
        self.devices = devices
        self.resident = devices.replicate({"images": split.images, "labels": split.labels})

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def chunks(self, epoch: int, first: int = 0) -> Iterator[Chunk]:
        del epoch
        steps, most = self.steps_per_epoch, self.devices.batches_per_call
        yield from _paced(self.resident, first, steps, self.batch_size, most)

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        positions = self.devices.shard(index * self.batch_size + jnp.arange(batch_size))
        indices = jnp.minimum(positions, self.num_examples - 1)
        images = self.preparation.evaluation(jnp.take(arrays["images"], indices, axis=0))
        labels = jnp.take(arrays["labels"], indices)
        return self.devices.shard(Batch(images, labels, (positions < self.num_examples).astype(jnp.float32)))


def _paced(arrays: Any, first: int, stop: int, batch_size: int, most: int) -> Iterator[Chunk]:
    """Chunks of so many batches as take about SECONDS_PER_CALL, going by the chunk before; `most` at most.

    How an epoch is cut into chunks has no influence on its result.
    """
    count = 1
    while first < stop:
        count = min(count, stop - first)
        begin = time.perf_counter()
        yield Chunk(arrays, first, count, batch_size)
        first += count
        if most > 1:
            # All processes must cut alike: the slowest decides.
            (per_batch,) = largest((time.perf_counter() - begin) / count)
            # At most fourfold growth: the first chunk of a run includes compilation, others may be disturbed.
            count = max(1, min(4 * count, int(SECONDS_PER_CALL / per_batch), most))
