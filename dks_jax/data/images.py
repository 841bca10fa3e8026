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


def first_per_class(split: Split, count: int) -> Split:
    """Keeps the first count images of every class, in the original order; count 0 keeps everything.

    The classes are 0 to the largest label that occurs.

    Raises InputError for a negative count and for a class with fewer than count images.
    """
    if count < 0:
        raise InputError(f"count is {count}, give 0 for all images or how many to keep of every class")
    if count == 0:
        return split
    keep = np.zeros(len(split.labels), dtype=bool)
    for label, available in enumerate(np.bincount(split.labels)):
        if available < count:
            raise InputError(
                f"count is {count}, but class {label} has only {available} images; give at most that, or 0"
            )
        keep[np.flatnonzero(split.labels == label)[:count]] = True
    return Split(split.images[keep], split.labels[keep])
