"""How uint8 images become the input of the network, inside the compiled step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dks_jax.data.augment import crop_and_flip, normalise


class Preparation(NamedTuple):
    """Normalisation and augmentation.

    mean, std: per channel, of images in the range 0 to 1.
    padding, pad_mode, flip: augmentation of training images; see `crop_and_flip`.
    dtype: of the prepared images, and thereby of the network's computation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    pad_mode: str = "reflect"
    flip: bool = False
    dtype: Any = jnp.float32

    def training(self, images: jax.Array, positions: jax.Array, indices: jax.Array, key: jax.Array):
        """The images at `positions`, augmented and normalised; arguments as of `crop_and_flip`."""
        augmented = crop_and_flip(
            images, positions, indices, key, padding=self.padding, pad_mode=self.pad_mode, flip=self.flip
        )
        return self.evaluation(augmented)

    def evaluation(self, images: jax.Array) -> jax.Array:
        """The images normalised."""
        return normalise(images, self.mean, self.std, self.dtype)
