"""The interface of a data source."""

from collections.abc import Callable
from typing import NamedTuple

from dks_jax.config import Config
from dks_jax.data.images import HeldOut, ImageData
from dks_jax.data.preprocessing import View


class Source(NamedTuple):
    """A data source: functions that load its images, and the properties by which a config is checked.

    load: loads both splits, from `config.data` and the view of the images.
    load_held_out: loads only the held-out split; the training split may be absent.
    image_size: side of the images in pixels; 0 where images are resized to `data.image_size`.
    channels: number of channels of the images; 0 where it depends on the data.
    needs_root: whether `data.root` must name a folder.
    named: whether `data.name` chooses among several data sets.
    read_for_labels: whether the label of an image is known only once the image is read.
    """

    load: Callable[[Config, View], ImageData]
    load_held_out: Callable[[Config, View], HeldOut]
    image_size: int = 0
    channels: int = 0
    needs_root: bool = False
    named: bool = False
    read_for_labels: bool = False

    @property
    def in_memory(self) -> bool:
        """Whether the images are loaded into memory, at their own size, instead of being read one by one."""
        return self.image_size > 0
