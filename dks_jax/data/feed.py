"""The one interface between data and the training loop.

The loop asks a feed for the chunks of an epoch, hands each chunk's arrays to the compiled step, and the
step calls the feed's `batch` on them. The loop cannot tell images that stay on the devices from images
that are streamed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax


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

    count: the number of devices.
    batches_per_call: most batches in a chunk.
    """

    count: int
    batches_per_call: int

    def replicate(self, tree: Any) -> Any:
        """A copy of every array on every device."""
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

    def chunks(self, epoch: int) -> Iterator[Chunk]:
        """The batches of one epoch, counted from 0, in order."""
        ...

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        """Batch number `index` of the epoch, divided over the devices; traced inside the compiled step."""
        ...
