"""The data sources by the name that `config.data.source` gives, and the feeds made of them."""

from jax.typing import DTypeLike

from dks_jax.data import cifar, digits, folder
from dks_jax.data.augment import PAD_MODES
from dks_jax.data.feed import Placement
from dks_jax.data.images import ImageData, Split, first_per_class
from dks_jax.data.resident import EvaluationFeed, Preparation, TrainingFeed
from dks_jax.errors import InputError

# The split of the digits is the same for every seed of a run, so that runs can be averaged.
DIGITS_SPLIT_SEED = 0

SOURCES = {
    "digits": lambda config: _reduced(digits.load(DIGITS_SPLIT_SEED), config),
    "cifar": lambda config: _reduced(cifar.load(config.root, config.name), config),
    "folder": lambda config: folder.load(
        config.root, config.image_size, config.train_per_class, config.test_per_class
    ),
}


def load(config) -> ImageData:
    """The images that `config.data` describes, in memory.

    Raises:
      InputError: no source has that name, or its images are absent or damaged.
    """
    if config.source not in SOURCES:
        raise InputError(f"`data.source` must be one of {', '.join(SOURCES)}; got {config.source!r}.")
    return SOURCES[config.source](config)


def _reduced(images: ImageData, config) -> ImageData:
    def first(split: Split, count: int) -> Split:
        kept = first_per_class(split.labels, count)
        return Split(split.images[kept], split.labels[kept])

    return images._replace(
        train=first(images.train, config.train_per_class), test=first(images.test, config.test_per_class)
    )


def make_feeds(
    config, images: ImageData, *, seed: int, norm_groups: int, dtype: DTypeLike, devices: Placement
) -> tuple[TrainingFeed, EvaluationFeed]:
    """The feeds of the training and the held-out split that `config.data` describes.

    Raises:
      InputError: a field does not fit the images, or a batch does not divide by the devices or by
        `norm_groups`.
    """
    _, height, width, channels = images.train.images.shape
    for name in ("mean", "std"):
        if len(config[name]) != channels:
            raise InputError(
                f"`data.{name}` must hold one number for each of the {channels} channels of the images; got "
                f"{tuple(config[name])}."
            )
    if config.pad_mode not in PAD_MODES:
        raise InputError(f"`data.pad_mode` must be one of {', '.join(PAD_MODES)}; got {config.pad_mode!r}.")
    if config.padding >= min(height, width):
        raise InputError(
            f"`data.padding` must be below the image size, {min(height, width)}; got {config.padding}."
        )
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
    return train, EvaluationFeed(images.test, preparation, batch_size=config.batch_size, devices=devices)
