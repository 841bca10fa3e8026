"""Wide residual networks with the branches of the code released with DKS.

Backbone: Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146 (pre-activation blocks).
Branches: the code released with DKS, arXiv:1906.00675. That released with DHM (github.com/d-li14/DHM) has the
same network with other initial values. Layers are named as in the checkpoints of DKS.

    n = (depth - 4) / 6 blocks per group
    backbone          16 channels - group 16k - group 32k - group 64k - head
    branch 1, after group 0         n blocks to 32k, n // 2 blocks to 64k, head
    branch 2, after group 1                          n blocks to 128k, head
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from flax import nnx

from dks_jax.config import Field
from dks_jax.models.cifar_resnet import DHM_PREPROCESSING
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
from dks_jax.nn.initialisation import kaiming_normal, kaiming_normal_fan_out
from dks_jax.nn.layers import BatchNorm, Conv, Linear, Stage
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import BranchSpec

# Limits of the networks to recognise. The deepest published one has depth 40, and the time to build a network
# grows with the square of its depth.
DEEPEST = 100
WIDEST = 10**6


class Block(nnx.Module):
    """A pre-activation residual block: twice BN, ReLU and 3x3 convolution, with dropout before the second."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        layers: Layers,
        dropout: Callable[[], Any],
        *,
        drop_path: Transform = identity,
    ):
        self.bn0 = layers.norm(in_channels)
        self.conv0 = layers.conv(in_channels, out_channels, 3, stride)
        self.bn1 = layers.norm(out_channels)
        self.dropout = dropout()
        self.conv1 = layers.conv(out_channels, out_channels, 3)
        changes_shape = stride != 1 or in_channels != out_channels
        self.convdim = nnx.data(layers.conv(in_channels, out_channels, 1, stride) if changes_shape else None)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array) -> jax.Array:
        o1 = nnx.relu(self.bn0(x))
        o2 = self.dropout(nnx.relu(self.bn1(self.conv0(o1))))
        # As in the released code, a 1x1 shortcut takes the pre-activated input, and the identity the raw one.
        shortcut = x if self.convdim is None else self.convdim(o1)
        return self.drop_path(self.conv1(o2)) + shortcut


class Head(nnx.Module):
    """BN, ReLU, global average pool and linear layer; features [batch, height, width, channel] to logits.

    Args:
      num_channels, num_classes: numbers of features and of logits.
      layers: makes the normalisation.
      rngs: source of the initial values of the linear layer.
      dropout: what comes before the linear layer.
      uniform: see `Linear`.
    """

    def __init__(
        self,
        num_channels: int,
        num_classes: int,
        layers: Layers,
        rngs: nnx.Rngs,
        dropout: Transform = identity,
        *,
        uniform: bool = False,
    ):
        self.bn = layers.norm(num_channels)
        self.dropout = dropout
        self.fc = Linear(num_channels, num_classes, uniform=uniform, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.dropout(nnx.relu(self.bn(x)).mean(axis=(1, 2))))


def check(depth: int, **_) -> None:
    """Raises InputError for a depth that no wide ResNet has, or at which a branch would lack blocks."""
    if depth < 16 or (depth - 4) % 6:
        raise InputError(
            f"`depth` of a wide ResNet must be 6n+4 with n >= 2, e.g. 16, 22, 28 or 40; got {depth}."
        )


