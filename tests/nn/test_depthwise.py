"""The depthwise convolution on a CPU is XLA's and PyTorch's, and so are its derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dks_jax.nn import count_macs
from dks_jax.nn.convolution import convolve, direct

CHANNELS = 5


def draw(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def output_and_gradients(function, x, kernel, stride) -> list[np.ndarray]:
    def both(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: function(x, kernel, stride, CHANNELS), x, kernel)
        return y, *pull(jnp.asarray(draw(y.shape, 2)))

    return [np.asarray(array) for array in jax.jit(both)(x, kernel)]


def by_torch(x, kernel, stride) -> list[np.ndarray]:
    images = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    weight = torch.tensor(kernel).permute(3, 2, 0, 1).requires_grad_()
    y = F.conv2d(images, weight, stride=stride, padding=kernel.shape[0] // 2, groups=CHANNELS)
    channels_last = y.permute(0, 2, 3, 1)
    gradients = torch.autograd.grad(
        channels_last, (images, weight), torch.tensor(draw(channels_last.shape, 2))
    )
    tensors = channels_last, gradients[0].permute(0, 2, 3, 1), gradients[1].permute(2, 3, 1, 0)
    return [tensor.detach().numpy() for tensor in tensors]


@pytest.mark.parametrize(
    ("size", "stride"),
    [(3, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(3, 1), (7, 1), (5, 2)])],
)
def test_output_and_gradients_are_those_of_xla_and_pytorch(x64, size, stride):
    x, kernel = draw((4, 9, 6, CHANNELS), 0), draw((size, size, 1, CHANNELS), 1)
    ours = output_and_gradients(convolve, x, kernel, stride)
    for theirs in (output_and_gradients(direct, x, kernel, stride), by_torch(x, kernel, stride)):
        for our, their in zip(ours, theirs, strict=True):
            assert our.shape == their.shape
            assert np.abs(our - their).max() < 1e-13 * np.abs(their).max()


def test_it_is_the_form_of_cpus_for_one_group_a_channel_in_float32_and_float64():
    def program(dtype, groups=4):
        x, kernel = jnp.zeros((1, 8, 8, 4), dtype), jnp.zeros((3, 3, 4 // groups, 4), dtype)
        return str(jax.make_jaxpr(lambda x, kernel: convolve(x, kernel, 1, groups))(x, kernel))

    assert "name=depthwise" in program(jnp.float32)
    assert "name=depthwise" not in program(jnp.bfloat16)
    assert "name=depthwise" not in program(jnp.float32, groups=2)


@pytest.mark.slow
def test_there_are_derivatives_of_both_modes_where_they_are_asked_for(x64):
    point = draw((2, 5, 5, CHANNELS), 0), draw((3, 3, 1, CHANNELS), 1)
    ours, plain = (
        jax.jvp(partial(function, stride=1, groups=CHANNELS), point, point)[1]
        for function in (partial(convolve, forward_mode=True), direct)
    )
    np.testing.assert_allclose(ours, plain, rtol=1e-12, atol=1e-12)


def test_its_arithmetic_is_counted_as_that_of_the_direct_form():
    x, kernel = jnp.zeros((2, 8, 8, CHANNELS)), jnp.zeros((3, 3, 1, CHANNELS))
    assert count_macs(lambda x, k: convolve(x, k, 2, CHANNELS), x, kernel) == 2 * 16 * 9 * CHANNELS
