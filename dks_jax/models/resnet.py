"""Residual networks for ImageNet, with the branches of DKS and DHM; ResNeXts and wide ones of torchvision.

Backbone: He et al., "Deep Residual Learning", CVPR 2016, arXiv:1512.03385, in torchvision's variant, where
the 3x3 convolution of a bottleneck has the stride. Branches and initialisation: the code released with DHM
(github.com/d-li14/DHM) by the authors of DKS. Layers are named as in torchvision, where stage i is
layer{i + 1}.

    backbone                       stem - layer1 - layer2 - layer3 - layer4 - head
    branch 1, after layer2                                  a blocks - b blocks - head
    branch 2, after layer3                                           c blocks of double width - head

ResNeXts (Xie et al., "Aggregated Residual Transformations", CVPR 2017, arXiv:1611.05431) and wide networks
(Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146) are as in torchvision: a
ResNet-50 or -101 whose 3x3 convolutions have groups, or twice the channels. Nobody has published branches for
them. Theirs are ours: the a, b and c of the ResNet of their depth, in blocks of their own kind.
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
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import BranchSpec


class Recipe(NamedTuple):
    """The blocks of a network.

    bottleneck: whether blocks are of the type `Bottleneck` instead of `BasicBlock`.
    backbone: number of blocks in each of the four stages.
    early, late: number of blocks in each stage of the first and of the second branch.
    groups, group_width: see `Bottleneck`.
    """

    bottleneck: bool
    backbone: tuple[int, int, int, int]
    early: tuple[int, int]
    late: tuple[int]
    groups: int = 1
    group_width: int = 64


# Where several have the same blocks, the plain one is the first.
RECIPES = {
    "resnet18": Recipe(False, (2, 2, 2, 2), (1, 2), (2,)),
    "resnet34": Recipe(False, (3, 4, 6, 3), (3, 2), (3,)),
    "resnet50": Recipe(True, (3, 4, 6, 3), (3, 2), (3,)),
    "resnet101": Recipe(True, (3, 4, 23, 3), (12, 2), (3,)),
    "resnet152": Recipe(True, (3, 8, 36, 3), (18, 2), (3,)),
}
# DKS and DHM have released weights or branches of these alone.
RELEASED = tuple(RECIPES)
RECIPES |= {
    "resnext50_32x4d": RECIPES["resnet50"]._replace(groups=32, group_width=4),
    "resnext101_32x8d": RECIPES["resnet101"]._replace(groups=32, group_width=8),
    "wide_resnet50_2": RECIPES["resnet50"]._replace(group_width=128),
    "wide_resnet101_2": RECIPES["resnet101"]._replace(group_width=128),
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
    """1x1, 3x3 and 1x1 convolutions, each with BN.

    Args:
      groups: number of groups of the 3x3 convolution.
      group_width: width of a group where that of the block is 64; it grows with the block's. The 3x3
        convolution has the channels of all groups, and those of the output depend on the block's width alone.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        layers: Layers,
        drop_path: Transform = identity,
        *,
        groups: int = 1,
        group_width: int = 64,
    ):
        super().__init__(in_channels, width, stride, layers, drop_path)
        inner = inner_width(width, groups, group_width)
        self.conv1 = layers.conv(in_channels, inner, 1)
        self.bn1 = layers.norm(inner)
        self.conv2 = layers.conv(inner, inner, 3, stride, groups=groups)
        self.bn2 = layers.norm(inner)
        self.conv3 = layers.conv(inner, width * self.expansion, 1)
        self.bn3 = layers.norm(width * self.expansion)

    def residual(self, x: jax.Array) -> jax.Array:
        out = nnx.relu(self.bn1(self.conv1(x)))
        out = nnx.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))


def inner_width(width: int, groups: int, group_width: int) -> int:
    """The channels of the 3x3 convolution of a `Bottleneck`, as torchvision computes them.

    Raises:
      InputError: there are none.
    """
    if width * group_width < 64:
        raise InputError(
            f"`widths` of a branch of a network whose groups have {group_width} channels at width 64 must be "
            f"at least {-(-64 // group_width)}, so that a group has a channel; got {width}."
        )
    return width * group_width // 64 * groups


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
    """The network of a recipe, for images of at least 32 x 32 pixels; it was published for 224 x 224.

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
    grouping = {"groups": recipe.groups, "group_width": recipe.group_width} if recipe.bottleneck else {}
    block = partial(kind, layers=layers, **grouping)
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
    """The branches of the code released with DHM, which are also those of DKS, and ours of the same form."""
    return BranchSpec(1, recipe.early, WIDTHS[2:]), BranchSpec(2, recipe.late, (2 * WIDTHS[3],))


def recognise(shapes: Mapping[str, Shape], *, released: bool) -> Network | None:
    """Recognises the network of a checkpoint by names and shapes; see `TorchFormat`.

    Args:
      released: whether it has to be in RELEASED; else it must not be.
    """
    blocks = {match[0] for name in shapes if (match := re.match(r"layer[1-4]\.\d+(?=\.)", name))}
    counts = Counter(block.partition(".")[0] for block in blocks)
    found = "layer1.0.conv3.weight" in shapes, tuple(counts[f"layer{i}"] for i in range(1, 5))
    siblings = [name for name, own in RECIPES.items() if (own.bottleneck, own.backbone) == found]
    if not siblings:
        return None
    kernel = shapes.get("layer1.0.conv2.weight")
    # Where it is of none of them, the plain one is named, and the checkpoint does not fit it.
    name = next((name for name in siblings if _first_kernel(RECIPES[name]) == kernel), siblings[0])
    if (name in RELEASED) != released:
        return None
    published = branches(RECIPES[name]) if any("_head" in part for part in shapes) else ()
    return Network({"name": name}, published, count_classes(shapes), count_channels(shapes, "conv1"))


def _first_kernel(recipe: Recipe) -> Shape:
    """PyTorch's shape of the second convolution in the first block, by which siblings differ."""
    inner = inner_width(WIDTHS[0], recipe.groups, recipe.group_width)
    return inner, inner // recipe.groups, 3, 3


# Names as in torchvision; of branches as in the code released with DHM, where `*_head2` is the early one.
TORCH = TorchFormat(
    "torchvision",
    partial(recognise, released=True),
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
# For the others the usual preprocessing is torchvision's.
NOT_RELEASED = TORCH._replace(
    recognise=partial(recognise, released=False),
    preprocessing=TORCH.preprocessing.replace(name="standard"),
)

NETWORKS = {
    name: Family(
        partial(backbone, recipe),
        partial(branches, recipe),
        arguments=ARGUMENTS,
        torch=(TORCH if name in RELEASED else NOT_RELEASED,),
    )
    for name, recipe in RECIPES.items()
}
