"""Comparing named arrays of two implementations."""

from collections.abc import Mapping

import jax
import numpy as np

from dks_jax.nn.functional import Functional
from dks_jax.supervision import DeeplySupervised

Named = dict[str, np.ndarray]


def as_numpy(arrays: Mapping[str, jax.Array]) -> Named:
    """Copies, because training donates the buffers of its state."""
    return {name: np.array(value) for name, value in arrays.items()}


def difference(ours: Mapping, theirs: Mapping) -> float:
    """Largest difference over all names, each relative to the largest value of its tensor."""
    assert set(ours) == set(theirs)
    largest = 0.0
    for name, their in theirs.items():
        assert np.shape(ours[name]) == np.shape(their), name
        gap, scale = np.max(np.abs(ours[name] - their)), np.max(np.abs(their))
        assert np.isfinite(gap), name
        largest = max(largest, gap / scale if scale else gap)
    return float(largest)


def assert_agree(ours: Mapping, theirs: Mapping, tolerance: float) -> None:
    """Asserts that the difference is below the tolerance, and prints it (`pytest -s` shows it)."""
    measured = difference(ours, theirs)
    print(f"largest difference {measured:.1e}")
    assert measured < tolerance


def any_weights(network: DeeplySupervised, seed: int) -> tuple[Named, Named]:
    """The kernels as they are; scales, offsets, biases and statistics as after some training; in float64."""
    rng = np.random.default_rng(seed)
    draws = {
        "scale": lambda shape: rng.uniform(0.5, 1.5, shape),
        "gamma": lambda shape: rng.uniform(0.5, 1.5, shape),
        "bias": lambda shape: rng.normal(0.0, 0.3, shape),
        "mean": lambda shape: rng.normal(0.0, 0.5, shape),
        "var": lambda shape: rng.uniform(0.5, 2.0, shape),
    }

    def fill(arrays: Mapping[str, jax.Array]) -> Named:
        filled = {}
        for name, array in arrays.items():
            kind = name.rsplit(".", 1)[1]
            filled[name] = draws[kind](array.shape) if kind in draws else np.asarray(array, np.float64)
        return filled

    functional = Functional(network)
    return fill(functional.params), fill(functional.batch_stats)


def assert_same_bits(a, b):
    """Pytrees of dicts, sequences and arrays are equal to the last bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same_bits(a[name], b[name])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same_bits(x, y)
    elif a is not None:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
