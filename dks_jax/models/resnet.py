"""Residual networks for ImageNet, with the branches of DKS and DHM.

Backbone: He et al., "Deep Residual Learning", CVPR 2016, arXiv:1512.03385, in torchvision's variant, where
the 3x3 convolution of a bottleneck has the stride. Branches and initialisation: the code released with DHM
(github.com/d-li14/DHM) by the authors of DKS. Layers are named as in torchvision, where stage i is
layer{i + 1}.

    backbone                       stem - layer1 - layer2 - layer3 - layer4 - head
    branch 1, after layer2                                  a blocks - b blocks - head
    branch 2, after layer3                                           c blocks of double width - head
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
from flax import nnx

from dks_jax.models.family import (
    Backbone,
    Family,
    Layers,
    Network,
    Part,
    Preprocessing,
    Shape,
    TorchFormat,
    count_channels,
    count_classes,
)
from dks_jax.models.regularisation import ARGUMENTS, Regularisation, Transform, identity
from dks_jax.nn.initialisation import kaiming_normal_fan_out
from dks_jax.nn.layers import BatchNorm, Conv, Linear, Stage
from dks_jax.nn.pooling import max_pool
from dks_jax.supervision import BranchSpec


class Recipe(NamedTuple):
    """The blocks of a network of a certain depth.

    bottleneck: whether blocks are of the type `Bottleneck` instead of `BasicBlock`.
    backbone: number of blocks in each of the four stages.
    early, late: number of blocks in each stage of the first and of the second branch.
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
    """7x7 convolution with stride 2, BN, ReLU and 3x3 max pool with stride 2; quarters the resolution."""

    def __init__(self, channels: int, layers: Layers):
        self.conv1 = layers.conv(channels, 64, 7, 2)
        self.bn1 = layers.norm(64)

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(nnx.relu(self.bn1(self.conv1(x))))


class Downsample(nnx.Module):
    """The shortcut of a block that changes the shape of its input: 1x1 convolution and BN."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, layers: Layers):
        self.conv = layers.conv(in_channels, out_channels, 1, stride)
        self.bn = layers.norm(out_channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


class Residual(nnx.Module):
    """Base class of residual blocks, which return the ReLU of the sum of `residual` and a shortcut.

    expansion: ratio of the channels of the output to the width.
    """

    expansion: int

    def __init__(
        self, in_channels: int, width: int, stride: int, layers: Layers, drop_path: Transform = identity
    ):
        out_channels = width * self.expansion
        changes_shape = stride != 1 or in_channels != out_channels
        self.downsample = nnx.data(
            Downsample(in_channels, out_channels, stride, layers) if changes_shape else None
        )
        self.drop_path = drop_path

    def residual(self, x: jax.Array) -> jax.Array:
        """Computes the term that is added to the shortcut."""
        raise NotImplementedError

    def __call__(self, x: jax.Array) -> jax.Array:
        residual = self.drop_path(self.residual(x))
        return nnx.relu(residual + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(Residual):
    """Two 3x3 convolutions, each with BN."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, layers: Layers, drop_path: Transform = identity
    ):
        super().__init__(in_channels, width, stride, layers, drop_path)
        self.conv1 = layers.conv(in_channels, width, 3, stride)
        self.bn1 = layers.norm(width)
        self.conv2 = layers.conv(width, width, 3)
        self.bn2 = layers.norm(width)

    def residual(self, x: jax.Array) -> jax.Array:
        return self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))


