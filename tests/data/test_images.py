"""Splits: the first images of each class, unreadable images, mean and deviation."""

import numpy as np
import pytest

from dks_jax.data import Split, StoredSplit, measure
from dks_jax.data.images import UnreadableError, first_per_class
from dks_jax.runtime.errors import InputError


def keep(labels, count):
    return first_per_class(np.array(labels), count, ("a", "b", "c"), "train_per_class").tolist()


def test_keeps_the_first_of_every_class_in_order():
    assert keep([2, 0, 0, 1, 2, 1, 0, 2, 1], 2) == [0, 1, 2, 3, 4, 5]
    assert keep([0, 0, 2, 0, 1, 1, 0, 1], 1) == [0, 2, 4]


def test_zero_keeps_everything():
    assert keep([1, 0, 1], 0) == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "available"), [([0, 0, 1, 2, 2], 1), ([0, 0, 2, 2], 0), ([0, 0, 1, 1], 0)]
)
def test_names_field_and_class_of_which_there_is_too_little(labels, available):
    scarce = "abc"[np.argmin([labels.count(label) for label in range(3)])]
    with pytest.raises(InputError, match=rf"`data.train_per_class` .*\b{available}\b.*'{scarce}'"):
        keep(labels, 2)


def stored(num_examples, unreadable):
    """Images of one pixel whose value and label are their index, some of them unreadable."""

    def read(index, rng=None):
        if index in unreadable:
            raise UnreadableError(f"image {index}", f"image {index} is broken.")
        return np.full((1, 1, 1), index, np.uint8), index

    return StoredSplit(num_examples, (1, 1, 1), 0, read)


def test_the_next_readable_image_takes_the_place_of_an_unreadable_one():
    said = []
    split = stored(40, {3, 4, 39}).replacing_unreadable(said.append)
    for _ in range(2):
        assert [split.read(i)[1] for i in range(40)] == [0, 1, 2, 5, 5, *range(5, 39), 0]
    # Each is named once.
    assert len(said) == 3
    assert all(any(f"image {i}" in line for line in said) for i in (3, 4, 39))


def test_more_than_a_tenth_of_the_images_are_not_replaced():
    split = stored(20, {1, 5, 9}).replacing_unreadable(lambda _: None)
    assert [split.read(i)[1] for i in range(9)] == [0, 2, 2, 3, 4, 6, 6, 7, 8]
    with pytest.raises(InputError, match=r"3 of 20 .* image 9"):
        split.read(9)


def test_all_unreadable_images_are_named_in_one_pass():
    with pytest.raises(InputError, match="image 2, image 5"):
        stored(7, {2, 5}).in_memory()
    with pytest.raises(UnreadableError, match="image 2 is broken"):
        stored(7, {2}).in_memory()


def test_the_mean_and_deviation_of_a_split_are_those_of_its_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
    split = Split(images, np.zeros(5, np.int32))
    on_disk = StoredSplit(5, (4, 3, 3), 0, lambda index, rng=None: (images[index], 0))
    for measured in (measure(split), measure(on_disk)):
        for found, expected in zip(measured, (images.mean((0, 1, 2)), images.std((0, 1, 2))), strict=True):
            np.testing.assert_allclose(found, expected / 255, rtol=1e-5)
    with pytest.raises(InputError, match="image 1, image 3"):
        measure(stored(5, {1, 3}))


def test_a_part_of_a_split_has_its_examples_in_the_order_asked_for():
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1)
    whole = Split(images, np.arange(5, dtype=np.int32))
    stored = StoredSplit(5, (2, 2, 1), 1, lambda index, rng=None: (images[index], index), "image {}".format)
    chosen = np.array([3, 0])
    for part in (whole.take(chosen), stored.take(chosen).in_memory()):
        np.testing.assert_array_equal(part.images, images[chosen])
        assert part.labels.tolist() == [3, 0]
    assert stored.take(chosen).name(0) == "image 3"
    assert stored.take(chosen).checksum != stored.checksum
