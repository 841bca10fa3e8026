"""Feeds of images that stay on the devices as uint8: nothing but a few numbers moves in a step."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax.data.augment import crop_and_flip, normalise
from dks_jax.data.feed import Batch, Chunk, Placement
from dks_jax.data.images import Split

# The host looks at the result of a call this often: short enough for a live progress bar, long enough
# that a GPU, which waits for the host in between, stands still for less than a thousandth of the time.
SECONDS_PER_CALL = 1.0


class Preparation(NamedTuple):
    """How images become the input of the network.

    mean, std: per channel, of images in the range 0 to 1.
    padding, pad_mode, flip: augmentation of training images; see `crop_and_flip`.
    dtype: of the prepared images, and thereby of the network's computation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    pad_mode: str = "reflect"
    flip: bool = False
    dtype: Any = jnp.float32


class TrainingFeed:
    """Batches of a training split, shuffled anew every epoch and augmented.

    Order and augmentation depend on (seed, epoch, example index) alone.

    Args:
      split: the images and labels.
      preparation: normalisation and augmentation.
      batch_size: images in a step.
      drop_last: whether to leave out the last, partial batch of an epoch.
      seed: of the shuffling and the augmentation.
      devices: where the images live.
    """

    def __init__(
        self,
        split: Split,
        preparation: Preparation,
        *,
        batch_size: int,
        drop_last: bool,
        seed: int,
        devices: Placement,
    ):
        self.num_examples = len(split.labels)
        self.num_full, remainder = divmod(self.num_examples, batch_size)
        self.remainder = 0 if drop_last else remainder
        self.preparation = preparation
        self.batch_size = batch_size
        self.seed = seed
        self.devices = devices
        self.resident = devices.replicate({"images": split.images, "labels": split.labels})

    @property
    def steps_per_epoch(self) -> int:
        return self.num_full + bool(self.remainder)

    def chunks(self, epoch: int) -> Iterator[Chunk]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_examples).astype(np.int32)
        arrays = self.resident | self.devices.replicate({"order": order, "epoch": np.int32(epoch)})
        yield from _paced(arrays, self.num_full, self.batch_size, self.devices.batches_per_call)
        if self.remainder:
            yield Chunk(arrays, self.num_full, 1, self.remainder)

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        start = index * self.batch_size
        indices = self.devices.shard(jax.lax.dynamic_slice(arrays["order"], (start,), (batch_size,)))
        key = jax.random.fold_in(jax.random.key(self.seed), arrays["epoch"])
        prepare = self.preparation
        images = crop_and_flip(
            arrays["images"],
            indices,
            key,
            padding=prepare.padding,
            pad_mode=prepare.pad_mode,
            flip=prepare.flip,
        )
        images = normalise(images, prepare.mean, prepare.std, prepare.dtype)
        labels = jnp.take(arrays["labels"], indices)
        return self.devices.shard(Batch(images, labels, jnp.ones(batch_size)))


class EvaluationFeed:
    """Batches of a held-out split in order; the last one is filled up with examples of weight 0."""

    def __init__(
        self,
        split: Split,
        preparation: Preparation,
        *,
        batch_size: int,
        devices: Placement,
    ):
        self.num_examples = len(split.labels)
        self.preparation = preparation
        self.batch_size = batch_size
        self.devices = devices
        self.resident = devices.replicate({"images": split.images, "labels": split.labels})

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def chunks(self, epoch: int) -> Iterator[Chunk]:
        del epoch
        yield from _paced(self.resident, self.steps_per_epoch, self.batch_size, self.devices.batches_per_call)

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        positions = self.devices.shard(index * self.batch_size + jnp.arange(batch_size))
        indices = jnp.minimum(positions, self.num_examples - 1)
        images = jnp.take(arrays["images"], indices, axis=0)
        images = normalise(images, self.preparation.mean, self.preparation.std, self.preparation.dtype)
        labels = jnp.take(arrays["labels"], indices)
        return self.devices.shard(Batch(images, labels, (positions < self.num_examples).astype(jnp.float32)))


def _paced(arrays: Any, num_batches: int, batch_size: int, max_count: int) -> Iterator[Chunk]:
    """Chunks of so many batches as take about SECONDS_PER_CALL, going by the chunk before; max_count at most.

    How an epoch is cut into chunks has no influence on its result.
    """
    first, count = 0, 1
    while first < num_batches:
        count = min(count, num_batches - first)
        begin = time.perf_counter()
        yield Chunk(arrays, first, count, batch_size)
        first += count
        per_batch = (time.perf_counter() - begin) / count
        # At most fourfold growth: the first chunk of a run includes compilation, others may be disturbed.
        count = max(1, min(4 * count, int(SECONDS_PER_CALL / per_batch), max_count))
