"""The mean and the standard deviation of the pixels of a split."""

import numpy as np

from dks_jax.data.images import Split, StoredSplit, in_threads


def measure(split: Split | StoredSplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The per-channel mean and standard deviation of all pixels, in the range 0 to 1, without augmentation.

    They are rounded to six digits, as they stand in a config.

    Args:
      split: the images.

    Raises:
      InputError: images cannot be decoded; the message counts all of them.
    """

    def sums(index: int) -> np.ndarray:
        image = split.images[index] if isinstance(split, Split) else split.read(index)[0]
        # A histogram of the bytes is exact, and needs no floating-point copy of the image.
        values = np.arange(256)
        counts = [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(image, -1, 0)]
        return np.array([[c.sum(), c @ values, c @ values**2] for c in counts], np.int64).T

    total = np.zeros((3, split.image_shape[-1]))
    for part in in_threads(sums, split.num_examples):
        total += part
    count, first, second = total
    mean = first / count
    std = np.sqrt(second / count - mean**2)
    return tuple(tuple(float(f"{value:.6g}") for value in values / 255) for values in (mean, std))  # type: ignore[return-value]
