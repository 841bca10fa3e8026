"""first_per_class against a count by hand."""

import numpy as np
import pytest

from dks_jax.data.images import first_per_class
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
