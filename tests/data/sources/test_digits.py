"""The digits split against scikit-learn's own arrays."""

import numpy as np
from sklearn.datasets import load_digits

from dks_jax.data.sources import digits


def test_shapes_types_and_names():
    data = digits.load(0)
    assert data.train.images.shape == (1437, 8, 8, 1)
    assert data.test.images.shape == (360, 8, 8, 1)
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.labels.shape == split.images.shape[:1]
    assert data.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def test_the_two_splits_are_the_whole_data_set():
    data = digits.load(3)
    images, labels = load_digits(return_X_y=True)
    grey = np.floor(images * 255 / 16 + 0.5)
    expected = sorted((int(label), *image) for label, image in zip(labels, grey.tolist(), strict=True))
    found = sorted(
        (int(label), *image.ravel().tolist())
        for split in (data.train, data.test)
        for image, label in zip(split.images, split.labels, strict=True)
    )
    assert found == expected
    assert grey.min() == 0
    assert grey.max() == 255


def test_every_class_keeps_its_share():
    data = digits.load(1)
    train, test = np.bincount(data.train.labels), np.bincount(data.test.labels)
    np.testing.assert_allclose(test, (train + test) * 360 / 1797, atol=1)


def test_the_seed_decides_the_split():
    first, again, other = digits.load(5), digits.load(5), digits.load(6)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)
    assert not np.array_equal(first.test.images, other.test.images)
