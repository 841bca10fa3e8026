"""Max pooling as PyTorch computes it, in a form for each platform."""

from functools import reduce

import jax
import jax.numpy as jnp

from dks_jax.runtime.forms import by_platform


def max_pool(x: jax.Array) -> jax.Array:
    """Max pooling over 3x3 windows at stride 2 with a padding of one, as `torch.nn.MaxPool2d(3, 2, 1)`.

    Where several values of a window are the largest, the first one in row-major order has the gradient.

    Args:
      x: [batch, height, width, channel].

    Returns:
      [batch, height / 2, width / 2, channel], the sizes rounded up.
    """
    return by_platform(x, cpu=_reduce_windows, accelerator=_largest, tpu=_reduce_windows)


def _reduce_windows(x: jax.Array) -> jax.Array:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


@jax.custom_jvp
def _largest(x: jax.Array) -> jax.Array:
    """The maximum of nine shifted images, where no derivative is taken, else `_select_largest`."""
    return reduce(jnp.maximum, _shifted(x))


@_largest.defjvp
def _tangent(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(_select_largest, primals, tangents)


def _select_largest(x: jax.Array) -> jax.Array:
    """Selects from nine shifted images, whose derivative is nine selections.

    The derivative of `_reduce_windows` sums by atomic operations on a GPU, in an order that varies. On a TPU
    it stays, because there the shifted images would be written and read: as compiled for a v5e, 256 images of
    112x112x64 take 17.1 GB in both directions instead of 3.8.
    """
    largest, *others = _shifted(x)
    for values in others:
        largest = jnp.where((values > largest) | jnp.isnan(values), values, largest)
    return largest


def _shifted(x: jax.Array) -> list[jax.Array]:
    """For each of the nine places in a window, its value in all windows, in row-major order."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return [
        jax.lax.slice(padded, (0, i, j, 0), (batch, i + height, j + width, channels), (1, 2, 2, 1))
        for i in range(3)
        for j in range(3)
    ]
