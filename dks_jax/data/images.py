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


def first_per_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` examples of every class, rising; of all examples where `count` is 0.

    The classes are 0 to the largest label that occurs.

    Raises:
      InputError: `count` is negative, or a class has fewer examples.
    """
    if count < 0:
        raise InputError(f"The number of images to keep per class must be 0 (all) or more; got {count}.")
    if count == 0:
        return np.arange(len(labels))
    kept = []
    for label, available in enumerate(np.bincount(labels)):
        if available < count:
            raise InputError(
                f"The number of images to keep per class must be at most {available}, which class {label} "
                f"has, or 0 for all; got {count}."
            )
        kept.append(np.flatnonzero(labels == label)[:count])
    return np.sort(np.concatenate(kept))