class Bottleneck(Residual):
    """1x1, 3x3 and 1x1 convolutions, each with BN."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, layers: Layers, drop_path: Transform = identity
    ):
        super().__init__(in_channels, width, stride, layers, drop_path)
        self.conv1 = layers.conv(in_channels, width, 1)
        self.bn1 = layers.norm(width)
        self.conv2 = layers.conv(width, width, 3, stride)
        self.bn2 = layers.norm(width)
        self.conv3 = layers.conv(width, width * self.expansion, 1)
        self.bn3 = layers.norm(width * self.expansion)

    def residual(self, x: jax.Array) -> jax.Array:
        out = nnx.relu(self.bn1(self.conv1(x)))
        out = nnx.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))


class Head(nnx.Module):
    """Global average pool and linear layer, from features [batch, height, width, channel] to logits."""

    def __init__(self, num_channels: int, num_classes: int, *, dropout: Transform = identity, rngs: nnx.Rngs):
        self.dropout = dropout
        self.fc = Linear(num_channels, num_classes, uniform=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.dropout(x.mean(axis=(1, 2))))


def backbone(
    recipe: Recipe,
    *,
    drop_path: float,
    head_dropout: float,
    num_classes: int,
    channels: int,
    norm_groups: int,
    rngs: nnx.Rngs,
) -> Backbone:
    """The ResNet of a recipe, for images of at least 32 x 32 pixels; it was published for 224 x 224.

    Args:
      drop_path, head_dropout: see `models.regularisation`.
      num_classes, channels, norm_groups: see `models.build`.
      rngs: source of the initial values and of the dropouts.
    """
    layers = Layers(
        partial(Conv, initial=kaiming_normal_fan_out, rngs=rngs),
        partial(BatchNorm, norm_groups=norm_groups, unit_scale=True, rngs=rngs),
    )
    kind = Bottleneck if recipe.bottleneck else BasicBlock
    block = partial(kind, layers=layers)
    regularisation = Regularisation(drop_path, head_dropout, recipe.backbone, rngs)

    def stage(index: int, in_channels: int, num_blocks: int, width: int) -> Part:
        out_channels = width * kind.expansion
        first, *others = regularisation.drop_paths(index, num_blocks)
        made = [block(in_channels, width, 2 if 0 < index < 4 else 1, drop_path=first)]
        made += [block(out_channels, width, 1, drop_path=drop) for drop in others]
        return Stage(made), out_channels

    return Backbone(
        blocks=recipe.backbone,
        widths=WIDTHS,
        stem=lambda: (Stem(channels, layers), 64),
        stage=stage,
        head=lambda in_channels: Head(
            in_channels, num_classes, dropout=regularisation.before_fc(), rngs=rngs
        ),
    )


def branches(recipe: Recipe, **_) -> tuple[BranchSpec, ...]:
    """The branches of the code released with DHM, which are also those of DKS."""
    return BranchSpec(1, recipe.early, WIDTHS[2:]), BranchSpec(2, recipe.late, (2 * WIDTHS[3],))


def recognise(shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint by names and shapes; see `TorchFormat`."""
    blocks = {match[0] for name in shapes if (match := re.match(r"layer[1-4]\.\d+(?=\.)", name))}
    counts = Counter(block.partition(".")[0] for block in blocks)
    found = "layer1.0.conv3.weight" in shapes, tuple(counts[f"layer{i}"] for i in range(1, 5))
    for depth, recipe in RECIPES.items():
        if (recipe.bottleneck, recipe.backbone) == found:
            published = branches(recipe) if any("_head" in name for name in shapes) else ()
            model = {"name": f"resnet{depth}"}
            return Network(model, published, count_classes(shapes), count_channels(shapes, "conv1"))
    return None


# Names as in torchvision; branches as in the code released with DHM, where `*_head2` is the early one.
TORCH = TorchFormat(
    "torchvision",
    recognise,
    rules=(
        (r"branches\.0\.stages\.0\.blocks", "layer3_head2"),
        (r"branches\.0\.stages\.1\.blocks", "layer4_head2"),
        (r"branches\.0\.head\.fc", "fc_head2"),
        (r"branches\.1\.stages\.0\.blocks", "layer4_head1"),
        (r"branches\.1\.head\.fc", "fc_head1"),
        (r"stages\.0\.blocks", "layer1"),
        (r"stages\.1\.blocks", "layer2"),
        (r"stages\.2\.blocks", "layer3"),
        (r"stages\.3\.blocks", "layer4"),
        (r"(stem|head)\.", ""),
    ),
    replacements=((r"downsample\.conv$", "downsample.0"), (r"downsample\.bn$", "downsample.1")),
    order=(
        *("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"),
        *("layer1", "layer2", "layer3", "layer4", "fc"),
        *("layer3_head2", "layer4_head2", "fc_head2", "layer4_head1", "fc_head1"),
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    ),
    # The evaluation released with DKS uses this preprocessing.
    preprocessing=Preprocessing(
        "dks", *(224, 224, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), assumed=True
    ),
    imagenet=True,
)

NETWORKS = {
    f"resnet{depth}": Family(
        partial(backbone, recipe),
        partial(branches, recipe),
        arguments=ARGUMENTS,
        torch=(TORCH,),
    )
    for depth, recipe in RECIPES.items()
}
