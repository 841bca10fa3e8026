"""first_per_class against a count by hand."""

import numpy as np
import pytest

from dks_jax.data.images import Split, first_per_class
from dks_jax.errors import InputError


def numbered(labels: list[int]) -> Split:
    """A split whose image i is the single pixel i."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Split(images, np.array(labels, dtype=np.int32))


def test_keeps_the_first_of_every_class_in_order():
    kept = first_per_class(numbered([2, 0, 0, 1, 2, 1, 0, 2, 1]), 2)
    assert kept.images.ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert kept.labels.tolist() == [2, 0, 0, 1, 2, 1]
    kept = first_per_class(numbered([0, 0, 0, 1, 1, 0, 1]), 1)
    assert kept.images.ravel().tolist() == [0, 3]
    assert kept.labels.dtype == np.int32


def test_zero_keeps_everything():
    split = numbered([1, 0, 1])
    kept = first_per_class(split, 0)
    np.testing.assert_array_equal(kept.images, split.images)
    np.testing.assert_array_equal(kept.labels, split.labels)


@pytest.mark.parametrize(("labels", "available"), [([0, 0, 1], 1), ([0, 0, 2, 2], 0)])
def test_names_what_a_short_class_has(labels: list[int], available: int):
    with pytest.raises(InputError, match=rf"class 1 has only {available} images"):
        first_per_class(numbered(labels), 2)


def test_refuses_a_negative_count():
    with pytest.raises(InputError, match="count is -1"):
        first_per_class(numbered([0]), -1)
