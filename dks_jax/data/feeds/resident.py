"""Feeds of uint8 images that stay on the devices, so that a step transfers only a few numbers."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax.data.feeds.interface import Batch, Chunk, Epochs, name_labels
from dks_jax.data.images import Relabel, Split
from dks_jax.data.preparation import Preparation
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.hosts import max_over_processes

# Target duration of a call of the compiled step. It is short enough for a live progress bar, and long enough
# that a GPU, which is idle between two calls, loses less than a thousandth of the time.
SECONDS_PER_CALL = 1.0


class TrainingFeed:
    """Batches of a training split on the devices, augmented and in a new random order in every epoch.

    Order and augmentation depend only on (seed, epoch, example index).

    Args:
      split: the images and labels.
      preparation: normalisation and augmentation.
      epochs: the order of the examples and their division into batches.
      devices: the devices that hold the images.
      relabel: what gives images other labels; see `ImageData`.
    """

    def __init__(
        self,
        split: Split,
        preparation: Preparation,
        epochs: Epochs,
        devices: Devices,
        relabel: Relabel | None = None,
    ):
        self.num_examples = split.num_examples
        self.preparation = preparation
        self.epochs = epochs
        self.devices = devices
        labels = name_labels(split.labels, np.arange(split.num_examples), relabel)
        self.resident = devices.replicate({"images": split.images, **labels})

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
        true = jnp.take(arrays["true_labels"], indices) if "true_labels" in arrays else None
        return self.devices.shard(Batch(images, labels, jnp.ones(batch_size), true))


class EvaluationFeed:
    """Batches of a held-out split on the devices, in order.

    The last batch is padded with examples of weight 0.
    """

    def __init__(self, split: Split, preparation: Preparation, *, batch_size: int, devices: Devices):
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
    """Yields chunks that take about SECONDS_PER_CALL each, estimated from the previous chunk.

    A chunk has at most `most` batches. The division into chunks does not affect the result of an epoch.
    """
    count = 1
    while first < stop:
        count = min(count, stop - first)
        begin = time.perf_counter()
        yield Chunk(arrays, first, count, batch_size)
        first += count
        if most > 1:
            # The slowest process decides, since all processes must choose the same size.
            (per_batch,) = max_over_processes((time.perf_counter() - begin) / count)
            # Growth is at most fourfold, because one measurement can mislead: the first includes compilation.
            count = max(1, min(4 * count, int(SECONDS_PER_CALL / per_batch), most))
