"""The mean and the standard deviation of the pixels of a split."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from dks_jax.data.images import Split, StoredSplit, UnreadableError, join_errors


def measure(split: Split | StoredSplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The per-channel mean and standard deviation of all pixels, in the range 0 to 1, without augmentation.

    They are rounded to six digits, as they stand in a config.

    Raises:
      InputError: images cannot be decoded; the message counts all of them.
    """
    errors: dict[int, UnreadableError] = {}

    def sums(index: int) -> np.ndarray:
        try:
            image = split.images[index] if isinstance(split, Split) else split.read(index)[0]
        except UnreadableError as error:
            errors[index] = error
            return np.zeros((3, 1))
        # A histogram of the bytes is exact, and needs no floating-point copy of the image.
        values = np.arange(256)
        counts = [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(image, -1, 0)]
        return np.array([[c.sum(), c @ values, c @ values**2] for c in counts], np.int64).T

    with warnings.catch_warnings(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        # Pillow warns of unusual metadata, palettes and sizes, although it decodes the images correctly.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        indices = range(split.num_examples)
        parts = tqdm(pool.map(sums, indices), total=len(indices), unit="image", disable=None)
        total = np.zeros((3, split.image_shape[-1]))
        for part in parts:
            total += part
    if errors:
        raise join_errors([errors[index] for index in sorted(errors)])
    count, first, second = total
    mean = first / count
    std = np.sqrt(second / count - mean**2)
    return tuple(tuple(float(f"{value:.6g}") for value in values / 255) for values in (mean, std))  # type: ignore[return-value]
