"""Residual networks for CIFAR, with the branches of DHM.

Backbone: He et al., "Deep Residual Learning", CVPR 2016, arXiv:1512.03385, section 4.2, but for the shortcut
where a stage begins. Shortcuts, branches and initialisation: the code released with DHM
(github.com/d-li14/DHM) by the authors of DKS. Layers are named as in its checkpoints, where stage i is
layer{i + 1}.

    n = (depth - 2) / 6 blocks per stage
    backbone                  stem of 16 channels - n blocks of 16 - n of 32 - n of 64 - head
    branch 1, after layer1                                         a blocks of 32 - b of 64 - head
    branch 2, after layer2                                                          c of 128 - head

Published are a, b and c of two depths: 5, 3 and 5 of ResNet-32; 9, 9 and 18 of ResNet-110. Other depths have
those of the rule n, n / 2 rounded up and n, which is ours.
"""

import re
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from dks_jax.config import Field
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
from dks_jax.models.pooling import average_pool
from dks_jax.models.regularisation import ARGUMENTS, Regularisation, Transform, identity
from dks_jax.models.resnet import Head
from dks_jax.nn.initialisation import kaiming_normal_fan_out
from dks_jax.nn.layers import BatchNorm, Conv, Stage
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import BranchSpec

WIDTHS = (16, 32, 64)
# Of the networks to recognise. The deepest published with branches has depth 110, and the time to build a
# network grows with the square of its depth.
DEEPEST = 200


class Stem(nnx.Module):
    """3x3 convolution to 16 channels, BN and ReLU."""

    def __init__(self, channels: int, layers: Layers):
        self.conv1 = layers.conv(channels, WIDTHS[0], 3)
        self.bn1 = layers.norm(WIDTHS[0])

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn1(self.conv1(x)))


class Block(nnx.Module):
    """Two 3x3 convolutions, each with BN, then the ReLU of their sum with a shortcut without parameters.

    Raises:
      InputError: the output would have fewer channels than the input.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, layers: Layers, drop_path: Transform = identity
    ):
        if width < in_channels:
            raise InputError(
                f"`widths` of a branch of a cifar_resnet must be at least those of the stage before, since "
                f"its shortcuts only add channels; got {width} after {in_channels}."
            )
        self.conv1 = layers.conv(in_channels, width, 3, stride)
        self.bn1 = layers.norm(width)
        self.conv2 = layers.conv(width, width, 3)
        self.bn2 = layers.norm(width)
        self.drop_path = drop_path
        self.halves = stride == 2
        self.added_channels = width - in_channels

    def __call__(self, x: jax.Array) -> jax.Array:
        residual = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        shortcut = average_pool(x, "cifar_resnet") if self.halves else x
        # Unlike in He's networks, where half of the zero channels come first.
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, self.added_channels)))
        return nnx.relu(self.drop_path(residual) + shortcut)


def check(depth: int, **_) -> None:
    """Raises InputError for a depth that no such network has."""
    if depth < 8 or (depth - 2) % 6:
        raise InputError(
            f"`depth` of a cifar_resnet must be 6n+2 with n >= 1, e.g. 20, 32, 56 or 110; got {depth}."
        )


def backbone(
    *,
    depth: int,
    drop_path: float,
    head_dropout: float,
    num_classes: int,
    channels: int,
    norm_groups: int,
    rngs: nnx.Rngs,
) -> Backbone:
    """The ResNet of a depth, for images whose sides are multiples of 4; it was published for 32 x 32.

    Args:
      depth: number of layers, 6n + 2.
      drop_path, head_dropout: see `models.regularisation`.
      num_classes, channels, norm_groups: see `models.build`.
      rngs: source of the initial values and of the dropouts.
    """
    layers = Layers(
        partial(Conv, initial=kaiming_normal_fan_out, rngs=rngs),
        partial(BatchNorm, norm_groups=norm_groups, unit_scale=True, rngs=rngs),
    )
    blocks = ((depth - 2) // 6,) * 3
    block = partial(Block, layers=layers)
    regularisation = Regularisation(drop_path, head_dropout, blocks, rngs)

    def stage(index: int, in_channels: int, num_blocks: int, width: int) -> Part:
        first, *others = regularisation.drop_paths(index, num_blocks)
        made = [block(in_channels, width, 2 if 0 < index < 3 else 1, drop_path=first)]
        return Stage([*made, *(block(width, width, 1, drop_path=drop) for drop in others)]), width

    return Backbone(
        blocks=blocks,
        widths=WIDTHS,
        stem=lambda: (Stem(channels, layers), WIDTHS[0]),
        stage=stage,
        head=lambda in_channels: Head(
            in_channels, num_classes, dropout=regularisation.before_fc(), rngs=rngs
        ),
    )


def branches(*, depth: int, **_) -> tuple[BranchSpec, ...]:
    """The branches of the code released with DHM, and for other depths those of the rule above."""
    count = (depth - 2) // 6
    early = (9, 9) if depth == 110 else (count, (count + 1) // 2)
    return BranchSpec(0, early, WIDTHS[1:]), BranchSpec(1, (count,), (2 * WIDTHS[2],))


def recognise(shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint by names and shapes; see `TorchFormat`."""
    if shapes.get("layer1.0.conv1.weight") != (16, 16, 3, 3) or "layer4.0.conv1.weight" in shapes:
        return None
    blocks = {match[1] for name in shapes if (match := re.match(r"layer1\.(\d+)\.", name))}
    depth = 6 * len(blocks) + 2
    if depth > DEEPEST:
        return None
    published = branches(depth=depth) if any("_head" in name for name in shapes) else ()
    model = {"name": "cifar_resnet", "depth": depth}
    return Network(model, published, count_classes(shapes), count_channels(shapes, "conv1"))


# DHM normalises CIFAR-100 by these statistics of CIFAR-10 too, for all of its networks.
DHM_PREPROCESSING = Preprocessing(
    "squash", *(32, 32, 3), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), assumed=True
)
# Names as in the code released with DHM, where `*_head2` is the early branch.
TORCH = TorchFormat(
    "DHM",
    recognise,
    rules=(
        (r"branches\.0\.stages\.0\.blocks", "layer2_head2"),
        (r"branches\.0\.stages\.1\.blocks", "layer3_head2"),
        (r"branches\.0\.head\.fc", "fc_head2"),
        (r"branches\.1\.stages\.0\.blocks", "layer3_head1"),
        (r"branches\.1\.head\.fc", "fc_head1"),
        (r"stages\.0\.blocks", "layer1"),
        (r"stages\.1\.blocks", "layer2"),
        (r"stages\.2\.blocks", "layer3"),
        (r"(stem|head)\.", ""),
    ),
    replacements=(),
    order=(
        *("conv1", "bn1", "conv2", "bn2", "layer1", "layer2", "layer3", "fc"),
        *("layer2_head2", "layer3_head2", "fc_head2", "layer3_head1", "fc_head1"),
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    ),
    preprocessing=DHM_PREPROCESSING,
)

NETWORKS = {
    "cifar_resnet": Family(
        backbone,
        branches,
        arguments={"depth": Field(int, 32, "depth, 6n + 2 with n >= 1"), **ARGUMENTS},
        check=check,
        torch=(TORCH,),
    )
}
