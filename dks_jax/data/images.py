"""The common form of all data sources: labelled uint8 images, in memory or decoded one by one."""

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from dks_jax.data.preprocessing import View
from dks_jax.runtime.cores import num_cores
from dks_jax.runtime.errors import InputError, listing

MOST_REPLACED = 0.1
T = TypeVar("T")
# From the indices of images and their true labels, both [example], to the labels that they are given.
Relabel: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


class UnreadableError(InputError):
    """An image on disk cannot be read.

    name: path of the image, or e.g. "image 12 of the split validation of imagenet2012:5.1.0".
    """

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


def join_errors(errors: Sequence[UnreadableError]) -> InputError:
    """The error for all images of a pass that cannot be read; the only one as it is."""
    if len(errors) == 1:
        return errors[0]
    names = listing(error.name for error in errors)
    return InputError(f"{len(errors):,} images cannot be read: {names}; for the first: {errors[0]}")


def in_threads(function: Callable[[int], T], count: int) -> Iterator[T]:
    """The results of a function of the indices below `count`, in order, with a progress bar.

    Threads serve because decoders release the global interpreter lock.

    Raises:
      InputError: after the last index, where the function raised UnreadableError; it counts all of them.
    """

    def attempt(index: int) -> T | UnreadableError:
        try:
            return function(index)
        except UnreadableError as error:
            return error

    errors = []
    # The filter is set around the pool and not inside the function, because it applies to the entire process.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_cores()) as pool:
        # Pillow warns of unusual metadata, palettes and sizes, although it decodes the images correctly.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for result in tqdm(pool.map(attempt, range(count)), total=count, unit="image", disable=None):
            if isinstance(result, UnreadableError):
                errors.append(result)
            else:
                yield result
    if errors:
        raise join_errors(errors)


