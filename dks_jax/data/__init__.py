"""The data sources by the name that `config.data.source` gives, and the feeds made of them."""

from collections.abc import Callable
from typing import NamedTuple

from jax.typing import DTypeLike

from dks_jax.configuration import Config
from dks_jax.data import cifar, digits, folder, tfds_source
from dks_jax.data.augment import PAD_MODES
from dks_jax.data.feed import Epochs, Feed, Placement
from dks_jax.data.images import HeldOut, ImageData, Split, StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.data.resident import EvaluationFeed, TrainingFeed
from dks_jax.data.streamed import StreamedEvaluationFeed, StreamedTrainingFeed
from dks_jax.data.views import PREPROCESSING, View
from dks_jax.errors import InputError


class Source(NamedTuple):
    """How to load a data set from `config.data`.

    load: its training and its held-out split.
    load_held_out: the latter alone, also where there is no other.
    image_size: side of its images in pixels; 0 where `data.preprocessing` brings them to `data.image_size`.
    channels: of its images; 0 where only the data tell.
    """

    load: Callable[[Config], ImageData]
    load_held_out: Callable[[Config], HeldOut]
    image_size: int
    channels: int


def _view(config: Config) -> View:
    return View(
        config.image_size,
        preprocessing=config.preprocessing,
        random_resized_crop=config.random_resized_crop,
        color_jitter=config.color_jitter,
    )


SOURCES = {
    "digits": Source(
        lambda config: digits.load(),
        lambda config: digits.load().held_out,
        8,
        1,
    ),
    "cifar": Source(
        lambda config: cifar.load(config.root, config.name),
        lambda config: cifar.load(config.root, config.name).held_out,
        32,
        3,
    ),
    "folder": Source(
        lambda config: folder.load(config.root, _view(config), config.train_per_class, config.test_per_class),
        lambda config: folder.load_held_out(config.root, _view(config), config.test_per_class),
        0,
        3,
    ),
    "tfds": Source(
        lambda config: tfds_source.load(config.root, config.name, _view(config)),
        lambda config: tfds_source.load_held_out(config.root, config.name, _view(config)),
        0,
        0,
    ),
}


def check(config: Config) -> None:
    """Raises InputError for fields of `config.data` that no data could make right."""
    if config.source not in SOURCES:
        raise InputError(f"`data.source` must be one of {', '.join(SOURCES)}; got {config.source!r}.")
    source = SOURCES[config.source]
    if source.image_size not in (0, config.image_size):
        raise InputError(
            f"`data.image_size` must be {source.image_size} for the source {config.source}, since only the "
            f"images of a folder or of tfds are resized; got {config.image_size}."
        )
    if config.source in ("cifar", "folder") and not config.root:
        raise InputError(
            f"`data.root` must name the folder of the data for the source {config.source}; got an empty name."
        )
    if config.streamed and config.source in ("digits", "cifar"):
        raise InputError(
            f"`data.streamed` must be False for the source {config.source}, whose images are in memory."
        )
    if config.streamed and config.source == "tfds":
        for name in ("train_per_class", "test_per_class"):
            if config[name]:
                raise InputError(
                    f"`data.{name}` must be 0 where tfds is streamed, since only reading tells the classes; "
                    f"got {config[name]}."
                )
    _check_view(config, source)
    if source.channels:
        _check_channels(config, source.channels)
    if config.pad_mode not in PAD_MODES:
        raise InputError(f"`data.pad_mode` must be one of {', '.join(PAD_MODES)}; got {config.pad_mode!r}.")
    if config.padding >= config.image_size:
        raise InputError(
            f"`data.padding` must be below the image size, {config.image_size}; got {config.padding}."
        )


def _check_view(config: Config, source: Source) -> None:
    if config.preprocessing not in PREPROCESSING:
        raise InputError(
            f"`data.preprocessing` must be one of {', '.join(PREPROCESSING)}; got {config.preprocessing!r}."
        )
    if source.image_size and config.preprocessing != "squash":
        raise InputError(
            f"`data.preprocessing` must be squash for the source {config.source}, whose images have their "
            f"size; got {config.preprocessing!r}."
        )
    for name, none in (("random_resized_crop", False), ("color_jitter", 0)):
        if config[name] == none or config.streamed:
            continue
        if source.image_size:
            where, remedy = f"for the source {config.source}, whose images are in memory", ""
        else:
            where, remedy = "where images are decoded once", ", or set data.streamed=True"
        raise InputError(f"`data.{name}` must be {none} {where}{remedy}; got {config[name]}.")
    if config.random_resized_crop and config.padding:
        raise InputError(
            "`data.padding` must be 0 where `data.random_resized_crop` is set, which is the crop then; got "
            f"{config.padding}."
        )


def _check_channels(config: Config, channels: int) -> None:
    for name in ("mean", "std"):
        if len(config[name]) != channels:
            raise InputError(
                f"`data.{name}` must hold one number for each of the {channels} channels of the images; got "
                f"{config[name]}."
            )


def load(config: Config) -> ImageData:
    """The images that `config.data` describes, as `check` accepts it; in memory unless they are streamed.

    Raises:
      InputError: the images are absent or damaged, or too few for `train_per_class` or `test_per_class`.
    """
    images = SOURCES[config.source].load(config)
    _check_channels(config, images.train.image_shape[-1])
    return images if config.streamed else images.in_memory(config.train_per_class, config.test_per_class)


def load_held_out(config: Config) -> HeldOut:
    """The held-out images alone, as `load` gives them; no training images are needed.

    Raises:
      InputError: the images are absent or damaged, or too few for `test_per_class`.
    """
    held_out = SOURCES[config.source].load_held_out(config)
    _check_channels(config, held_out.split.image_shape[-1])
    return held_out if config.streamed else held_out.in_memory(config.test_per_class)


def make_feeds(
    config: Config, images: ImageData, *, seed: int, norm_groups: int, dtype: DTypeLike, devices: Placement
) -> tuple[Feed, Feed]:
    """The feeds of the training and the held-out split that `config.data` describes.

    Raises:
      InputError: a batch does not divide by the devices or by `norm_groups`, or there is none.
    """
    preparation = Preparation(
        tuple(config.mean), tuple(config.std), config.padding, config.pad_mode, config.flip, dtype
    )
    epochs = Epochs(images.train.num_examples, config.batch_size, config.drop_last, seed)
    _check_batches(epochs, devices, norm_groups)
    return (
        _training_feed(images.train, preparation, epochs, devices),
        held_out_feed(images.test, preparation, batch_size=config.batch_size, devices=devices),
    )


def held_out_feed(
    split: Split | StoredSplit, preparation: Preparation, *, batch_size: int, devices: Placement
) -> Feed:
    """The feed of a held-out split, in order and not augmented.

    Its batches hold `batch_size` images or as many as there are, rounded up to a multiple of the devices.
    """
    batch_size = -(-min(batch_size, split.num_examples) // devices.count) * devices.count
    if isinstance(split, Split):
        return EvaluationFeed(split, preparation, batch_size=batch_size, devices=devices)
    return StreamedEvaluationFeed(split, preparation, batch_size=batch_size, devices=devices)


def _check_batches(epochs: Epochs, devices: Placement, norm_groups: int) -> None:
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


def _training_feed(
    split: Split | StoredSplit, preparation: Preparation, epochs: Epochs, devices: Placement
) -> Feed:
    if isinstance(split, Split):
        return TrainingFeed(split, preparation, epochs, devices)
    return StreamedTrainingFeed(split, preparation, epochs, devices)
