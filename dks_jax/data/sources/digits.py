"""The handwritten digits that come with scikit-learn: real images that need no download."""

import numpy as np

from dks_jax.data.images import ImageData, Split
from dks_jax.data.sources.interface import Source

HELD_OUT = 360


def load(split_seed: int = 0) -> ImageData:
    """Loads the 1797 digits as 1437 training and 360 held-out images, stratified by class.

    Images are uint8 [example, 8, 8, 1]: the stored grey levels v of 0 to 16 become v * 255 / 16, rounded to
    the nearest whole number (halves up). Both splits keep the order of the data set.

    Args:
      split_seed: seed of the split; all training runs use the default.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), the test part.
    """
    # scikit-learn takes a second to import, and only this source needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    levels, labels = (np.asarray(part).astype(np.int32) for part in load_digits(return_X_y=True))
    images = ((levels * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=split_seed
    )
    train, test = np.sort(train), np.sort(test)
    return ImageData(
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        class_names=tuple(str(digit) for digit in range(10)),
    )


SOURCE = Source(
    lambda config, view: load(),
    lambda config, view: load().held_out,
    image_size=8,
    channels=1,
    num_classes=lambda config: 10,
)
