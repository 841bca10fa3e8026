"""The digits config as it is, in a file of its own, since others put a tiny network in its place."""

import pytest

from dks_jax import train
from support.runs import DIGITS, records


@pytest.mark.slow
def test_the_digits_end_below_three_percent(tmp_path):
    assert train.main([DIGITS, f"--workdir={tmp_path}"]) == 0
    assert records(tmp_path)[-1]["error"] < 3
