"""Wide residual networks with the branches of the released DKS code.

Backbone: Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146 (pre-activation
blocks). Branches: the code released with DKS, arXiv:1906.00675. Layers are named as in its checkpoints.

    n = (depth - 4) / 6 blocks per group
    backbone          16 channels - group 16k - group 32k - group 64k - head
    branch 1, after group 0         n blocks to 32k, n // 2 blocks to 64k, head
    branch 2, after group 1                          n blocks to 128k, head
"""

import jax
from flax import nnx

from dks_jax.errors import InputError
from dks_jax.layers import BatchNorm, Conv, Linear, Stage
from dks_jax.supervision import Branch, DeeplySupervised


class Block(nnx.Module):
    """A pre-activation residual block: (BN, ReLU, 3x3 convolution) twice, dropout before the second."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        dropout: float,
        norm_groups: int,
        rngs: nnx.Rngs,
    ):
        self.bn0 = BatchNorm(in_channels, norm_groups=norm_groups, rngs=rngs)
        self.conv0 = Conv(in_channels, out_channels, 3, stride, rngs=rngs)
        self.bn1 = BatchNorm(out_channels, norm_groups=norm_groups, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.conv1 = Conv(out_channels, out_channels, 3, rngs=rngs)
        changes_width = in_channels != out_channels
        self.convdim = nnx.data(
            Conv(in_channels, out_channels, 1, stride, rngs=rngs) if changes_width else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        o1 = nnx.relu(self.bn0(x))
        o2 = self.dropout(nnx.relu(self.bn1(self.conv0(o1))))
        # As released, the 1x1 shortcut takes the pre-activated input, the identity the raw one.
        shortcut = x if self.convdim is None else self.convdim(o1)
        return self.conv1(o2) + shortcut


def group(in_channels: int, out_channels: int, num_blocks: int, stride: int, **block) -> Stage:
    """Blocks, the first of which changes the width and the resolution."""
    return Stage(
        Block(in_channels if i == 0 else out_channels, out_channels, stride if i == 0 else 1, **block)
        for i in range(num_blocks)
    )


class Head(nnx.Module):
    """BN, ReLU, global average pool, linear: features [batch, height, width, channel] to logits."""

    def __init__(self, num_channels: int, num_classes: int, *, norm_groups: int, rngs: nnx.Rngs):
        self.bn = BatchNorm(num_channels, norm_groups=norm_groups, rngs=rngs)
        self.fc = Linear(num_channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(nnx.relu(self.bn(x)).mean(axis=(1, 2)))


def check(depth: int, width: int, dropout: float) -> None:
    """Raises InputError for an argument of `wide_resnet` that is out of its range."""
    if depth < 16 or (depth - 4) % 6:
        raise InputError(
            f"`depth` of a wide ResNet must be 6n+4 with n >= 2, e.g. 16, 22, 28 or 40; got {depth}."
        )
    if width < 1:
        raise InputError(f"`width` of a wide ResNet must be 1 or more, e.g. 10; got {width}.")
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"`dropout` must be a rate from 0 to below 1, e.g. 0.3; got {dropout}.")


def wide_resnet(
    depth: int,
    width: int,
    num_classes: int,
    *,
    dropout: float = 0.0,
    channels: int = 3,
    norm_groups: int = 1,
    branches: bool = True,
    rngs: nnx.Rngs,
) -> DeeplySupervised:
    """WRN-depth-width, with its two DKS branches or without; images of any size.

    Args:
      depth: 6n + 4 with n >= 2.
      width: k, the multiple of 16, 32 and 64 channels.
      num_classes: number of logits of every classifier.
      dropout: rate before the second convolution of every block, in training only (published: 0 and 0.3).
      channels: of the images.
      norm_groups: slices in which batch normalisation treats the batch; see `BatchNorm`.
      branches: False gives the plain backbone. Its initial weights are the same either way.

    Raises:
      InputError: `depth`, `width` or `dropout` is out of its range.
    """
    check(depth, width, dropout)
    num_blocks = (depth - 4) // 6
    widths = [16 * width, 32 * width, 64 * width, 128 * width]
    block = {"dropout": dropout, "norm_groups": norm_groups, "rngs": rngs}

    def head(num_channels: int) -> Head:
        return Head(num_channels, num_classes, norm_groups=norm_groups, rngs=rngs)

    stem = Conv(channels, 16, 3, rngs=rngs)
    stages = [
        group(16, widths[0], num_blocks, 1, **block),
        group(widths[0], widths[1], num_blocks, 2, **block),
        group(widths[1], widths[2], num_blocks, 2, **block),
    ]
    main_head = head(widths[2])
    if not branches:
        return DeeplySupervised(stem, stages, main_head)
    branch1_stages = [
        group(widths[0], widths[1], num_blocks, 2, **block),
        group(widths[1], widths[2], num_blocks // 2, 2, **block),
    ]
    branch1 = Branch(0, branch1_stages, head(widths[2]))
    branch2 = Branch(1, [group(widths[1], widths[3], num_blocks, 2, **block)], head(widths[3]))
    return DeeplySupervised(stem, stages, main_head, [branch1, branch2])
