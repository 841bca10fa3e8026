"""What every data source returns: labelled uint8 images in memory."""

from typing import NamedTuple

import numpy as np

from dks_jax.errors import InputError


class Split(NamedTuple):
    """Labelled images of one size.

    images: uint8 [example, height, width, channel], range 0 to 255.
    labels: int32 [example], range 0 to number of classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray


class ImageData(NamedTuple):
    """A training split, a held-out split and the names of the classes in label order."""

    train: Split
    test: Split
    class_names: tuple[str, ...]

    def reduced(self, train_per_class: int, test_per_class: int) -> "ImageData":
        """The first images of every class alone; 0 for all.

        Raises:
          InputError: a class has fewer.
        """

        def first(split: Split, count: int, field: str) -> Split:
            if count == 0:
                return split
            kept = first_per_class(split.labels, count, self.class_names, field)
            return Split(split.images[kept], split.labels[kept])

        return self._replace(
            train=first(self.train, train_per_class, "train_per_class"),
            test=first(self.test, test_per_class, "test_per_class"),
        )


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
