"""MobileNet for CIFAR, with the branches of DCM.

Backbone: Howard et al., "MobileNets", arXiv:1704.04861, with stride 1 before the sixth block. Its widths, the
branches and the initialisation, which is PyTorch's default: the code released with DCM (Yao, Sun, "Knowledge
Transfer via Dense Cross-Layer Mutual-Distillation", ECCV 2020, arXiv:2008.07816; github.com/sundw2014/DCM) by
two of the authors of DKS. Layers are named as in its checkpoints, where stage i is layer{i + 1}.

    backbone               stem of 32 - 64, 128, 128, 256, 256 - six of 512 - two of 1024 - head
    branch 1, after layer1                                     four of 512 - two of 1024 - head
    branch 2, after layer2                                                   two of 2048 - head
"""

from collections.abc import Mapping
from functools import partial

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
from dks_jax.models.regularisation import ARGUMENTS, Regularisation
from dks_jax.models.resnet import Head
from dks_jax.nn.initialisation import uniform_by_fan_in
from dks_jax.nn.layers import BatchNorm, Conv, Stage
from dks_jax.supervision import BranchSpec

STEM = 32
# Of the blocks of the first stage; all blocks of the other stages have the width of their stage.
FIRST = (64, 128, 128, 256, 256)
BLOCKS = (len(FIRST), 6, 2)
WIDTHS = (FIRST[-1], 512, 1024)
BRANCHES = (BranchSpec(0, (4, 2), WIDTHS[1:]), BranchSpec(1, (2,), (2 * WIDTHS[2],)))


class Stem(nnx.Module):
    """3x3 convolution, BN and ReLU."""

    def __init__(self, channels: int, layers: Layers):
        self.conv1 = layers.conv(channels, STEM, 3)
        self.bn1 = layers.norm(STEM)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn1(self.conv1(x)))


class Block(nnx.Module):
    """A depthwise 3x3 convolution with the stride and a 1x1 convolution, each with BN and ReLU."""

    def __init__(self, in_channels: int, width: int, stride: int, layers: Layers):
        self.conv1 = layers.conv(in_channels, in_channels, 3, stride, groups=in_channels)
        self.bn1 = layers.norm(in_channels)
        self.conv2 = layers.conv(in_channels, width, 1)
        self.bn2 = layers.norm(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(self.bn2(self.conv2(x)))


def backbone(
    *, head_dropout: float, num_classes: int, channels: int, norm_groups: int, rngs: nnx.Rngs
) -> Backbone:
    """MobileNet, for images of any size; it was published for 32 x 32.

    Args:
      head_dropout: see `models.regularisation`.
      num_classes, channels, norm_groups: see `models.build`.
      rngs: source of the initial values and of the dropouts.
    """
    layers = Layers(
        partial(Conv, initial=uniform_by_fan_in, rngs=rngs),
        partial(BatchNorm, norm_groups=norm_groups, unit_scale=True, rngs=rngs),
    )
    regularisation = Regularisation(0.0, head_dropout, BLOCKS, rngs)

    def stage(index: int, in_channels: int, num_blocks: int, width: int) -> Part:
        widths = (width,) * num_blocks if index else FIRST
        made = []
        for i, out_channels in enumerate(widths):
            stride = 2 if i == 0 and 0 < index < 3 else 1
            made.append(Block(in_channels, out_channels, stride, layers))
            in_channels = out_channels
        return Stage(made), in_channels

    return Backbone(
        blocks=BLOCKS,
        widths=WIDTHS,
        stem=lambda: (Stem(channels, layers), STEM),
        stage=stage,
        head=lambda in_channels: Head(
            in_channels, num_classes, dropout=regularisation.before_fc(), rngs=rngs
        ),
    )


def recognise(shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint by names and shapes; see `TorchFormat`."""
    if shapes["layer1.0.conv1.weight"] != (STEM, 1, 3, 3):
        return None
    published = BRANCHES if any(name.startswith("ep") for name in shapes) else ()
    classes = count_classes(shapes, "linear")
    return Network({"name": "mobilenet"}, published, classes, count_channels(shapes, "conv1"))


# Names as in the code released with DCM, where the branches are `ep1_*` and `ep2_*`.
TORCH = TorchFormat(
    "DCM",
    recognise,
    rules=(
        (r"branches\.0\.stages\.0\.blocks", "ep1_layer2"),
        (r"branches\.0\.stages\.1\.blocks", "ep1_layer3"),
        (r"branches\.0\.head\.fc", "ep1_linear"),
        (r"branches\.1\.stages\.0\.blocks", "ep2_layer3"),
        (r"branches\.1\.head\.fc", "ep2_linear"),
        (r"stages\.0\.blocks", "layer1"),
        (r"stages\.1\.blocks", "layer2"),
        (r"stages\.2\.blocks", "layer3"),
        (r"head\.fc", "linear"),
        (r"stem\.", ""),
    ),
    replacements=(),
    order=(
        *("conv1", "bn1", "conv2", "bn2", "layer1", "layer2", "layer3", "linear"),
        *("ep1_layer2", "ep1_layer3", "ep1_linear", "ep2_layer3", "ep2_linear"),
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    ),
    preprocessing=Preprocessing(
        "squash",
        *(32, 32, 3),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        assumed=True,
    ),
)

NETWORKS = {
    "mobilenet": Family(
        backbone,
        lambda **_: BRANCHES,
        arguments={"head_dropout": ARGUMENTS["head_dropout"]},
        torch=(TORCH,),
    )
}
