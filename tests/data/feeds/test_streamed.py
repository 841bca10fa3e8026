"""Streamed feeds: the batches of the resident ones, bit for bit, whatever the threads; decoding ahead."""

import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

from dks_jax.data.feeds.interface import Epochs
from dks_jax.data.feeds.resident import EvaluationFeed, TrainingFeed
from dks_jax.data.feeds.streamed import BATCHES_AHEAD, StreamedEvaluationFeed, StreamedTrainingFeed
from dks_jax.data.images import Split, StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.training.steps import Steps
from support.comparison import assert_same_bits
from support.runs import last_checkpoint, records, train_on, without_speed

RANDOM = np.random.default_rng(0)
SPLIT = Split(RANDOM.integers(0, 256, (23, 8, 8, 3), np.uint8), RANDOM.integers(0, 5, 23).astype(np.int32))
AUGMENTED = Preparation((0.5,) * 3, (0.25,) * 3, padding=2, flip=True)


def stored(read=lambda index, rng=None: (SPLIT.images[index], int(SPLIT.labels[index]))):
    return StoredSplit(SPLIT.num_examples, SPLIT.image_shape, 0, read)


def batches(feed, epoch=0, first=0):
    prepare = jax.jit(feed.batch, static_argnums=2)
    return [
        jax.device_get(prepare(chunk.arrays, np.int32(index), chunk.batch_size))
        for chunk in feed.chunks(epoch, first)
        for index in range(chunk.first, chunk.first + chunk.num_batches)
    ]


def assert_same_batches(one, other):
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("num_threads", "drop_last"), [(1, False), (7, True)])
def test_training_batches_are_those_of_resident_images(num_threads, drop_last):
    epochs = Epochs(23, 8, drop_last, seed=3)
    resident = TrainingFeed(SPLIT, AUGMENTED, epochs, Devices())
    streamed = StreamedTrainingFeed(stored(), AUGMENTED, epochs, Devices(), num_threads)
    assert streamed.steps_per_epoch == resident.steps_per_epoch
    for epoch in (0, 1):
        assert_same_batches(batches(streamed, epoch), batches(resident, epoch))


def test_evaluation_batches_are_those_of_resident_images_but_for_the_filling():
    resident = EvaluationFeed(SPLIT, AUGMENTED, batch_size=8, devices=Devices())
    streamed = StreamedEvaluationFeed(stored(), AUGMENTED, batch_size=8, devices=Devices())
    assert streamed.steps_per_epoch == resident.steps_per_epoch
    for a, b in zip(batches(streamed), batches(resident), strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)
        real = a.weights == 1
        np.testing.assert_array_equal(a.images[real], b.images[real])
        np.testing.assert_array_equal(a.targets[real], b.targets[real])


def test_an_epoch_can_be_entered_at_any_batch():
    epochs = Epochs(23, 8, False, seed=3)
    resident = TrainingFeed(SPLIT, AUGMENTED, epochs, Devices())
    streamed = StreamedTrainingFeed(stored(), AUGMENTED, epochs, Devices())
    whole = batches(resident, 4)
    for feed in (resident, streamed):
        for first in (1, 2, 3):
            assert_same_batches(batches(feed, 4, first), whole[first:])


def test_the_next_batches_are_decoded_while_one_is_worked_on():
    begun = []
    feed = StreamedTrainingFeed(
        stored(lambda index, rng: (begun.append(index), SPLIT.images[index], 0)[1:]),
        AUGMENTED,
        Epochs(23, 4, True, seed=0),
        Devices(),
        num_threads=2,
    )
    chunks = feed.chunks(0)
    next(chunks)
    end = time.monotonic() + 10
    while len(begun) < 4 * (1 + BATCHES_AHEAD) and time.monotonic() < end:
        time.sleep(0.01)
    # And no more than these, or a slow step would let images pile up in memory.
    assert len(begun) == 4 * (1 + BATCHES_AHEAD)
    chunks.close()


def test_leaving_an_epoch_ends_its_threads():
    before = threading.active_count()
    feed = StreamedTrainingFeed(stored(), AUGMENTED, Epochs(23, 4, True, seed=0), Devices(), num_threads=3)
    chunks = feed.chunks(0)
    next(chunks)
    assert threading.active_count() > before
    chunks.close()
    assert threading.active_count() == before


def test_an_image_that_cannot_be_read_is_reported():
    def read(index, rng):
        if index == 11:
            raise InputError("image 11 is broken.")
        return SPLIT.images[index], 0

    feed = StreamedTrainingFeed(stored(read), AUGMENTED, Epochs(23, 8, False, seed=0), Devices())
    with pytest.raises(InputError, match="image 11 is broken"):
        batches(feed)


def test_decoding_into_memory_gives_every_image_and_label():
    split = stored().in_memory()
    np.testing.assert_array_equal(split.images, SPLIT.images)
    np.testing.assert_array_equal(split.labels, SPLIT.labels)
    assert split.labels.dtype == np.int32


@pytest.mark.usefixtures("tiny_model")
def test_a_streamed_run_stopped_within_an_epoch_equals_an_unbroken_one(
    image_folder, tmp_path, monkeypatch, capsys
):
    fields = ["streamed=True", "random_resized_crop=True", "padding=0", "color_jitter=1", "batch_size=2"]
    arguments = [*(f"--config.data.{field}" for field in fields), "--config.epochs=2"]
    assert train_on(image_folder, tmp_path / "unbroken", *arguments) == 0
    whole = Steps.train_async

    def stop_after_third(steps, state, *rest):
        if int(state.step) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(steps, state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "train_async", stop_after_third)
        assert train_on(image_folder, tmp_path / "stopped", *arguments) == 128 + signal.SIGTERM
    assert "step 3 of 4" in capsys.readouterr().err
    assert train_on(image_folder, tmp_path / "stopped", *arguments) == 0
    lines, expected = (
        [without_speed(line) for line in records(tmp_path / run)] for run in ("stopped", "unbroken")
    )
    assert lines == expected
    assert_same_bits(last_checkpoint(tmp_path / "stopped"), last_checkpoint(tmp_path / "unbroken"))


def test_a_broken_image_that_is_streamed_ends_the_run_with_its_name(image_folder, tmp_path, capsys):
    (image_folder / "train/b/2.png").write_bytes(b"no image")
    assert train_on(image_folder, tmp_path / "run", "--config.data.streamed=True") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(image_folder / "train/b/2.png") in error
