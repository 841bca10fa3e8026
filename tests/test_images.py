"""first_per_class against a count by hand."""

import numpy as np
import pytest

from dks_jax.data.images import first_per_class
from dks_jax.errors import InputError


def test_keeps_the_first_of_every_class_in_order():
    assert first_per_class(np.array([2, 0, 0, 1, 2, 1, 0, 2, 1]), 2).tolist() == [0, 1, 2, 3, 4, 5]
    assert first_per_class(np.array([0, 0, 0, 1, 1, 0, 1]), 1).tolist() == [0, 3]


def test_zero_keeps_everything():
    assert first_per_class(np.array([1, 0, 1]), 0).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("labels", "available"), [([0, 0, 1], 1), ([0, 0, 2, 2], 0)])
def test_names_what_a_short_class_has(labels: list[int], available: int):
    with pytest.raises(InputError, match=rf"at most {available}, which class 1 has"):
        first_per_class(np.array(labels), 2)


def test_refuses_a_negative_count():
    with pytest.raises(InputError, match="got -1"):
        first_per_class(np.array([0]), -1)
