"""The interface of a data source."""

from collections.abc import Callable
from typing import NamedTuple

from dks_jax.config import Config
from dks_jax.data.images import HeldOut, ImageData
from dks_jax.data.preprocessing import View
from dks_jax.runtime.errors import InputError


def _fixed_splits(config: Config, *, training: bool) -> tuple[str, str]:
    """The splits of a source whose data set has one of each kind.

    Raises:
      InputError: another split is asked for.
    """
    del training
    for field, name in (("train_split", "train"), ("held_out", "test")):
        if config[field] not in ("", name):
            raise InputError(
                f"`data.{field}` must be {name!r} for the source {config.source}; got {config[field]!r}."
            )
    return "train", "test"


class Source(NamedTuple):
    """A data source: functions that load its images, and the properties by which a config is checked.

    load: loads both splits, from `config.data` and the view of the images.
    load_held_out: loads only the held-out split; the training split may be absent.
    resolve: finds the names of the training split and of the held-out split, from `config.data` and whether
      it is for training.
    image_size: side of the images in pixels; 0 where images are resized to `data.image_size`.
    channels: number of channels of the images; 0 where it depends on the data or on the config.
    num_classes: number of classes by `config.data`, as far as it is known without the data; else 0.
    converts_channels: whether images take the number of channels that is asked for.
    needs_root: whether `data.root` must name a folder.
    named: whether `data.name` chooses among several data sets.
    read_for_labels: whether the label of an image is known only once the image is read.
    """

    load: Callable[[Config, View], ImageData]
    load_held_out: Callable[[Config, View], HeldOut]
    resolve: Callable[..., tuple[str, str]] = _fixed_splits
    image_size: int = 0
    channels: int = 0
    num_classes: Callable[[Config], int] = lambda config: 0
    converts_channels: bool = False
    needs_root: bool = False
    named: bool = False
    read_for_labels: bool = False

    @property
    def in_memory(self) -> bool:
        """Whether the images are loaded into memory, at their own size, instead of being read one by one."""
        return self.image_size > 0
