"""The initial weights of the released codes, by their distribution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dks_jax import models
from dks_jax.nn.functional import Functional, get_arrays
from dks_jax.nn.macs import count_macs
from support.comparison import Named, as_numpy
from support.networks import resnet, wide_resnet

NUM_CLASSES = 10


@pytest.fixture(scope="module")
def fresh() -> Named:
    functional = Functional(wide_resnet(16, 2, NUM_CLASSES, seed=0))
    return as_numpy(functional.params | functional.batch_stats)


def select(arrays: Named, kind: str) -> Named:
    return {name: array for name, array in arrays.items() if name.endswith(f".{kind}")}


def test_kernels_are_kaiming_normal_by_fan_in(fresh):
    kernels = select(fresh, "kernel")
    # 2 convolutions in each of 11 blocks, 6 shortcuts where the width changes, the stem and 3 linear layers.
    assert len(kernels) == 22 + 6 + 1 + 3
    for name, kernel in kernels.items():
        fan_in = kernel.size // kernel.shape[-1]
        standard = kernel.ravel().astype(np.float64) / math.sqrt(2 / fan_in)
        # Five standard errors of the standard deviation of a normal sample.
        assert abs(standard.std() - 1) < 5 / math.sqrt(2 * kernel.size), name
        assert scipy.stats.kstest(standard, "norm").pvalue > 1e-3, name
    assert len({kernel.flat[0] / kernel.std() for kernel in kernels.values()}) == len(kernels)


def test_scales_are_uniform_offsets_and_biases_zero_and_statistics_standard_normal(fresh):
    scales = select(fresh, "scale")
    # 2 in each of 11 blocks and 1 in each of 3 heads.
    assert len(scales) == 25
    assert scipy.stats.kstest(np.concatenate(list(scales.values())), "uniform").pvalue > 1e-3
    assert len({scale[0] for scale in scales.values()}) == 25
    biases = select(fresh, "bias")
    # As many offsets, and the biases of 3 linear layers.
    assert len(biases) == 25 + 3
    assert not any(bias.any() for bias in biases.values())
    means, variances = select(fresh, "mean"), select(fresh, "var")
    assert len(means) == len(variances) == 25
    assert not any(mean.any() for mean in means.values())
    assert all((variance == 1).all() for variance in variances.values())


def test_a_resnet_starts_as_the_code_of_dhm_has_it():
    """Convolutions Kaiming-normal by fan-out, norms the identity, the linear layer as torch.nn.Linear."""
    network = resnet(18, 1000, seed=0)
    arrays = {name: np.asarray(array) for name, array in get_arrays(network).items()}
    for name, array in arrays.items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("scale", "var"):
            assert np.all(array == 1), name
        elif "fc" in name:
            bound = arrays[name.replace("bias", "kernel")].shape[0] ** -0.5
            assert 0.99 * bound < np.abs(array).max() <= 1.000001 * bound, name
            assert abs(array.mean()) < 0.1 * bound, name
        elif kind == "kernel":
            height, width, _, out_channels = array.shape
            assert array.std() == pytest.approx((2 / (height * width * out_channels)) ** 0.5, rel=0.03), name
        else:
            assert np.all(array == 0), name


def test_a_wide_resnet_starts_as_the_code_of_dhm_has_it_where_it_is_asked_for():
    """Convolutions Kaiming-normal by fan-out, norms the identity, linear layers as torch.nn.Linear."""
    model = {"name": "wide_resnet", "depth": 16, "width": 2, "initialisation": "dhm"}
    network = models.build(model, num_classes=1000, channels=3, seed=0)
    for name, array in as_numpy(get_arrays(network)).items():
        kind = name.rsplit(".", 1)[1]
        if "fc" in name:
            bound = (256 if "branches.1" in name else 128) ** -0.5
            assert 0.98 * bound < np.abs(array).max() <= 1.000001 * bound, name
        elif kind == "kernel":
            height, width, _, out_channels = array.shape
            standard = array.ravel() / math.sqrt(2 / (height * width * out_channels))
            assert abs(standard.std() - 1) < 5 / math.sqrt(2 * array.size), name
        else:
            assert np.all(array == (1 if kind in ("scale", "var") else 0)), name


@pytest.mark.parametrize(("depth", "ratio"), [(18, 2.16), (50, 2.03)])
def test_a_resnet_with_branches_does_the_reported_multiple_of_arithmetic(depth, ratio):
    """Ratios computed by hand from the published block counts, at 224 pixels."""
    network = resnet(depth, 1000, seed=0)
    network.eval()
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    whole, backbone = count_macs(network, image), count_macs(network.drop_branches(), image)
    assert whole / backbone == pytest.approx(ratio, abs=0.005)
