"""The form of a convolution follows the platform of the program, unless the caller fixes it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from dks_jax import InputError, models
from dks_jax.nn import Conv, convolve, forms

# Winograd's convolution takes 3x3 kernels from 128 channels on, of which ResNet-18 has several.
IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)


@pytest.fixture(scope="module")
def network():
    network = models.build({"name": "resnet18"}, num_classes=10, channels=3, branches=(), seed=0)
    network.eval()
    return network


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_what_a_cpu_exports_for_an_accelerator_holds_plain_convolutions(network, platform: str):
    program = export.export(jax.jit(network), platforms=[platform])(IMAGES).mlir_module()
    assert program.count("stablehlo.convolution") == 20
    assert "winograd" not in program


def test_a_program_for_a_cpu_holds_the_form_for_cpus(network):
    program = export.export(jax.jit(network), platforms=["cpu"])(IMAGES).mlir_module()
    assert "winograd" in program
    assert program.count("stablehlo.convolution") < 20


def test_the_caller_can_fix_the_form_of_a_function_that_was_compiled_before(network):
    apply = jax.jit(network)
    chosen = apply.lower(IMAGES).as_text()
    with forms("accelerator"):
        assert "winograd" not in apply.lower(IMAGES).as_text()
    with forms("cpu"):
        assert "winograd" in apply.lower(IMAGES).as_text()
    assert "winograd" in chosen


def test_the_platform_chooses_the_bits_that_its_form_has():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 128))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 128, 128))

    def bits():
        value, pullback = jax.vjp(partial(convolve, stride=1), x, kernel)
        return [np.asarray(part) for part in (value, *pullback(value))]

    chosen = bits()
    with forms("cpu"):
        fixed = bits()
    assert all(np.array_equal(a, b) for a, b in zip(chosen, fixed, strict=True))


def test_another_form_is_refused():
    with pytest.raises(InputError, match=r"`form`.*cpu, accelerator, tpu.*'gpu'"):
        forms("gpu")


@pytest.mark.parametrize("groups", [2, 6])
def test_grouped_convolutions_are_separate_convolutions(groups: int):
    conv = Conv(6, 12, 3, 2, groups=groups, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 7, 7, 6))
    parts = zip(jnp.split(x, groups, axis=-1), jnp.split(conv.kernel[...], groups, axis=-1), strict=True)
    expected = jnp.concatenate([convolve(part, kernel, 2) for part, kernel in parts], axis=-1)
    assert conv.kernel.shape == (3, 3, 6 // groups, 12)
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)
