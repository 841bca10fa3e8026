"""Feeds: batches for the compiled step, of images that stay on the devices or are streamed."""

from functools import partial

from jax.typing import DTypeLike

from dks_jax.config import Config
from dks_jax.data.erasing import cutout, random_erasing
from dks_jax.data.feeds.interface import Batch, Chunk, Epochs, Feed
from dks_jax.data.feeds.resident import EvaluationFeed, TrainingFeed
from dks_jax.data.feeds.streamed import StreamedEvaluationFeed, StreamedTrainingFeed
from dks_jax.data.images import ImageData, Split, StoredSplit
from dks_jax.data.preparation import Augmentation, Preparation
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError

__all__ = [
    "Batch",
    "Chunk",
    "Epochs",
    "EvaluationFeed",
    "Feed",
    "StreamedEvaluationFeed",
    "StreamedTrainingFeed",
    "TrainingFeed",
    "held_out_feed",
    "make_feeds",
]


def make_feeds(
    config: Config, images: ImageData, *, seed: int, norm_groups: int, dtype: DTypeLike, devices: Devices
) -> tuple[Feed, Feed]:
    """Builds the feeds of the training split and of the held-out split.

    Args:
      config: the section `data` of a config.
      images: the images that it describes; see `data.load`.
      seed: seed of the order and the augmentation.
      norm_groups: slices in which batch normalisation treats a batch.
      dtype: dtype in which the network computes.
      devices: the devices that the batches go to.

    Raises:
      InputError: a training batch is not divisible by the number of devices or by `norm_groups`, or an epoch
        has no batch.
    """
    preparation = Preparation(
        tuple(config.mean),
        tuple(config.std),
        config.padding,
        config.pad_mode,
        config.flip,
        dtype,
        _augmentations(config),
    )
    epochs = Epochs(images.train.num_examples, config.batch_size, config.drop_last, seed)
    _check_batches(epochs, devices, norm_groups)
    return (
        _training_feed(images, preparation, epochs, devices),
        held_out_feed(images.test, preparation, batch_size=config.batch_size, devices=devices),
    )


def _augmentations(config: Config) -> tuple[Augmentation, ...]:
    """The augmentations of normalised training images, which run inside the compiled step."""
    own: list[Augmentation] = []
    if config.random_erasing:
        own.append(partial(random_erasing, probability=config.random_erasing))
    if config.cutout:
        own.append(partial(cutout, size=config.cutout))
    return tuple(own)


def held_out_feed(
    split: Split | StoredSplit, preparation: Preparation, *, batch_size: int, devices: Devices
) -> Feed:
    """Builds the feed of a held-out split, in order and without augmentation.

    Args:
      split: the images.
      preparation: how they are normalised.
      batch_size: largest number of images in a batch, which becomes at most the number of examples, and a
        multiple of the number of devices.
      devices: the devices that the batches go to.
    """
    batch_size = -(-min(batch_size, split.num_examples) // devices.count) * devices.count
    if isinstance(split, Split):
        return EvaluationFeed(split, preparation, batch_size=batch_size, devices=devices)
    return StreamedEvaluationFeed(split, preparation, batch_size=batch_size, devices=devices)


def _check_batches(epochs: Epochs, devices: Devices, norm_groups: int) -> None:
    for divisor, name in ((devices.count, "the number of devices"), (norm_groups, "`norm_groups`")):
        if epochs.batch_size % divisor:
            raise InputError(
                f"`data.batch_size` must be a multiple of {name}, {divisor}; got {epochs.batch_size}."
            )
        if epochs.remainder % divisor:
            raise InputError(
                f"The last batch of an epoch holds {epochs.remainder} of the {epochs.num_examples} training "
                f"images, which is no multiple of {name}, {divisor}: set data.drop_last=True or another "
                "data.batch_size."
            )
    if not epochs.steps:
        raise InputError(
            f"`data.batch_size` must be at most {epochs.num_examples}, the number of training images, where "
            f"data.drop_last is set; got {epochs.batch_size}."
        )


def _training_feed(images: ImageData, preparation: Preparation, epochs: Epochs, devices: Devices) -> Feed:
    if isinstance(images.train, Split):
        return TrainingFeed(images.train, preparation, epochs, devices, images.relabel)
    return StreamedTrainingFeed(images.train, preparation, epochs, devices, relabel=images.relabel)
