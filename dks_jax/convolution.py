"""The convolution of images with square kernels, and its derivatives in a form that suits XLA on a CPU.

Accelerators take XLA's convolution as it is. On a CPU it is slow where the kernel's gradient and strided
derivatives are concerned; what is here instead, and what each part brings, is in docs/performance.md.
"""

import jax
import jax.numpy as jnp
from jax import lax

from dks_jax.winograd import winograd

# XLA's YNNPACK kernels take 1.6 times as long for a training step as its Eigen kernels.
CPU_COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}
# From this many channels on Winograd's transformations cost less than the multiplications they save.
WINOGRAD_CHANNELS = 128


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution with zero padding of size // 2 on every side, as `torch.nn.Conv2d` computes it.

    On one CPU device, in float32 and float64, it has derivatives of its own and therefore no forward-mode
    ones.

    Args:
      x: images [batch, height, width, in].
      kernel: [size, size, in, out], the size odd.
      stride: along both axes.
    """
    on_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    if on_cpu and x.dtype in (jnp.float32, jnp.float64):
        return _convolve_on_cpu(x, kernel, stride)
    return direct(x, kernel, stride)


def direct(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """XLA's own convolution."""
    # The padding is given in numbers because "SAME" differs from PyTorch's where the stride is 2.
    padding = kernel.shape[0] // 2
    return _convolution(x, kernel, [(padding, padding)] * 2, stride=stride)


def _convolution(x, kernel, padding, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _fastest(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size, _, *channels = kernel.shape
    if size == 3 and stride == 1 and min(channels) >= WINOGRAD_CHANNELS:
        return winograd(x, kernel)
    return direct(x, kernel, stride)


_convolve_on_cpu = jax.custom_vjp(_fastest, nondiff_argnums=(2,))


def _forward(x: jax.Array, kernel: jax.Array, stride: int):
    return _fastest(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array):
    x, kernel = residuals
    return image_gradient(x, kernel, stride, g), kernel_gradient(x, kernel, stride, g)


_convolve_on_cpu.defvjp(_forward, _backward)


def image_gradient(x: jax.Array, kernel: jax.Array, stride: int, g: jax.Array) -> jax.Array:
    """The derivative with respect to x, given that with respect to the output."""
    if stride == 1:
        return _fastest(g, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    if stride == 2 and kernel.shape[0] == 3:
        return _image_gradient_by_parity(x, kernel, g)
    return jax.vjp(lambda x: direct(x, kernel, stride), x)[1](g)[0]


def _image_gradient_by_parity(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """At stride 2 even places get tap 1 of their own output, odd ones tap 2 of it and tap 0 of the next.

    So a 2x2 convolution of g gives all four parities at once, where XLA would convolve g with three zeros
    put in for each of its numbers.
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


def kernel_gradient(x: jax.Array, kernel: jax.Array, stride: int, g: jax.Array) -> jax.Array:
    """The derivative with respect to the kernel, given that with respect to the output.

    A convolution of x, its images as channels, with g, its images as input channels of a kernel.
    """
    size = kernel.shape[0]
    if size == 1:
        return jnp.einsum("nhwc,nhwo->co", x[:, ::stride, ::stride], g)[None, None]

    def transpose(x, g):
        return x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)

    # XLA would fuse what x is computed from into its transposition and compute it again there, number by
    # number in an order that misses the cache: nothing is fused into a condition, whichever way it goes.
    images, kernels = lax.cond(g[0, 0, 0, 0] > 0, transpose, transpose, x, g)
    pad = size // 2
    padding = [(pad, (g.shape[i] - 1) * stride + size - pad - x.shape[i]) for i in (1, 2)]
    return _convolution(images, kernels, padding, dilation=stride).transpose(1, 2, 0, 3)