class Split(NamedTuple):
    """Labelled images of one size, held in memory.

    Attributes:
      images: uint8 [example, height, width, channel], range 0 to 255.
      labels: int32 [example], range 0 to number of classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def num_examples(self) -> int:
        """The number of examples."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.images.shape[1:]

    @property
    def checksum(self) -> int:
        """The CRC-32 checksum of all images and labels."""
        return zlib.crc32(self.labels.tobytes(), zlib.crc32(self.images.tobytes()))

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at indices [example], in this order."""
        return Split(self.images[indices], self.labels[indices])

    def one_by_one(self, view: View) -> "StoredSplit":
        """The same images as a split that is read one by one, so that each can be augmented as it is read.

        Args:
          view: how they are augmented; it has their size, and takes their number of channels.
        """
        grey = self.image_shape[-1] == 1
        view = view._replace(channels=self.image_shape[-1])

        def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
            image = Image.fromarray(self.images[index, :, :, 0] if grey else self.images[index])
            return np.asarray(view.of(image, rng)).reshape(view.shape), int(self.labels[index])

        return StoredSplit(self.num_examples, view.shape, self.checksum, read)


class Read(Protocol):
    """Reads the image, uint8 [height, width, channel], and the label of the example at an index.

    Several threads may call it at the same time. `rng` is the random generator for images that are augmented
    as they are read; None turns this augmentation off.

    Raises:
      UnreadableError: the image cannot be decoded.
    """

    def __call__(self, index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]: ...


class StoredSplit(NamedTuple):
    """Labelled images, mostly on disk, each of which is decoded and brought to one size when it is read.

    Attributes:
      num_examples: number of examples.
      image_shape: height, width and channels.
      checksum: CRC-32 of facts that identify the images without decoding them, e.g. their names and sizes.
      read: function that reads an example; see `Read`.
      name: function from an index to the name of the example in lists of results, e.g. the path of its file.
        It may take as long as reading the example.
    """

    num_examples: int
    image_shape: tuple[int, int, int]
    checksum: int
    read: Read
    name: Callable[[int], str] = str

    def take(self, indices: np.ndarray) -> "StoredSplit":
        """The examples at indices [example], in this order."""

        def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
            return self.read(int(indices[index]), rng)

        facts = zlib.crc32(indices.tobytes(), self.checksum)
        return self._replace(
            num_examples=len(indices),
            checksum=facts,
            read=read,
            name=lambda index: self.name(int(indices[index])),
        )

    def blanking_unreadable(self, errors: dict[int, UnreadableError]) -> "StoredSplit":
        """The same split with black images of label 0 for those that cannot be decoded.

        Args:
          errors: takes the error of each such image by its index.
        """
        black = np.zeros(self.image_shape, np.uint8), 0

        def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
            try:
                return self.read(index, rng)
            except UnreadableError as error:
                errors[index] = error
                return black

        return self._replace(read=read)

    def replacing_unreadable(self, say: Callable[[str], None]) -> "StoredSplit":
        """The same split with the next readable image in the place of each that cannot be decoded.

        So the number of examples and their order stay. Reading raises InputError once more than MOST_REPLACED
        of the images are unreadable.

        Args:
          say: takes a line about each such image, once.
        """
        unread: set[int] = set()

        def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
            for i in chain(range(index, self.num_examples), range(index)):
                try:
                    if i not in unread:
                        return self.read(i, rng)
                except UnreadableError as error:
                    unread.add(i)
                    if len(unread) > MOST_REPLACED * self.num_examples:
                        raise InputError(
                            f"`--skip_unreadable` must leave {1 - MOST_REPLACED:.0%} of the images; "
                            f"{len(unread):,} of {self.num_examples:,} cannot be read, the last one "
                            f"{error.name}: check the disk and the images."
                        ) from error
                    say(f"skipped, since it cannot be decoded: {error.name}; the next image takes its place")
            raise InputError("`--skip_unreadable` must leave at least one image, and none can be read.")

        return self._replace(read=read)

    def in_memory(self) -> Split:
        """Decodes all images.

        Raises:
          InputError: images cannot be decoded; the message counts all of them.
        """
        images = np.empty((self.num_examples, *self.image_shape), dtype=np.uint8)
        labels = np.empty(self.num_examples, dtype=np.int32)
        for index, example in enumerate(in_threads(self.read, self.num_examples)):
            images[index], labels[index] = example
        return Split(images, labels)


class ImageData(NamedTuple):
    """A training split, a held-out split and the names of the classes in label order.

    Attributes:
      train, test: the training images and the held-out images; their labels are places in `class_names`.
      class_names: names of the classes.
      notes: lines about what was found, e.g. files that are left out.
      exact: whether the checksums are those of the data set, and not of one in which images may be replaced.
      relabel: what gives the training images other labels than their true ones; None where nothing does.
    """

    train: Split | StoredSplit
    test: Split | StoredSplit
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    exact: bool = True
    relabel: Relabel | None = None

    @property
    def held_out(self) -> "HeldOut":
        """The held-out split with the class names."""
        return HeldOut(self.test, self.class_names)

    def replacing_unreadable(self, say: Callable[[str], None]) -> "ImageData":
        """The same images, where those on disk are replaced by `StoredSplit.replacing_unreadable`.

        Args:
          say: takes a line about each image that is replaced, once.
        """
        train, test = (
            split.replacing_unreadable(say) if isinstance(split, StoredSplit) else split
            for split in (self.train, self.test)
        )
        return self._replace(train=train, test=test, exact=False)

    def in_memory(self, train_per_class: int, test_per_class: int) -> "ImageData":
        """Decodes both splits and keeps the first images of every class.

        Args:
          train_per_class, test_per_class: numbers of images that are kept of each class; 0 for all of them.

        Raises:
          InputError: a class has fewer images, or an image cannot be decoded.
        """
        train = _in_memory(self.train, train_per_class, self.class_names, "train_per_class")
        return self._replace(train=train, test=self.held_out.in_memory(test_per_class).split)


class HeldOut(NamedTuple):
    """A held-out split and its classes.

    Attributes:
      split: the images; their labels are places in `class_names`.
      class_names: names of the classes.
      listed: class names whose places may serve as labels, e.g. the class folders of train; () where
        `class_names` does.
      empty: names of the classes that are known to have no images.
      numbered: whether the data set itself numbers its classes, unlike folders, which only have names.
      notes: lines about what was found, e.g. files that are left out.
    """

    split: Split | StoredSplit
    class_names: tuple[str, ...]
    listed: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    numbered: bool = True
    notes: tuple[str, ...] = ()

    def in_memory(self, test_per_class: int) -> "HeldOut":
        """Decodes the split and keeps the first images of every class.

        Args:
          test_per_class: number of images that are kept of each class; 0 for all of them.

        Raises:
          InputError: a class has fewer images, or an image cannot be decoded.
        """
        absent = self.class_names if isinstance(self.split, StoredSplit) else ()
        split = _in_memory(self.split, test_per_class, self.class_names, "test_per_class", absent=absent)
        return self._replace(split=split)

    def relabelled(self, labels: np.ndarray, class_names: tuple[str, ...]) -> "HeldOut":
        """The same images with the labels of a network.

        Args:
          labels: integers [class], the new label of each of the present classes.
          class_names: class names of the network in label order.
        """
        if isinstance(self.split, Split):
            return self._replace(
                split=self.split._replace(labels=labels[self.split.labels]), class_names=class_names
            )
        read = self.split.read

        def read_relabelled(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
            image, label = read(index, rng)
            return image, int(labels[label])

        return self._replace(split=self.split._replace(read=read_relabelled), class_names=class_names)


def _in_memory(
    split: Split | StoredSplit,
    count: int,
    class_names: tuple[str, ...],
    field: str,
    *,
    absent: Sequence[str] = (),
) -> Split:
    decoded = split if isinstance(split, Split) else split.in_memory()
    if count == 0:
        return decoded
    kept = first_per_class(decoded.labels, count, class_names, field, absent=absent)
    return Split(decoded.images[kept], decoded.labels[kept])


def first_per_class(
    labels: np.ndarray,
    count: int,
    class_names: tuple[str, ...],
    field: str,
    *,
    absent: Sequence[str] = (),
) -> np.ndarray:
    """The indices of the first `count` examples of every class, ascending; all indices where `count` is 0.

    Args:
      labels: integers [example].
      count: number of examples per class.
      class_names: names of the classes in label order.
      field: field of `config.data` that sets `count`, for the error message.
      absent: names of the classes that may have no example at all.

    Raises:
      InputError: a class has fewer examples.
    """
    if count == 0:
        return np.arange(len(labels))
    available = np.bincount(labels, minlength=len(class_names))
    needed = [c for c, name in enumerate(class_names) if available[c] or name not in absent]
    fewest = min(needed, key=lambda c: available[c])
    if available[fewest] < count:
        raise InputError(
            f"`data.{field}` must be at most {available[fewest]}, the number of images of class "
            f"{class_names[fewest]!r}, or 0 for all; got {count}."
        )
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(len(class_names))]))
