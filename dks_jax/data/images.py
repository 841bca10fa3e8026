"""What every data source returns: labelled uint8 images in memory."""

from typing import NamedTuple

import numpy as np


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
