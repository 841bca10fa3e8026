"""What every data source returns: labelled uint8 images, in memory or to be decoded one by one."""

import os
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from dks_jax.errors import InputError


class UnreadableError(InputError):
    """An image on disk that cannot be read.

    name: its path, or e.g. "image 12 of the split validation of imagenet2012:5.1.0".
    """

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


class Split(NamedTuple):
    """Labelled images of one size, in memory.

    images: uint8 [example, height, width, channel], range 0 to 255.
    labels: int32 [example], range 0 to number of classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def num_examples(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.images.shape[1:]

    @property
    def checksum(self) -> int:
        """Of every image and label."""
        return zlib.crc32(self.labels.tobytes(), zlib.crc32(self.images.tobytes()))


class Read(Protocol):
    """From an index to the image, uint8 [height, width, channel], and its label.

    `rng` is what a training image is augmented with, where it is augmented as it is read; None leaves that
    out. Threads call it at the same time. Raises UnreadableError where the image cannot be decoded.
    """

    def __call__(self, index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]: ...


class StoredSplit(NamedTuple):
    """Labelled images of one size, on disk; an image is decoded when it is read.

    num_examples: how many there are.
    image_shape: height, width, channels.
    checksum: of what tells the images from others without decoding them, e.g. their names and sizes.
    read: the image and the label of an example.
    name: what an example is called in lists of results, e.g. the path of its file; to tell it may take as
      long as to read the example.
    """

    num_examples: int
    image_shape: tuple[int, int, int]
    checksum: int
    read: Read
    name: Callable[[int], str] = str

    def in_memory(self) -> Split:
        """Decodes every image, in threads: decoders release the interpreter lock."""
        images = np.empty((self.num_examples, *self.image_shape), dtype=np.uint8)
        labels = np.empty(self.num_examples, dtype=np.int32)

        def fill(index: int) -> None:
            images[index], labels[index] = self.read(index)

        # Around the pool and not inside `read`, because the warning filters belong to the whole process.
        with warnings.catch_warnings(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            # Pillow warns of odd metadata, palettes and large images that it decodes all the same.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            indices = range(self.num_examples)
            for _ in tqdm(pool.map(fill, indices), total=len(indices), unit="image", disable=None):
                pass
        return Split(images, labels)


class ImageData(NamedTuple):
    """A training split, a held-out split and the names of the classes in label order."""

    train: Split | StoredSplit
    test: Split | StoredSplit
    class_names: tuple[str, ...]

    @property
    def held_out(self) -> "HeldOut":
        return HeldOut(self.test, self.class_names)

    def in_memory(self, train_per_class: int, test_per_class: int) -> "ImageData":
        """Both splits decoded, and of every class the first images alone; 0 for all.

        Raises:
          InputError: a class has fewer, or an image cannot be decoded.
        """
        train = _in_memory(self.train, train_per_class, self.class_names, "train_per_class")
        return ImageData(train, *self.held_out.in_memory(test_per_class))


class HeldOut(NamedTuple):
    """A held-out split and the names of the classes in label order."""

    split: Split | StoredSplit
    class_names: tuple[str, ...]

    def in_memory(self, test_per_class: int) -> "HeldOut":
        """The split decoded, and of every class the first images alone; 0 for all.

        Raises:
          InputError: a class has fewer, or an image cannot be decoded.
        """
        split = _in_memory(self.split, test_per_class, self.class_names, "test_per_class")
        return HeldOut(split, self.class_names)


def _in_memory(split: Split | StoredSplit, count: int, class_names: tuple[str, ...], field: str) -> Split:
    decoded = split if isinstance(split, Split) else split.in_memory()
    if count == 0:
        return decoded
    kept = first_per_class(decoded.labels, count, class_names, field)
    return Split(decoded.images[kept], decoded.labels[kept])


def first_per_class(labels: np.ndarray, count: int, class_names: tuple[str, ...], field: str) -> np.ndarray:
    """Indices of the first `count` examples of every class, rising; of all examples where `count` is 0.

    Raises:
      InputError: a class has fewer; it names the class and the config's `field`.
    """
    if count == 0:
        return np.arange(len(labels))
    available = np.bincount(labels, minlength=len(class_names))
    fewest = int(np.argmin(available))
    if available[fewest] < count:
        raise InputError(
            f"`data.{field}` must be at most {available[fewest]}, the number of images of class "
            f"{class_names[fewest]!r}, or 0 for all; got {count}."
        )
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(len(class_names))]))
