"""Time of a training step with images in memory and with streamed ones, beside one batch over and over."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import show_progress, spread
from dks_jax import models, optim
from dks_jax.data import folder
from dks_jax.data.feed import Batch, Chunk, Epochs, Feed
from dks_jax.data.images import Read, Split, StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.data.resident import TrainingFeed
from dks_jax.data.streamed import StreamedTrainingFeed
from dks_jax.data.views import View
from dks_jax.metrics import Stopwatch
from dks_jax.steps import Devices, Steps
from dks_jax.synergy import all_pairs, objective
from dks_jax.tables import markdown_table

SIZE, NUM_CLASSES = 32, 10
MEAN = STD = (0.5, 0.5, 0.5)
# So small that labels drawn at random cannot make the loss grow beyond all bounds.
LEARNING_RATE = 0.01
NETWORK = {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}
CONSTANT = "one batch"
NOTES = f"""\
A step: of a wide ResNet 16-1 with its branches on images of {SIZE} x {SIZE} pixels, the first batch there.
one batch: normalised, on the device. in memory: cropped, mirrored and normalised in the step.
streamed, decoded before: what it costs that batches are put together by the host and moved.
streamed: from JPEG files, by threads that share the cores with the step where it runs on the CPU.
waits: share of the time in which the step has no input."""


class ConstantFeed:
    """One normalised batch over and over, as the compiled step takes it."""

    def __init__(self, num_batches: int, batch_size: int, devices: Devices):
        self.num_examples = num_batches * batch_size
        self.steps_per_epoch = num_batches
        self._batch_size = batch_size
        random = np.random.default_rng(0)
        images = random.standard_normal((batch_size, SIZE, SIZE, 3), np.float32)
        labels = random.integers(NUM_CLASSES, size=batch_size, dtype=np.int32)
        self._arrays = devices.divide({"images": images, "labels": labels}, batch_size)

    def chunks(self, epoch: int, first: int = 0) -> Iterator[Chunk]:
        del epoch
        for i in range(first, self.steps_per_epoch):
            yield Chunk(self._arrays, i, 1, self._batch_size)

    def batch(self, arrays: Any, index: jax.Array, batch_size: int) -> Batch:
        del index
        return Batch(arrays["images"], arrays["labels"], jnp.ones(batch_size))


def measure(
    paths: Sequence[Path], *, batch_size: int, num_threads: int, steps: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of a step, and the share of it that it waits, in every round; by kind of input.

    Raises:
      InputError: an image cannot be read.
    """
    # As many batches in a call for all, so that they differ in the input alone.
    devices = Devices(batches_per_call=1)
    feeds = make_feeds(paths, batch_size, num_threads, steps, devices)
    network = models.build(NETWORK, num_classes=NUM_CLASSES, channels=3, branches=True, seed=0)
    teaches = all_pairs(len(network.names))
    loss = partial(objective, teaches=teaches, names=network.names, epsilon=1e-8)
    compiled = Steps(network, loss, optim.sgd(lambda _: LEARNING_RATE), seed=0, devices=devices)
    state = compiled.initial_state()
    result = {name: {"seconds": [], "waits": []} for name in feeds}
    for i in range(1 + rounds):
        for j, (name, feed) in enumerate(feeds.items()):
            show_progress(i * len(feeds) + j, (1 + rounds) * len(feeds), f"steps, {name}")
            chunks = feed.chunks(0)
            first = next(chunks)
            watch = Stopwatch()
            begin = time.perf_counter()
            for chunk in watch.waiting(chain([first], chunks)):
                state, _ = compiled.train(state, feed, chunk)
            seconds = time.perf_counter() - begin
            # The first round compiles.
            if i:
                result[name]["seconds"].append(seconds / steps)
                result[name]["waits"].append(watch.waited / seconds)
    show_progress(1, 1, "")
    return result


def make_feeds(
    paths: Sequence[Path], batch_size: int, num_threads: int, steps: int, devices: Devices
) -> dict[str, Feed]:
    """Feeds with so many batches, by kind of input."""
    num_examples = steps * batch_size
    epochs = Epochs(num_examples, batch_size, drop_last=True, seed=0)
    augmented = Preparation(MEAN, STD, padding=4, pad_mode="reflect", flip=True)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_examples, SIZE, SIZE, 3), np.uint8)
    labels = random.integers(NUM_CLASSES, size=num_examples, dtype=np.int32)
    view = View(SIZE, preprocessing="standard", random_resized_crop=True)

    def look_up(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        del rng
        return images[index], int(labels[index])

    def decode(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        return folder.decode(paths[index % len(paths)], view, rng), int(labels[index])

    def streamed(read: Read) -> StreamedTrainingFeed:
        split = StoredSplit(num_examples, view.shape, 0, read)
        return StreamedTrainingFeed(split, augmented, epochs, devices, num_threads)

    return {
        CONSTANT: ConstantFeed(steps, batch_size, devices),
        "in memory": TrainingFeed(Split(images, labels), augmented, epochs, devices),
        "streamed, decoded before": streamed(look_up),
        "streamed": streamed(decode),
    }


def show(result: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The table of `measure`, and what its rows are."""
    medians = {name: statistics.median(own["seconds"]) for name, own in result.items()}
    rows = [
        [
            name,
            spread([1e3 * seconds for seconds in own["seconds"]]),
            f"{medians[name] / medians[CONSTANT]:.3f}",
            f"{100 * statistics.median(own['waits']):.1f} %",
        ]
        for name, own in result.items()
    ]
    table = markdown_table([["input", "ms a step", f"to {CONSTANT}", "waits"], *rows])
    return f"{table}\n\n{NOTES}"
