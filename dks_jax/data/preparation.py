"""Normalisation and augmentation of uint8 images, which run inside the compiled step."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from dks_jax.data.augmentation import crop_and_flip, example_keys, normalise

# Maps PRNG keys [batch] and normalised images to augmented images, e.g. with a random part erased.
Augmentation: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]

# The streams 0 and 1 of an example's key belong to the crop and the flip, which split the key in two.
FIRST_STREAM = 2


class Preparation(NamedTuple):
    """Turns uint8 images into the input of the network.

    Attributes:
      mean, std: per-channel statistics of pixels in the range 0 to 1.
      padding, pad_mode, flip: augmentation of training images; see `crop_and_flip`.
      dtype: dtype of the prepared images, in which the network then computes.
      augmentations: further augmentations of the normalised training images, applied in this order.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    pad_mode: str = "reflect"
    flip: bool = False
    dtype: Any = jnp.float32
    augmentations: tuple[Augmentation, ...] = ()

    def training(
        self, images: jax.Array, positions: jax.Array, indices: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Augments and normalises the images at `positions`.

        Args:
          images: uint8 [image, height, width, channel].
          positions: integers [batch], the position of each example in `images`.
          indices: integers [batch], the index of each example in its data set.
          key: PRNG key of the epoch.

        Returns:
          Images of the type `dtype`, [batch, height, width, channel].
        """
        keys = example_keys(key, indices)
        cropped = crop_and_flip(
            images, positions, keys, padding=self.padding, pad_mode=self.pad_mode, flip=self.flip
        )
        batch = self.evaluation(cropped)
        for stream, augmentation in enumerate(self.augmentations, start=FIRST_STREAM):
            batch = augmentation(
                jax.vmap(lambda k, stream=stream: jax.random.fold_in(k, stream))(keys), batch
            )
        return batch

    def evaluation(self, images: jax.Array) -> jax.Array:
        """Normalises `images`, uint8 [batch, height, width, channel], without augmentation."""
        return normalise(images, self.mean, self.std, self.dtype)
