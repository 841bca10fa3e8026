"""Residual networks for ImageNet, with the branches that DKS and DHM train them with.

Backbone: He et al., "Deep Residual Learning", CVPR 2016, arXiv:1512.03385, in torchvision's form: the stride
of a bottleneck is that of its 3x3 convolution. Branches and initialisation: the code released with DHM
(github.com/d-li14/DHM), by the authors of DKS. Layers are named as in torchvision, in whose checkpoints
stage i is layer{i + 1}.

    backbone                       stem - layer1 - layer2 - layer3 - layer4 - head
    branch 1, after layer2                                  a blocks - b blocks - head
    branch 2, after layer3                                           c blocks of double width - head
"""

from typing import NamedTuple

import jax
from flax import nnx

from dks_jax.errors import InputError
from dks_jax.layers import BatchNorm, Conv, Linear, Stage, max_pool
from dks_jax.supervision import Branch, DeeplySupervised


class Recipe(NamedTuple):
    """The blocks of a network.

    bottleneck: whether a block has three convolutions, the last of four times the width, instead of two.
    backbone: blocks in each of the four stages.
    early, late: blocks in each stage of the branches.
    """

    bottleneck: bool
    backbone: tuple[int, int, int, int]
    early: tuple[int, int]
    late: tuple[int]


RECIPES = {
    18: Recipe(False, (2, 2, 2, 2), (1, 2), (2,)),
    34: Recipe(False, (3, 4, 6, 3), (3, 2), (3,)),
    50: Recipe(True, (3, 4, 6, 3), (3, 2), (3,)),
    101: Recipe(True, (3, 4, 23, 3), (12, 2), (3,)),
    152: Recipe(True, (3, 8, 36, 3), (18, 2), (3,)),
}
WIDTHS = (64, 128, 256, 512)


class Stem(nnx.Module):
    """7x7 convolution at stride 2, BN, ReLU, 3x3 max pool at stride 2: a quarter of the resolution."""

    def __init__(self, channels: int, *, norm_groups: int, rngs: nnx.Rngs):
        self.conv1 = Conv(channels, 64, 7, 2, fan_out=True, rngs=rngs)
        self.bn1 = BatchNorm(64, norm_groups=norm_groups, unit_scale=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(nnx.relu(self.bn1(self.conv1(x))))


class Downsample(nnx.Module):
    """The shortcut of a block that changes the shape: 1x1 convolution, BN."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, norm_groups: int, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, out_channels, 1, stride, fan_out=True, rngs=rngs)
        self.bn = BatchNorm(out_channels, norm_groups=norm_groups, unit_scale=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


class Residual(nnx.Module):
    """A block: the ReLU of the sum of its `residual` and its shortcut.

    expansion: channels of the output over the width.
    """

    expansion: int

    def __init__(self, in_channels: int, width: int, stride: int, *, norm_groups: int, rngs: nnx.Rngs):
        out_channels, options = width * self.expansion, {"norm_groups": norm_groups, "rngs": rngs}
        changes_shape = stride != 1 or in_channels != out_channels
        self.downsample = nnx.data(
            Downsample(in_channels, out_channels, stride, **options) if changes_shape else None
        )

    def residual(self, x: jax.Array) -> jax.Array:
        """What the block adds to its shortcut."""
        raise NotImplementedError

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.residual(x) + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(Residual):
    """Two 3x3 convolutions, each with BN."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, *, norm_groups: int, rngs: nnx.Rngs):
        super().__init__(in_channels, width, stride, norm_groups=norm_groups, rngs=rngs)
        norm = {"norm_groups": norm_groups, "unit_scale": True, "rngs": rngs}
        self.conv1 = Conv(in_channels, width, 3, stride, fan_out=True, rngs=rngs)
        self.bn1 = BatchNorm(width, **norm)
        self.conv2 = Conv(width, width, 3, fan_out=True, rngs=rngs)
        self.bn2 = BatchNorm(width, **norm)

    def residual(self, x: jax.Array) -> jax.Array:
        return self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))


class Bottleneck(Residual):
    """1x1, 3x3 and 1x1 convolutions, each with BN."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, *, norm_groups: int, rngs: nnx.Rngs):
        super().__init__(in_channels, width, stride, norm_groups=norm_groups, rngs=rngs)
        norm = {"norm_groups": norm_groups, "unit_scale": True, "rngs": rngs}
        self.conv1 = Conv(in_channels, width, 1, fan_out=True, rngs=rngs)
        self.bn1 = BatchNorm(width, **norm)
        self.conv2 = Conv(width, width, 3, stride, fan_out=True, rngs=rngs)
        self.bn2 = BatchNorm(width, **norm)
        self.conv3 = Conv(width, width * self.expansion, 1, fan_out=True, rngs=rngs)
        self.bn3 = BatchNorm(width * self.expansion, **norm)

    def residual(self, x: jax.Array) -> jax.Array:
        out = nnx.relu(self.bn1(self.conv1(x)))
        out = nnx.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))


class Head(nnx.Module):
    """Global average pool, linear: features [batch, height, width, channel] to logits."""

    def __init__(self, num_channels: int, num_classes: int, *, rngs: nnx.Rngs):
        self.fc = Linear(num_channels, num_classes, uniform=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(x.mean(axis=(1, 2)))


def resnet(
    depth: int,
    num_classes: int,
    *,
    channels: int = 3,
    norm_groups: int = 1,
    branches: bool = True,
    rngs: nnx.Rngs,
) -> DeeplySupervised:
    """ResNet-depth, with its two DKS branches or without; images of any size from 32 on, published 224.

    Args:
      depth: one of RECIPES.
      num_classes: number of logits of every classifier.
      channels: of the images.
      norm_groups: slices in which batch normalisation treats the batch; see `BatchNorm`.
      branches: False gives the plain backbone. Its initial weights are the same either way.

    Raises:
      InputError: there is no ResNet of this depth.
    """
    if depth not in RECIPES:
        raise InputError(f"`depth` of a ResNet must be one of {', '.join(map(str, RECIPES))}; got {depth}.")
    recipe = RECIPES[depth]
    block = Bottleneck if recipe.bottleneck else BasicBlock
    options = {"norm_groups": norm_groups, "rngs": rngs}

    def stage(in_channels: int, width: int, num_blocks: int, stride: int = 2) -> Stage:
        """Blocks, the first of which changes the width and the resolution."""
        first = block(in_channels, width, stride, **options)
        out_channels = width * block.expansion
        return Stage([first, *(block(out_channels, width, 1, **options) for _ in range(num_blocks - 1))])

    def head(width: int) -> Head:
        return Head(width * block.expansion, num_classes, rngs=rngs)

    stem = Stem(channels, **options)
    w1, w2, w3, w4 = WIDTHS
    n1, n2, n3, n4 = recipe.backbone
    c1, c2, c3 = (width * block.expansion for width in (w1, w2, w3))
    stages = [stage(64, w1, n1, 1), stage(c1, w2, n2), stage(c2, w3, n3), stage(c3, w4, n4)]
    main_head = head(w4)
    if not branches:
        return DeeplySupervised(stem, stages, main_head)
    early = Branch(1, [stage(c2, w3, recipe.early[0]), stage(c3, w4, recipe.early[1])], head(w4))
    late = Branch(2, [stage(c3, 2 * w4, recipe.late[0])], head(2 * w4))
    return DeeplySupervised(stem, stages, main_head, [early, late])
