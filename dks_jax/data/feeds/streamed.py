"""Feeds of images that do not fit on the devices: threads decode a few batches ahead of the step.

Order and augmentation depend only on (seed, epoch, example index), so the batches equal those of the resident
feeds bit for bit, for any number of threads, devices and processes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax.data.feeds.interface import Batch, Chunk, Epochs, name_labels
from dks_jax.data.images import Relabel, StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.runtime.cores import num_cores
from dks_jax.runtime.devices import Devices

BATCHES_AHEAD = 2


class StreamedTrainingFeed:
    """Batches of a training split that is read from disk; otherwise the same as `TrainingFeed`.

    Each process decodes only the images of its own devices.

    Args:
      split: the images on disk.
      preparation: normalisation and augmentation.
      epochs: the order of the examples and their division into batches.
      devices: the devices that the batches go to.
      num_threads: number of decoding threads; None for one per core.
      relabel: what gives images other labels; see `ImageData`.
    """

    def __init__(
        self,
        split: StoredSplit,
        preparation: Preparation,
        epochs: Epochs,
        devices: Devices,
        num_threads: int | None = None,
        *,
        relabel: Relabel | None = None,
    ):
        self.num_examples = split.num_examples
        self.split = split
        self.preparation = preparation
        self.epochs = epochs
        self.devices = devices
        self.relabel = relabel
        self.num_threads = num_threads

    @property
    def steps_per_epoch(self) -> int:
        return self.epochs.steps

    def chunks(self, epoch: int, first: int = 0) -> Iterator[Chunk]:
        order, size = self.epochs.order(epoch), self.epochs.batch_size
        batches = [order[i * size : (i + 1) * size] for i in range(first, self.epochs.steps)]
        replicated = self.devices.replicate({"epoch": np.int32(epoch)})

        def read(index: int) -> tuple[np.ndarray, int]:
            return self.split.read(index, self.epochs.generator(epoch, index))

        arrays = _read_batches(read, batches, self.devices, self.num_threads, self.relabel)
        for i, (indices, divided) in enumerate(zip(batches, arrays, strict=True)):
            yield Chunk(divided | replicated, first + i, 1, len(indices))

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        del index
        positions = self.devices.shard(jnp.arange(batch_size))
        key = self.epochs.key(arrays["epoch"])
        images = self.preparation.training(arrays["images"], positions, arrays["indices"], key)
        labels, true = arrays["labels"], arrays.get("true_labels")
        return self.devices.shard(Batch(images, labels, jnp.ones(batch_size), true))


class StreamedEvaluationFeed:
    """Batches of a held-out split that is read from disk, in order; otherwise the same as `EvaluationFeed`.

    The last batch is padded with black images of weight 0.
    """

    def __init__(
        self,
        split: StoredSplit,
        preparation: Preparation,
        *,
        batch_size: int,
        devices: Devices,
        num_threads: int | None = None,
    ):
        self.num_examples = split.num_examples
        self.split = split
        self.preparation = preparation
        self.batch_size = batch_size
        self.devices = devices
        self.num_threads = num_threads

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def chunks(self, epoch: int, first: int = 0) -> Iterator[Chunk]:
        del epoch
        size = self.batch_size
        batches = [np.arange(i * size, (i + 1) * size) for i in range(first, self.steps_per_epoch)]
        blank = np.zeros(self.split.image_shape, np.uint8), 0

        def read(index: int) -> tuple[np.ndarray, int]:
            return self.split.read(index) if index < self.num_examples else blank

        arrays = _read_batches(read, batches, self.devices, self.num_threads)
        for i, divided in enumerate(arrays, start=first):
            yield Chunk(divided, i, 1, size)

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        del index, batch_size
        images = self.preparation.evaluation(arrays["images"])
        weights = (arrays["indices"] < self.num_examples).astype(jnp.float32)
        return self.devices.shard(Batch(images, arrays["labels"], weights))


def _read_batches(
    read: Callable[[int], tuple[np.ndarray, int]],
    batches: Iterable[np.ndarray],
    devices: Devices,
    num_threads: int | None,
    relabel: Relabel | None = None,
) -> Iterator[dict[str, jax.Array]]:
    """Yields the "images", "indices" and `name_labels` of every batch, sharded over the devices.

    A separate thread stacks the images of a batch and transfers it, so that the batch is ready when the
    previous step ends.
    """
    readers, mover = ThreadPoolExecutor(num_threads or num_cores()), ThreadPoolExecutor(1)

    def move(batch_size: int, own: np.ndarray, examples: list[Future]) -> dict[str, jax.Array]:
        images, labels = zip(*(example.result() for example in examples), strict=True)
        divided = {
            "images": np.stack(images),
            "indices": own.astype(np.int32),
            **name_labels(np.array(labels, np.int32), own, relabel),
        }
        return devices.divide(divided, batch_size)

    waiting = deque()
    batches = iter(batches)
    try:
        while True:
            # BATCHES_AHEAD further batches are being decoded while the caller processes one.
            while len(waiting) <= BATCHES_AHEAD and (indices := next(batches, None)) is not None:
                own = indices[devices.rows(len(indices))]
                examples = [readers.submit(read, int(index)) for index in own]
                waiting.append(mover.submit(move, len(indices), own, examples))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        # The readers shut down first, because the mover waits for them.
        readers.shutdown(cancel_futures=True)
        mover.shutdown(cancel_futures=True)