def backbone(
    *,
    depth: int,
    width: int,
    dropout: float,
    initialisation: str,
    drop_path: float,
    head_dropout: float,
    num_classes: int,
    channels: int,
    norm_groups: int,
    rngs: nnx.Rngs,
) -> Backbone:
    """The wide ResNet WRN-depth-width, for images of any size.

    Args:
      depth: number of layers, 6n + 4.
      width: widening factor.
      dropout: dropout rate before the second convolution of every block, active in training only.
      initialisation: "dks": convolutions and linear layers Kaiming-normal by fan-in, biases 0 and scales of
        norms from U(0, 1). "dhm": convolutions Kaiming-normal by fan-out, linear layers as PyTorch starts
        them and norms the identity.
      drop_path, head_dropout: see `models.regularisation`.
      num_classes, channels, norm_groups: see `models.build`.
      rngs: source of the initial values and of dropout.
    """
    of_dhm = initialisation == "dhm"
    layers = Layers(
        partial(Conv, initial=kaiming_normal_fan_out if of_dhm else kaiming_normal, rngs=rngs),
        partial(BatchNorm, norm_groups=norm_groups, unit_scale=of_dhm, rngs=rngs),
    )
    blocks = ((depth - 4) // 6,) * 3
    block = partial(Block, layers=layers, dropout=partial(nnx.Dropout, dropout, rngs=rngs))
    regularisation = Regularisation(drop_path, head_dropout, blocks, rngs)

    def stage(index: int, in_channels: int, num_blocks: int, width: int) -> Part:
        first, *others = regularisation.drop_paths(index, num_blocks)
        made = [block(in_channels, width, 2 if 0 < index < 3 else 1, drop_path=first)]
        return Stage([*made, *(block(width, width, 1, drop_path=drop) for drop in others)]), width

    return Backbone(
        blocks=blocks,
        widths=(16 * width, 32 * width, 64 * width),
        stem=lambda: (layers.conv(channels, 16, 3), 16),
        stage=stage,
        head=lambda in_channels: Head(
            in_channels, num_classes, layers, rngs, regularisation.before_fc(), uniform=of_dhm
        ),
    )


def branches(*, depth: int, width: int, **_) -> tuple[BranchSpec, ...]:
    """The branches of the codes released with DKS and with DHM."""
    num_blocks = (depth - 4) // 6
    early = BranchSpec(0, (num_blocks, num_blocks // 2), (32 * width, 64 * width))
    return early, BranchSpec(1, (num_blocks,), (128 * width,))


def recognise(shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint by names and shapes; see `TorchFormat`."""
    if "group0.block0.conv0" not in shapes:
        return None
    num_blocks = len({match[1] for name in shapes if (match := re.match(r"group0\.block(\d+)\.", name))})
    branched = any(name.startswith("ep") for name in shapes)
    return _network(shapes, num_blocks, shapes["group0.block0.conv0"], "conv0", branched=branched)


def _recognise_dhm(shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint of DHM by names and shapes; see `TorchFormat`."""
    if "layer2.0.shortcut.weight" not in shapes:
        return None
    num_blocks = len({match[1] for name in shapes if (match := re.match(r"layer1\.(\d+)\.", name))})
    branched = any("_head" in name for name in shapes)
    return _network(shapes, num_blocks, shapes["layer1.0.conv1.weight"], "conv.", branched=branched)


def _network(
    shapes: Mapping[str, Shape], num_blocks: int, kernel: Shape, stem: str, *, branched: bool
) -> Network | None:
    """The network of a checkpoint.

    Args:
      shapes: shapes of its arrays by name.
      num_blocks: number of blocks in a group.
      kernel: shape of the first kernel of the first group.
      stem: start of the name of the stem's kernel.
      branched: whether it has branches.
    """
    sizes = {"depth": 6 * num_blocks + 4, "width": kernel[0] // 16}
    check(**sizes)
    # A small file can claim sizes for which it does not hold the values.
    if sizes["depth"] > DEEPEST or not 1 <= sizes["width"] <= WIDEST:
        return None
    model = {"name": "wide_resnet", **sizes, "dropout": 0.0}
    released = branches(**sizes) if branched else ()
    return Network(model, released, count_classes(shapes), count_channels(shapes, stem))


# Names as in the checkpoints released with DKS, where the branches are `ep1_*` and `ep2_*`.
TORCH = TorchFormat(
    "DKS",
    recognise,
    rules=(
        (r"branches\.0\.stages\.0\.", "ep1_group1."),
        (r"branches\.0\.stages\.1\.", "ep1_group2."),
        (r"branches\.0\.head\.", "ep1_"),
        (r"branches\.1\.stages\.0\.", "ep2_group2."),
        (r"branches\.1\.head\.", "ep2_"),
        (r"stages\.(\d)\.", r"group\1."),
        (r"stem", "conv0"),
        (r"head\.", ""),
    ),
    replacements=((r"\.blocks\.", ".block"),),
    order=(
        *("conv0", "conv1", "bn0", "bn1", "convdim", "group0", "group1", "group2", "bn", "fc"),
        *("ep1_group1", "ep1_group2", "ep1_bn", "ep1_fc", "ep2_group2", "ep2_bn", "ep2_fc"),
        *("weight", "bias", "running_mean", "running_var"),
    ),
    preprocessing=Preprocessing(
        "squash",
        *(32, 32, 3),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        assumed=True,
    ),
    bare=True,
    counters=False,
    training=True,
)

# Names as in the code released with DHM, where `*_head2` is the early branch.
DHM = TorchFormat(
    "DHM",
    _recognise_dhm,
    rules=(
        (r"branches\.0\.stages\.0\.blocks", "layer2_head2"),
        (r"branches\.0\.stages\.1\.blocks", "layer3_head2"),
        (r"branches\.0\.head\.(bn|fc)", r"\1_head2"),
        (r"branches\.1\.stages\.0\.blocks", "layer3_head1"),
        (r"branches\.1\.head\.(bn|fc)", r"\1_head1"),
        (r"stages\.0\.blocks", "layer1"),
        (r"stages\.1\.blocks", "layer2"),
        (r"stages\.2\.blocks", "layer3"),
        (r"stem", "conv"),
        (r"head\.", ""),
    ),
    replacements=(
        (r"\.bn1$", ".bn2"),
        (r"\.bn0$", ".bn1"),
        (r"\.conv1$", ".conv2"),
        (r"\.conv0$", ".conv1"),
        (r"\.convdim$", ".shortcut"),
    ),
    order=(
        *("conv", "bn1", "conv1", "bn2", "conv2", "shortcut", "layer1", "layer2", "layer3", "bn", "fc"),
        *("layer2_head2", "layer3_head2", "bn_head2", "fc_head2", "layer3_head1", "bn_head1", "fc_head1"),
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    ),
    preprocessing=DHM_PREPROCESSING,
)

NETWORKS = {
    "wide_resnet": Family(
        backbone,
        branches,
        arguments={
            "depth": Field(int, 28, "depth, 6n + 4 with n >= 2"),
            "width": Field(int, 10, "width, the factor of 16, 32 and 64 channels", 1),
            "dropout": Field(
                float, 0.0, "dropout rate before the second convolution of every block", 0, below=1
            ),
            "initialisation": Field(
                str, "dks", "initial values of the code released with DKS or with DHM", words=("dks", "dhm")
            ),
            **ARGUMENTS,
        },
        check=check,
        torch=(TORCH, DHM),
    )
}
