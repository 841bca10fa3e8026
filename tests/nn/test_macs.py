"""Counting multiply-accumulate operations: by hand, and the published networks."""

import jax
import jax.numpy as jnp
import pytest

from dks_jax.models import build
from dks_jax.nn.macs import count_macs


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_matrix_product_takes_the_product_of_its_three_sizes():
    assert count_macs(jnp.dot, shape(3, 5), shape(5, 7)) == 3 * 5 * 7
    assert count_macs(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(2, 3, 5), shape(2, 5, 7)) == 210


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_takes_its_kernel_at_every_output(stride, groups):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    macs = count_macs(convolve, shape(1, 8, 8, 4), shape(3, 3, 4 // groups, 6))
    assert macs == (8 // stride) ** 2 * 6 * 3 * 3 * (4 // groups)


def test_functions_within_functions_count():
    product = jax.jit(jnp.dot)
    assert count_macs(jax.checkpoint(product), shape(3, 5), shape(5, 7)) == 105

    def scanned(a, b):
        return jax.lax.scan(lambda carry, _: (product(carry, b), None), a, length=4)[0]

    assert count_macs(scanned, shape(3, 5), shape(5, 5)) == 4 * 3 * 5 * 5

    def conditional(a, b):
        return jax.lax.cond(a[0, 0] > 0, product, lambda a, b: a, a, b)

    assert count_macs(conditional, shape(3, 5), shape(5, 5)) == 3 * 5 * 5


def test_elementwise_operations_do_not_count():
    assert count_macs(lambda a: jnp.sum(jnp.exp(a) * a), shape(3, 5)) == 0


def test_the_published_network_takes_what_is_published():
    # Calculated by hand from the layers: backbone 5.24 G, with branches 2.81 times that.
    model = {"name": "wide_resnet", "depth": 28, "width": 10, "dropout": 0.0}
    network = build(model, num_classes=100, channels=3, seed=0)
    network.eval()
    backbone = count_macs(network.drop_branches(), shape(1, 32, 32, 3))
    assert backbone / 1e9 == pytest.approx(5.24, abs=0.005)
    assert count_macs(network, shape(1, 32, 32, 3)) / backbone == pytest.approx(2.81, abs=0.005)
