"""The interface between the data and the training loop.

The loop asks a feed for the chunks of an epoch and passes the arrays of each chunk to the compiled step,
which calls the feed's `batch` on them. The loop is the same for images that stay on the devices and for
images that are streamed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dks_jax.data.images import Relabel


class Batch(NamedTuple):
    """The examples of one step.

    Attributes:
      images: normalised images, [batch, height, width, channel].
      targets: labels, integers [batch]; or probabilities [batch, class].
      weights: [batch], 1 for an example and 0 for padding.
      true_labels: integers [batch], where training images are given others as `targets`; None elsewhere.
    """

    images: jax.Array
    targets: jax.Array
    weights: jax.Array
    true_labels: jax.Array | None = None


def name_labels(labels: np.ndarray, indices: np.ndarray, relabel: Relabel | None) -> dict[str, np.ndarray]:
    """The "labels" that images are given, and the "true_labels" where these may be others.

    Args:
      labels: true labels, [example].
      indices: index of each example in its data set, [example].
      relabel: see `ImageData`.
    """
    if relabel is None:
        return {"labels": labels}
    return {"labels": relabel(indices, labels), "true_labels": labels}


class Chunk(NamedTuple):
    """Consecutive batches that one call of the compiled step processes.

    Attributes:
      arrays: pytree of arrays on the devices, from which the feed's `batch` assembles a batch.
      first: index of the first batch within the epoch.
      num_batches: number of batches.
      batch_size: number of images in each batch.
    """

    arrays: Any
    first: int
    num_batches: int
    batch_size: int


class Feed(Protocol):
    """A data set as the training loop sees it.

    Attributes:
      num_examples: number of images, without padding.
    """

    num_examples: int

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        ...

    def chunks(self, epoch: int, first: int = 0) -> Iterator[Chunk]:
        """Yields the batches of an epoch in order, from batch number `first` on; both count from 0."""
        ...

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        """Assembles a batch, sharded over the devices, inside the compiled step.

        Args:
          arrays: those of a chunk.
          index: number of the batch in the epoch, from 0.
          batch_size: number of its images, which the program is compiled for.
        """
        ...


class Epochs(NamedTuple):
    """The division of a training split into epochs, each in its own random order, and into batches.

    Attributes:
      num_examples: number of training images.
      batch_size: number of images in a full batch.
      drop_last: whether to leave out the last, partial batch of an epoch.
      seed: seed of the order and the augmentation.
    """

    num_examples: int
    batch_size: int
    drop_last: bool
    seed: int

    @property
    def num_full(self) -> int:
        """The number of full batches in an epoch."""
        return self.num_examples // self.batch_size

    @property
    def remainder(self) -> int:
        """The number of images in the partial batch at the end of an epoch, 0 where there is none."""
        return 0 if self.drop_last else self.num_examples % self.batch_size

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return self.num_full + bool(self.remainder)

    def order(self, epoch: int) -> np.ndarray:
        """The order of the examples in an epoch, int32 [example]; a function of seed and epoch."""
        permutation = np.random.default_rng([self.seed, epoch]).permutation(self.num_examples)
        return permutation.astype(np.int32)

    def generator(self, epoch: int, index: int) -> np.random.Generator:
        """The random generator of an epoch for the example at `index`, which is augmented as it is read."""
        # The 1 keeps it apart from the generator of the order, since NumPy treats the seeds [seed, epoch] and
        # [seed, epoch, 0] as equal.
        return np.random.default_rng([self.seed, epoch, index, 1])

    def key(self, epoch: int | jax.Array) -> jax.Array:
        """The PRNG key for the augmentation of an epoch on the devices."""
        return jax.random.fold_in(jax.random.key(self.seed), epoch)
