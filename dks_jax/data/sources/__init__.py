"""The data sources by their names in `config.data.source`; each is a module of its own."""

import copy
from collections.abc import Callable

from dks_jax.config import Config
from dks_jax.data import label_noise
from dks_jax.data.images import HeldOut, ImageData, Split, StoredSplit
from dks_jax.data.preprocessing import View
from dks_jax.data.sources import cifar, digits, folder, tfds
from dks_jax.data.sources.interface import Source
from dks_jax.runtime.errors import InputError

SOURCES: dict[str, Source] = {
    "digits": digits.SOURCE,
    "cifar": cifar.SOURCE,
    "folder": folder.SOURCE,
    "tfds": tfds.SOURCE,
}
"""The sources by their names in `config.data.source`."""


def source(name: str) -> Source:
    """The source with the given name.

    Args:
      name: a name in SOURCES.

    Raises:
      InputError: there is no such source.
    """
    if name not in SOURCES:
        raise InputError(f"`data.source` must be one of {', '.join(SOURCES)}; got {name!r}.")
    return SOURCES[name]


def check(config: Config) -> None:
    """Checks the fields of `config.data` as far as that is possible without the data.

    Args:
      config: the section `data` of a config.

    Raises:
      InputError: a field is wrong for the source, or two fields contradict each other.
    """
    own = source(config.source)
    if own.image_size not in (0, config.image_size):
        raise InputError(
            f"`data.image_size` must be {own.image_size} for the source {config.source}, whose images are "
            f"not resized; got {config.image_size}."
        )
    if own.needs_root and not config.root:
        raise InputError(
            f"`data.root` must name the folder of the data for the source {config.source}; got an empty name."
        )
    if config.streamed and own.read_for_labels:
        for name in ("train_per_class", "test_per_class"):
            if config[name]:
                raise InputError(
                    f"`data.{name}` must be 0 where {config.source} is streamed, since only reading an image "
                    f"shows its class; got {config[name]}."
                )
    _check_view(config, own)
    label_noise.check(config)
    if config.channels not in ((0, own.channels) if own.channels else (0, 1, 3)):
        accepted = f"0 or {own.channels}" if own.channels else "0, 1 (grey) or 3 (RGB)"
        raise InputError(
            f"`data.channels` must be {accepted} for the source {config.source}; got {config.channels}."
        )
    if channels := own.channels or config.channels:
        _check_statistics(config, channels)
    if config.padding >= config.image_size:
        raise InputError(
            f"`data.padding` must be below the image size, {config.image_size}; got {config.padding}."
        )


def _check_view(config: Config, own: Source) -> None:
    if own.in_memory and config.preprocessing != "squash":
        raise InputError(
            f"`data.preprocessing` must be squash for the source {config.source}, whose images are not "
            f"resized; got {config.preprocessing!r}."
        )
    for name, none in (("random_resized_crop", False), ("color_jitter", 0), ("policy", "none")):
        if config[name] != none and not config.streamed:
            raise InputError(
                f"`data.{name}` must be {none} where images are not streamed, or set data.streamed=True; got "
                f"{config[name]}."
            )
    if config.train_size and not config.random_resized_crop:
        raise InputError(
            "`data.train_size` must be 0, or set data.random_resized_crop=True, since only random crops are "
            f"resized to another size; got {config.train_size}."
        )
    if len(config.randaugment) != 2:
        raise InputError(
            "`data.randaugment` must be two numbers, the operations and their magnitude, e.g. (2, 9); got "
            f"{config.randaugment}."
        )
    if config.random_resized_crop and config.padding:
        raise InputError(
            "`data.padding` must be 0 where `data.random_resized_crop` is set, which crops already; got "
            f"{config.padding}."
        )


def _check_statistics(config: Config, channels: int) -> None:
    if not config.mean and not config.std:
        return
    for name in ("mean", "std"):
        if len(config[name]) != channels:
            raise InputError(
                f"`data.{name}` must hold one number for each of the {channels} channels of the images; got "
                f"{config[name]}: give data.mean=() and data.std=() for those of the weights, or in training "
                "for those of the training images."
            )


def resolve(config: Config, *, training: bool, channels: int = 0) -> Config:
    """A copy of `config.data` with the names of the splits and the number of channels where they are open.

    The config must have passed `check`.

    Args:
      config: the section `data` of a config.
      training: whether the training split is needed.
      channels: number of channels that given weights take; 0 for 3.

    Raises:
      InputError: a split is absent, or there are two of one kind.
    """
    own = SOURCES[config.source]
    resolved = copy.deepcopy(config)
    resolved.train_split, resolved.held_out = own.resolve(config, training=training)
    if own.converts_channels and not config.channels:
        resolved.channels = channels or 3
        _check_statistics(resolved, resolved.channels)
    return resolved


def load(config: Config, skip: Callable[[str], None] | None = None) -> ImageData:
    """Loads the images that `config.data` describes; those of a folder or tfds in memory unless streamed.

    The config must have passed `check` and come from `resolve`.

    Args:
      config: the section `data` of a config.
      skip: takes a line about each image that cannot be decoded, in whose place the next one is taken; None
        to raise the error.

    Raises:
      InputError: the images are absent or damaged, or too few for `train_per_class` or `test_per_class`.
    """
    view = _view(config)
    images = SOURCES[config.source].load(config, view)
    if skip:
        images = images.replacing_unreadable(skip)
    _check_statistics(config, images.train.image_shape[-1])
    name = images.train.name if isinstance(images.train, StoredSplit) else str
    if _in_memory(config):
        images = images.in_memory(config.train_per_class, config.test_per_class)
    images = images._replace(relabel=label_noise.from_config(config, images, name))
    if config.streamed and isinstance(images.train, Split):
        # Held-out images, which nothing changes, stay in memory.
        images = images._replace(train=images.train.one_by_one(view.for_training))
    return images


def load_held_out(config: Config) -> HeldOut:
    """Loads only the held-out images, as `load` does; the training images may be absent.

    Args:
      config: the section `data` of a config, as for `load`.

    Raises:
      InputError: the images are absent or damaged, or too few for `test_per_class`.
    """
    held_out = SOURCES[config.source].load_held_out(config, _view(config))
    _check_statistics(config, held_out.split.image_shape[-1])
    return held_out.in_memory(config.test_per_class) if _in_memory(config) else held_out


def _in_memory(config: Config) -> bool:
    """Whether the held-out images are kept in memory, and those for training at least loaded into it."""
    return not config.streamed or SOURCES[config.source].in_memory


def _view(config: Config) -> View:
    return View(
        config.image_size,
        config.channels,
        preprocessing=config.preprocessing,
        random_resized_crop=config.random_resized_crop,
        color_jitter=config.color_jitter,
        crop_ratio=config.crop_ratio,
        interpolation=config.interpolation,
        train_size=config.train_size,
        policy=config.policy,
        randaugment=tuple(config.randaugment),
    )
