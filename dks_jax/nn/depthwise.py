"""The depthwise convolution as a sum of shifted products, which XLA compiles to fast code for a CPU.

XLA's own takes many times as long there, in both directions; docs/performance.md has the figures.
"""

from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax


# Jitted on its own so that the many convolutions of a network are traced once for each shape.
@partial(jax.jit, static_argnums=2)
def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The depthwise convolution with zero padding of size // 2 on every side, with JAX's own derivatives.

    Args:
      x: [batch, height, width, channel].
      kernel: [size, size, 1, channel], the size odd.
      stride: step along both axes.

    Returns:
      [batch, height / stride, width / stride, channel], the sizes rounded up.
    """
    pad = kernel.shape[0] // 2
    return _sum_of_products(_pad(x, (pad, pad), (pad, pad)), kernel[:, :, 0], stride=stride)


depthwise_reverse = jax.custom_vjp(depthwise, nondiff_argnums=(2,))
"""The same with derivatives of reverse mode alone, which are faster than JAX's own."""


def _forward(x: jax.Array, kernel: jax.Array, stride: int):
    return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array):
    x, kernel = residuals
    return _image_gradient(x, kernel, stride, g), _kernel_gradient(x, kernel, stride, g)


depthwise_reverse.defvjp(_forward, _backward)


@partial(jax.jit, static_argnums=2)
def _image_gradient(x: jax.Array, kernel: jax.Array, stride: int, g: jax.Array) -> jax.Array:
    """The gradient of the images x, given the gradient g of the output: g with the kernel turned around.

    Between the values of g stand stride - 1 zeros.
    """
    pad = kernel.shape[0] // 2
    rows, columns = (x.shape[i] + pad - stride * (g.shape[i] - 1) - 1 for i in (1, 2))
    spread = _pad(g, (pad, rows), (pad, columns), between=stride - 1)
    return _sum_of_products(spread, kernel[::-1, ::-1, 0])


@partial(jax.jit, static_argnums=2)
def _kernel_gradient(x: jax.Array, kernel: jax.Array, stride: int, g: jax.Array) -> jax.Array:
    """The gradient of the kernel, given the gradient g of the output.

    A loop goes over blocks of g that are hardly larger than the kernel. The values of a block are to the
    images what a kernel is to them in the convolution, so that the same code serves. A sum over all pixels
    for each value of the kernel would read x and g as many times, and XLA would go through them channel by
    channel.
    """
    size, (batch, *pixels, channels) = kernel.shape[0], g.shape
    counts = [-(-length // (size + 1)) for length in pixels]
    block = [-(-length // count) for length, count in zip(pixels, counts, strict=True)]
    window = [stride * (length - 1) + size for length in block]
    whole = [count * length for count, length in zip(counts, block, strict=True)]
    pad = size // 2
    ends = [stride * (whole[i] - 1) + size - pad - x.shape[i + 1] for i in (0, 1)]
    x = _pad(x, (pad, ends[0]), (pad, ends[1]))
    g = _pad(g, (0, whole[0] - pixels[0]), (0, whole[1] - pixels[1]))

    def add_block(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        image, row, column = jnp.unravel_index(index, (batch, *counts))
        top, left = row * block[0], column * block[1]
        own = lax.dynamic_slice(g, (image, top, left, 0), (1, *block, channels))
        seen = lax.dynamic_slice(x, (image, stride * top, stride * left, 0), (1, *window, channels))
        return total + _sum_of_products(seen, own[0], dilation=stride)[0], None

    start = jnp.zeros((size, size, channels), g.dtype)
    total, _ = lax.scan(add_block, start, jnp.arange(batch * counts[0] * counts[1]))
    return total[:, :, None]


def _sum_of_products(x: jax.Array, taps: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """The depthwise convolution without padding, with the taps [rows, columns, channel] as its kernel."""
    rows, columns, _ = taps.shape
    height, width = (
        (x.shape[axis + 1] - dilation * (taps.shape[axis] - 1) - 1) // stride + 1 for axis in (0, 1)
    )

    def product(row: int, column: int) -> jax.Array:
        top, left = dilation * row, dilation * column
        ends = top + stride * (height - 1) + 1, left + stride * (width - 1) + 1
        part = lax.slice(x, (0, top, left, 0), (x.shape[0], *ends, x.shape[3]), (1, stride, stride, 1))
        return part * taps[row, column]

    return reduce(add, (product(row, column) for row in range(rows) for column in range(columns)))


def _pad(x: jax.Array, rows: tuple[int, int], columns: tuple[int, int], between: int = 0) -> jax.Array:
    """Zeros before and after the rows and the columns, and so many between any two of them."""
    config = (0, 0, 0), (*rows, between), (*columns, between), (0, 0, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), config)
