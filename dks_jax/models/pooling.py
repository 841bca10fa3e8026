"""Average pooling between the stages of networks for CIFAR."""

import jax

from dks_jax.runtime.errors import InputError


def average_pool(x: jax.Array, network: str) -> jax.Array:
    """The means of 2x2 pixels, [batch, height / 2, width / 2, channel].

    Args:
      x: features [batch, height, width, channel].
      network: name of the network, whose stages do so twice.

    Raises:
      InputError: a side of the features is odd.
    """
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise InputError(
            f"`data.image_size` of a {network} must be a multiple of 4, since two of its stages average "
            f"the pixels by twos; got features of {height}x{width} pixels to halve."
        )
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
