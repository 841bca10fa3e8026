"""Mixup and CutMix: each image of a batch is mixed with another one, and so are their targets.

All classifiers see the same mixed batch, and the synergy compares their predictions for it.

Sources: Zhang et al., "mixup", arXiv:1710.09412; Yun et al., "CutMix", arXiv:1905.04899. Probability,
switching and the pairing with the batch in reverse order are those of timm's `Mixup` in its mode "batch";
torchvision pairs an image with its neighbour instead. Each batch has one share, and one box, whose edges are
those of torchvision; a box of timm may be one pixel larger.
"""

import jax
import jax.numpy as jnp

from dks_jax.config import Config
from dks_jax.data.feeds import Batch
from dks_jax.synergy import one_hot
from dks_jax.training.steps import Mix


def from_config(config: Config, num_classes: int) -> Mix | None:
    """The mixing that a section `mixing` of a config describes; None for none.

    Args:
      config: the section.
      num_classes: number of classes of the targets.
    """
    mixup, cutmix = config.mixup, config.cutmix
    if not config.probability or not (mixup or cutmix):
        return None

    def mix(batch: Batch, key: jax.Array) -> Batch:
        switch_key, mixed_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 5)
        kinds = []
        if cutmix:
            share = jax.random.beta(cutmix_key, cutmix, cutmix)
            box = _draw_box(box_key, share, *batch.images.shape[1:3])
            kinds.append(paste(batch, box, num_classes))
        if mixup:
            kinds.append(blend(batch, jax.random.beta(mixup_key, mixup, mixup), num_classes))
        if len(kinds) == 2:
            kinds = [_choose(jax.random.bernoulli(switch_key, config.switch_probability), *kinds)]
        plain = batch._replace(targets=one_hot(batch.targets, num_classes))
        return _choose(jax.random.bernoulli(mixed_key, config.probability), kinds[0], plain)

    return mix


def _choose(condition: jax.Array, batch: Batch, other: Batch) -> Batch:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), batch, other)


def blend(batch: Batch, share: jax.Array, num_classes: int) -> Batch:
    """Mixup: share * image + (1 - share) * other image, and the targets likewise.

    Args:
      batch: a batch whose targets are labels.
      share: share of each image itself, a scalar from 0 to 1.
      num_classes: number of classes.
    """
    images = batch.images.astype(jnp.promote_types(batch.images.dtype, jnp.float32))
    images = (share * images + (1 - share) * images[::-1]).astype(batch.images.dtype)
    return batch._replace(images=images, targets=_shared(batch.targets, share, num_classes))


def paste(batch: Batch, box: tuple[jax.Array, ...], num_classes: int) -> Batch:
    """CutMix: each image with a box of the other one, and the targets by the areas.

    Args:
      batch: a batch whose targets are labels.
      box: first row, end of the rows, first column and end of the columns of the box.
      num_classes: number of classes.
    """
    top, bottom, left, right = box
    height, width = batch.images.shape[1:3]
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    images = jnp.where(inside[None, :, :, None], batch.images[::-1], batch.images)
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return batch._replace(images=images, targets=_shared(batch.targets, share, num_classes))


def _draw_box(key: jax.Array, share: jax.Array, height: int, width: int) -> tuple[jax.Array, ...]:
    """The box of CutMix around a centre that is drawn anywhere in the image; see `box_around`."""
    row_key, column_key = jax.random.split(key)
    row, column = jax.random.randint(row_key, (), 0, height), jax.random.randint(column_key, (), 0, width)
    return box_around(row, column, share, height, width)


def box_around(
    row: jax.Array, column: jax.Array, share: jax.Array, height: int, width: int
) -> tuple[jax.Array, ...]:
    """The box with 1 - share of the area of an image, clipped at its edges.

    Args:
      row, column: centre of the box.
      share: share of the image that stays.
      height, width: of the image.

    Returns:
      First row, end of the rows, first column and end of the columns.
    """
    side = jnp.sqrt(1 - share)
    half_height, half_width = ((size * side).astype(jnp.int32) // 2 for size in (height, width))
    edges = (row - half_height, height), (row + half_height, height)
    edges += (column - half_width, width), (column + half_width, width)
    return tuple(jnp.clip(edge, 0, size) for edge, size in edges)


def _shared(labels: jax.Array, share: jax.Array, num_classes: int) -> jax.Array:
    targets = one_hot(labels, num_classes)
    return share * targets + (1 - share) * targets[::-1]
