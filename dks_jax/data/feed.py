"""The one interface between data and the training loop.

The loop asks a feed for the chunks of an epoch, hands each chunk's arrays to the compiled step, and the
step calls the feed's `batch` on them. The loop cannot tell images that stay on the devices from images
that are streamed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np


class Batch(NamedTuple):
    """What one step consumes.

    images: normalised, [batch, height, width, channel].
    labels: integers [batch].
    weights: [batch], 1 for an example and 0 for padding.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


class Chunk(NamedTuple):
    """Consecutive batches that one call of the compiled step works through.

    arrays: pytree on the devices, whatever the feed's `batch` needs.
    first: index of the first batch within the epoch.
    num_batches: how many there are.
    batch_size: images in each.
    """

    arrays: Any
    first: int
    num_batches: int
    batch_size: int


class Placement(Protocol):
    """The devices as a feed sees them.

    count: the number of devices, over all processes.
    batches_per_call: most batches in a chunk.
    """

    count: int
    batches_per_call: int

    def replicate(self, tree: Any) -> Any:
        """A copy of every array on every device."""
        ...

    def rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a divided batch lie on the devices of this process; rising."""
        ...

    def divide(self, tree: Any, batch_size: int) -> Any:
        """Arrays of a batch divided over all devices, from this process's `rows` of them."""
        ...

    def shard(self, tree: Any) -> Any:
        """Inside the compiled step: arrays divided over the devices along their first axis."""
        ...


class Feed(Protocol):
    """A data set as the training loop sees it."""

    num_examples: int

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        ...

    def chunks(self, epoch: int, first: int = 0) -> Iterator[Chunk]:
        """The batches of one epoch, counted from 0, in order, from batch number `first` on."""
        ...

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        """Batch number `index` of the epoch, divided over the devices; traced inside the compiled step."""
        ...


class Epochs(NamedTuple):
    """How a training split comes in epochs: shuffled anew for each, then cut into batches.

    drop_last: whether to leave out the last, partial batch of an epoch.
    """

    num_examples: int
    batch_size: int
    drop_last: bool
    seed: int

    @property
    def num_full(self) -> int:
        """Full batches in an epoch."""
        return self.num_examples // self.batch_size

    @property
    def remainder(self) -> int:
        """Images in the partial batch that ends an epoch, 0 where there is none."""
        return 0 if self.drop_last else self.num_examples % self.batch_size

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.num_full + bool(self.remainder)

    def order(self, epoch: int) -> np.ndarray:
        """The examples of an epoch in order, int32 [example]; depends on seed and epoch alone."""
        permutation = np.random.default_rng([self.seed, epoch]).permutation(self.num_examples)
        return permutation.astype(np.int32)

    def generator(self, epoch: int, index: int) -> np.random.Generator:
        """Random numbers for an example that is augmented as it is read; depends on seed, epoch and index."""
        # The 1 tells it from the generator of the order: NumPy takes [seed, epoch] and [seed, epoch, 0] for
        # the same.
        return np.random.default_rng([self.seed, epoch, index, 1])

    def key(self, epoch: int | jax.Array) -> jax.Array:
        """PRNG key of an epoch's augmentation."""
        return jax.random.fold_in(jax.random.key(self.seed), epoch)
