"""Random erasing and cutout of normalised images, computed on the devices inside the jitted step.

Both are masks by comparisons of coordinates, because gathers and scatters are slow on accelerators.
"""

import jax
import jax.numpy as jnp

# As torchvision's RandomErasing by default: the share of the image's area, and height over width.
SCALE = 0.02, 0.33
RATIO = 0.3, 3.3
ATTEMPTS = 10


def random_erasing(keys: jax.Array, images: jax.Array, *, probability: float) -> jax.Array:
    """Sets a random rectangle of some of the images to zero, which is the mean of normalised images.

    The rectangle has 2 to 33 % of the image's area and an aspect ratio of 0.3 to 3.3. The first of ten draws
    that is smaller than the image in both directions is taken; without any the image stays as it is. This is
    torchvision's RandomErasing(value=0), with draws of JAX.

    Args:
      keys: PRNG keys [batch].
      images: [batch, height, width, channel].
      probability: probability of an image to be erased, 0 to 1.

    Returns:
      Images of the same shape and type.

    Source: Zhong et al., Random Erasing Data Augmentation (2017), https://arxiv.org/abs/1708.04896
    """
    height, width = images.shape[1:3]

    def draw(key: jax.Array) -> jax.Array:
        chance_key, area_key, ratio_key, place_key = jax.random.split(key, 4)
        chosen = jax.random.uniform(chance_key, dtype=jnp.float32) < probability
        share = jax.random.uniform(area_key, (ATTEMPTS,), jnp.float32, *SCALE)
        log_ratio = jax.random.uniform(ratio_key, (ATTEMPTS,), jnp.float32, *jnp.log(jnp.array(RATIO)))
        area, ratio = height * width * share, jnp.exp(log_ratio)
        heights, widths = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
        fits = (heights < height) & (widths < width)
        # A sum takes the first that fits without a gather, and nothing where none does.
        first = fits & (jnp.cumsum(fits) == 1) & chosen
        size = jnp.sum(jnp.where(first, jnp.stack([heights, widths]), 0), axis=1).astype(jnp.int32)
        corner = jax.random.randint(place_key, (2,), 0, jnp.array([height, width]) - size + 1)
        return jnp.concatenate([corner, size])

    return erase(images, jax.vmap(draw)(keys))


def cutout(keys: jax.Array, images: jax.Array, *, size: int) -> jax.Array:
    """Sets a square at a random place of every image to zero, which is the mean of normalised images.

    The centre of the square is uniform over the image, and what lies beyond the border is cut off. For an
    even size this is the released code of the paper; its squares of odd size are a pixel smaller.

    Args:
      keys: PRNG keys [batch].
      images: [batch, height, width, channel].
      size: side of the square in pixels.

    Returns:
      Images of the same shape and type.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout (2017),
      https://arxiv.org/abs/1708.04552
    """
    limits = jnp.array(images.shape[1:3])

    def draw(key: jax.Array) -> jax.Array:
        centre = jax.random.randint(key, (2,), 0, limits)
        return jnp.concatenate([centre - size // 2, jnp.full(2, size)])

    return erase(images, jax.vmap(draw)(keys))


def erase(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Sets a rectangle of each image to zero.

    Args:
      images: [batch, height, width, channel].
      boxes: integers [batch, 4], top, left, height and width in pixels. What lies beyond the border is cut
        off.
    """
    top, left, height, width = (boxes[:, i, None] for i in range(4))
    rows, columns = (jnp.arange(side) for side in images.shape[1:3])
    in_rows = (rows >= top) & (rows < top + height)
    in_columns = (columns >= left) & (columns < left + width)
    return jnp.where((in_rows[:, :, None] & in_columns[:, None, :])[..., None], 0, images)
