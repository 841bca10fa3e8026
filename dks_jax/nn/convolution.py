"""Convolutions of images with square kernels, with derivatives in a form that suits XLA on a CPU.

Accelerators use XLA's own convolution. On a CPU, XLA is slow at the kernel's gradient, at the derivatives of
strided convolutions and at depthwise convolutions; docs/performance.md describes the forms that replace them
here and the gain of each.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dks_jax.nn.depthwise import depthwise, depthwise_reverse
from dks_jax.nn.derivatives import is_forward_mode
from dks_jax.nn.winograd import winograd
from dks_jax.runtime.forms import by_platform

# From this number of channels on, Winograd's transformations cost less than the multiplications they save.
WINOGRAD_CHANNELS = 128


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1, *, forward_mode: bool = False
) -> jax.Array:
    """The convolution with zero padding of size // 2 on every side, as `torch.nn.Conv2d` computes it.

    The form for CPUs serves float32 and float64, and any type with groups that are not depthwise, in
    processes with one device. It defines its own reverse-mode derivatives and has no forward mode, unless the
    argument `forward_mode` or the context manager of this name asks for it.

    Args:
      x: images [batch, height, width, in].
      kernel: [size, size, in / groups, out], the size odd.
      stride: step along both axes.
      groups: number of groups of channels that are convolved separately; as many groups as channels make a
        depthwise convolution.
      forward_mode: whether there are derivatives of both modes. They are JAX's own, which on a CPU are slower
        in reverse mode; the value is the same.

    Returns:
      [batch, height / stride, width / stride, out], the sizes rounded up.
    """
    plain = partial(direct, stride=stride, groups=groups)
    both_modes, wide = forward_mode or is_forward_mode(), x.dtype in (jnp.float32, jnp.float64)
    if groups > 1 and groups == x.shape[3] == kernel.shape[3]:
        form, sizes, suits = depthwise if both_modes else depthwise_reverse, (stride,), wide
    else:
        form, sizes = _differentiable if both_modes else _convolve_on_cpu, (stride, groups)
        suits = wide or groups > 1
    if not suits or jax.device_count() > 1:
        return plain(x, kernel)
    return by_platform(x, kernel, cpu=lambda x, k: form(x, k, *sizes), accelerator=plain)


def direct(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    """XLA's own convolution; see `convolve` for the arguments."""
    # The padding is explicit because "SAME" differs from PyTorch's padding at stride 2.
    padding = kernel.shape[0] // 2
    return _convolution(x, kernel, [(padding, padding)] * 2, stride=stride, groups=groups)


def _convolution(x, kernel, padding, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _fastest(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    size, _, *channels = kernel.shape
    if size == 3 and stride == 1 and groups == 1 and min(channels) >= WINOGRAD_CHANNELS:
        return winograd(x, kernel)
    return direct(x, kernel, stride, groups)


_convolve_on_cpu = jax.custom_vjp(_fastest, nondiff_argnums=(2, 3))


def _forward(x: jax.Array, kernel: jax.Array, stride: int, groups: int):
    return _fastest(x, kernel, stride, groups), (x, kernel)


def _backward(stride: int, groups: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array):
    x, kernel = residuals
    return _image_gradient(x, kernel, stride, groups, g), _kernel_gradient(x, kernel, stride, groups, g)


_convolve_on_cpu.defvjp(_forward, _backward)

_differentiable = jax.custom_jvp(_fastest, nondiff_argnums=(2, 3))


@_differentiable.defjvp
def _tangent(
    stride: int, groups: int, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
):
    plain = partial(direct, stride=stride, groups=groups)
    return _differentiable(*primals, stride, groups), jax.jvp(plain, primals, tangents)[1]


def _image_gradient(x: jax.Array, kernel: jax.Array, stride: int, groups: int, g: jax.Array) -> jax.Array:
    """The gradient of the images x, given the gradient g of the output."""
    if groups > 1:
        return jax.vjp(lambda x: direct(x, kernel, stride, groups), x)[1](g)[0]
    if stride == 1:
        return _fastest(g, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    if stride == 2 and kernel.shape[0] == 3:
        return _image_gradient_by_parity(x, kernel, g)
    return jax.vjp(lambda x: direct(x, kernel, stride), x)[1](g)[0]


def _image_gradient_by_parity(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of the images for a 3x3 kernel at stride 2, as one 2x2 convolution of g.

    Along each axis, even positions of x receive tap 1 of their own output, and odd positions receive tap 2 of
    their own output and tap 0 of the next one. A 2x2 convolution of g computes all four parities at once,
    whereas XLA would convolve g with three zeros inserted for each of its values.
    """
    batch, height, width, channels = x.shape

    def split(kernel, axis):
        first, middle, last = jnp.split(kernel, 3, axis)
        even = jnp.concatenate([middle, jnp.zeros_like(middle)], axis)
        return jnp.stack([even, jnp.concatenate([last, first], axis)], axis=-1)

    kernels = split(split(kernel, 0), 1).transpose(0, 1, 3, 4, 5, 2).reshape(2, 2, -1, 4 * channels)
    y = _convolution(g, kernels, [(0, 1), (0, 1)])
    rows, columns = y.shape[1:3]
    y = y.reshape(batch, rows, columns, 2, 2, channels).swapaxes(2, 3)
    return y.reshape(batch, 2 * rows, 2 * columns, channels)[:, :height, :width]


def _kernel_gradient(x: jax.Array, kernel: jax.Array, stride: int, groups: int, g: jax.Array) -> jax.Array:
    """The gradient of the kernel, given the gradient g of the output.

    It is a convolution of x, whose images act as channels, with g, whose images act as a kernel's input
    channels. With groups, the images are channels once for each group.
    """
    size, _, in_channels, _ = kernel.shape
    if size == 1 and groups == 1:
        return jnp.einsum("nhwc,nhwo->co", x[:, ::stride, ::stride], g)[None, None]

    def transpose(x, g):
        grouped = x.reshape(*x.shape[:3], groups, in_channels).transpose(4, 1, 2, 3, 0)
        return grouped.reshape(*grouped.shape[:3], -1), g.transpose(1, 2, 0, 3)

    # XLA would fuse the computation of x into its transposition and repeat it there, value by value in an
    # order that misses the cache. It fuses nothing into a conditional, hence one with two equal branches.
    images, kernels = lax.cond(g[0, 0, 0, 0] > 0, transpose, transpose, x, g)
    pad = size // 2
    padding = [(pad, (g.shape[i] - 1) * stride + size - pad - x.shape[i]) for i in (1, 2)]
    return _convolution(images, kernels, padding, dilation=stride, groups=groups).transpose(1, 2, 0, 3)
