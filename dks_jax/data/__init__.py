"""The data sources by the name that `config.data.source` gives, and the feeds made of them."""

from collections.abc import Callable
from typing import NamedTuple

from jax.typing import DTypeLike

from dks_jax.configuration import Config
from dks_jax.data import cifar, digits, folder
from dks_jax.data.augment import PAD_MODES
from dks_jax.data.feed import Placement
from dks_jax.data.images import ImageData
from dks_jax.data.resident import EvaluationFeed, Preparation, TrainingFeed
from dks_jax.errors import InputError


class Source(NamedTuple):
    """How to load a data set from `config.data`.

    image_size: side of its images in pixels; 0 where they are resized to `data.image_size`.
    channels: of its images.
    """

    load: Callable[[Config], ImageData]
    image_size: int
    channels: int


SOURCES = {
    "digits": Source(
        lambda config: digits.load().reduced(config.train_per_class, config.test_per_class), 8, 1
    ),
    "cifar": Source(
        lambda config: cifar.load(config.root, config.name).reduced(
            config.train_per_class, config.test_per_class
        ),
        32,
        3,
    ),
    "folder": Source(
        lambda config: folder.load(
            config.root, config.image_size, config.train_per_class, config.test_per_class
        ),
        0,
        3,
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
            f"images of a folder are resized; got {config.image_size}."
        )
    if config.source in ("cifar", "folder") and not config.root:
        raise InputError(
            f"`data.root` must name the folder of the data for the source {config.source}; got an empty name."
        )
    for name in ("mean", "std"):
        if len(config[name]) != source.channels:
            raise InputError(
                f"`data.{name}` must hold one number for each of the {source.channels} channels of the "
                f"images; got {config[name]}."
            )
    if config.pad_mode not in PAD_MODES:
        raise InputError(f"`data.pad_mode` must be one of {', '.join(PAD_MODES)}; got {config.pad_mode!r}.")
    if config.padding >= config.image_size:
        raise InputError(
            f"`data.padding` must be below the image size, {config.image_size}; got {config.padding}."
        )


def load(config: Config) -> ImageData:
    """The images that `config.data` describes, as `check` accepts it, in memory.

    Raises:
      InputError: the images are absent or damaged, or too few for `train_per_class` or `test_per_class`.
    """
    return SOURCES[config.source].load(config)


def make_feeds(
    config: Config, images: ImageData, *, seed: int, norm_groups: int, dtype: DTypeLike, devices: Placement
) -> tuple[TrainingFeed, EvaluationFeed]:
    """The feeds of the training and the held-out split that `config.data` describes.

    Raises:
      InputError: a batch does not divide by the devices or by `norm_groups`, or there is none.
    """
    preparation = Preparation(
        tuple(config.mean), tuple(config.std), config.padding, config.pad_mode, config.flip, dtype
    )
    train = TrainingFeed(
        images.train,
        preparation,
        batch_size=config.batch_size,
        drop_last=config.drop_last,
        seed=seed,
        devices=devices,
    )
    for divisor, name in ((devices.count, "the number of devices"), (norm_groups, "`norm_groups`")):
        if config.batch_size % divisor:
            raise InputError(
                f"`data.batch_size` must be a multiple of {name}, {divisor}; got {config.batch_size}."
            )
        if train.remainder % divisor:
            raise InputError(
                f"The last batch of an epoch holds {train.remainder} of the {train.num_examples} training "
                f"images, which is no multiple of {name}, {divisor}: set data.drop_last=True or another "
                "data.batch_size."
            )
    if not train.steps_per_epoch:
        raise InputError(
            f"`data.batch_size` must be at most {train.num_examples}, the number of training images, where "
            f"data.drop_last is set; got {config.batch_size}."
        )
    # No larger than the split needs, and a multiple of the devices.
    needed = -(-len(images.test.labels) // devices.count) * devices.count
    batch_size = min(config.batch_size, needed)
    return train, EvaluationFeed(images.test, preparation, batch_size=batch_size, devices=devices)
