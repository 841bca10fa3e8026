"""The initial values of the code released with DHM, which its networks for CIFAR have in common."""

import numpy as np

from support.comparison import Named


def assert_starts_as_dhm(arrays: Named) -> None:
    """Convolutions normal by fan-out, norms the identity, linear layers as torch.nn.Linear."""
    for name, array in arrays.items():
        kind = name.rsplit(".", 1)[1]
        if "fc" in name:
            bound = arrays[name.replace("bias", "kernel")].shape[0] ** -0.5
            assert 0.98 * bound < np.abs(array).max() <= 1.000001 * bound, name
        elif kind == "kernel":
            height, width, _, out_channels = array.shape
            deviation = np.sqrt(2 / (height * width * out_channels))
            # Five standard errors of the standard deviation of a normal sample.
            assert abs(array.std() / deviation - 1) < 5 / np.sqrt(2 * array.size), name
        else:
            assert np.all(array == (1 if kind in ("scale", "var") else 0)), name
