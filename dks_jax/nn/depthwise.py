"""The depthwise convolution as a sum of shifted products, in which XLA is fast on a CPU.

XLA's own depthwise convolution takes many times as long there, in both directions; docs/performance.md has
the figures.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax


# Jitted on its own so that the many convolutions of a network are traced once for each shape.
@partial(jax.jit, static_argnums=2)
def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The depthwise convolution with zero padding of size // 2 on every side.

    Args:
      x: [batch, height, width, channel].
      kernel: [size, size, 1, channel], the size odd.
      stride: step along both axes.

    Returns:
      [batch, height / stride, width / stride, channel], the sizes rounded up.
    """
    taps = kernel.reshape(-1, kernel.shape[3])
    parts = _shifted(x, kernel.shape[0], stride)
    return reduce(jnp.add, [part * tap for part, tap in zip(parts, taps, strict=True)])


@partial(jax.jit, static_argnums=(1, 2))
def kernel_gradient(x: jax.Array, size: int, stride: int, g: jax.Array) -> jax.Array:
    """The gradient of the kernel [size, size, 1, channel], given the gradient g of the output.

    XLA would sum value by value for each channel, in an order that misses the cache. A loop over the images
    keeps the sums along the columns of all channels in it.
    """

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, g = image
        products = [(part[0] * g).sum(axis=0) for part in _shifted(x[None], size, stride)]
        return total + jnp.stack(products), None

    start = jnp.zeros((size * size, *g.shape[2:]), g.dtype)
    total, _ = lax.scan(add, start, (x, g))
    return total.sum(axis=1).reshape(size, size, 1, -1)


def _shifted(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """For each tap of the kernel, in row-major order, the values of x by which it is multiplied."""
    batch, height, width, channels = x.shape
    padding = size // 2
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return [
        lax.slice(padded, (0, i, j, 0), (batch, i + height, j + width, channels), (1, stride, stride, 1))
        for i in range(size)
        for j in range(size)
    ]
