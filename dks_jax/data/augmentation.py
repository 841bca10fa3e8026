"""Random crops, flips and normalisation of images, computed on the devices inside the jitted step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dks_jax.runtime.forms import by_platform


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """Derives one PRNG key for each example of a batch.

    The random draws of an example thus depend neither on its batch nor on the number of devices.

    Args:
      key: PRNG key of the epoch.
      indices: integers [batch], the index of each example in its data set.

    Returns:
      PRNG keys [batch].
    """
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def crop_and_flip(
    images: jax.Array,
    positions: jax.Array,
    keys: jax.Array,
    *,
    padding: int,
    pad_mode: str,
    flip: bool,
) -> jax.Array:
    """Pads the images at `positions`, flips them at random and crops them back to their size at random.

    No padded copy is made: the pixels are taken at shifted, mirrored and reflected coordinates, on a CPU by
    one gather. On accelerators, where a gather of pixels is slow, entire images are gathered. Products with
    matrices of zeros and ones, which are exact, then take the rows and columns; a mere flip is a selection.

    Args:
      images: uint8 [image, height, width, channel].
      positions: integers [batch], the position of each example in `images`.
      keys: PRNG keys [batch].
      padding: pixels added on every side, fewer than the image has; 0 turns the crop off.
      pad_mode: "reflect" or "zero" (black).
      flip: whether to mirror left and right with probability 1/2.

    Returns:
      uint8 [batch, height, width, channel].
    """
    _, height, width, _ = images.shape

    def draw(key):
        crop_key, flip_key = jax.random.split(key)
        shift = jax.random.randint(crop_key, (2,), -padding, padding + 1)
        return shift, jax.random.bernoulli(flip_key) & flip

    shifts, mirrored = jax.vmap(draw)(keys)
    rows = jnp.arange(height) + shifts[:, :1]
    columns = jnp.arange(width) + shifts[:, 1:]
    columns = jnp.where(mirrored[:, None], width - 1 - columns, columns)
    if pad_mode == "reflect":
        rows, columns = _reflect(rows, height), _reflect(columns, width)

    def gather(images, positions, rows, columns, mirrored):
        del mirrored
        batch = images.at[positions[:, None, None], rows[:, :, None], columns[:, None, :]].get(mode="clip")
        if pad_mode == "zero":
            inside_rows = (rows >= 0) & (rows < height)
            inside_columns = (columns >= 0) & (columns < width)
            batch = jnp.where((inside_rows[:, :, None] & inside_columns[:, None, :])[..., None], batch, 0)
        return batch

    def select(images, positions, rows, columns, mirrored):
        batch = images.at[positions].get(mode="clip")
        if padding:
            return _select_columns(_select_rows(batch, rows), columns)
        return jnp.where(mirrored[:, None, None, None], batch[:, :, ::-1], batch) if flip else batch

    return by_platform(images, positions, rows, columns, mirrored, cpu=gather, accelerator=select)


def _select_rows(images: jax.Array, rows: jax.Array) -> jax.Array:
    """The rows of uint8 images at coordinates [batch, row]; those outside of the image are zeros."""
    # Products with 0 and 1 are exact, since bfloat16 holds all integers up to 256.
    matrices = jax.nn.one_hot(rows, images.shape[1], dtype=jnp.bfloat16)
    selected = jnp.einsum("brh,bhwc->brwc", matrices, images.astype(jnp.bfloat16))
    return selected.astype(jnp.uint8)


def _select_columns(images: jax.Array, columns: jax.Array) -> jax.Array:
    return _select_rows(images.swapaxes(1, 2), columns).swapaxes(1, 2)


def _reflect(coordinates: jax.Array, size: int) -> jax.Array:
    """Mirrors coordinates at the first and the last pixel, neither of which is repeated."""
    return size - 1 - jnp.abs(size - 1 - jnp.abs(coordinates))


def normalise(
    images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Computes (images / 255 - mean) / std per channel.

    On a CPU the result equals torchvision's ToTensor followed by Normalize bit for bit. It is looked up in a
    table of the 256 levels of each channel that NumPy computes, because XLA turns a division by a constant
    into a multiplication, which is off by up to 5e-7. On accelerators, where such a look-up is slow, it is
    one product and one sum.

    Args:
      images: uint8 [..., channel].
      mean, std: per-channel statistics of pixels in the range 0 to 1.
      dtype: dtype of the result; the result is computed in float32 or wider and then rounded to it.
    """
    wide = np.dtype(jnp.promote_types(dtype, jnp.float32))

    def look_up(images):
        levels = np.arange(256, dtype=wide)[:, None] / 255
        table = (levels - np.asarray(mean, wide)) / np.asarray(std, wide)
        # A flat index takes a fifth less time than two indices on a CPU (batches of CIFAR).
        indices = images.astype(jnp.int32) + 256 * jnp.arange(images.shape[-1])
        return jnp.asarray(table.T.ravel(), dtype).at[indices].get(mode="promise_in_bounds")

    def compute(images):
        scale = 1 / (255 * np.asarray(std))
        offset = -np.asarray(mean) / np.asarray(std)
        return (images.astype(wide) * scale.astype(wide) + offset.astype(wide)).astype(dtype)

    return by_platform(images, cpu=look_up, accelerator=compute)
