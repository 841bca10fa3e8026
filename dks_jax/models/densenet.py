"""Densely connected networks for CIFAR, with the branches of DHM.

Backbone: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, arXiv:1608.06993, in the basic
form and as DenseNet-BC, which has bottlenecks and compression. Branches and initialisation: the code released
with DHM (github.com/d-li14/DHM) by the authors of DKS. Layers are named as in its checkpoints, where stage i
is layer{i + 1} with transition{i + 1}.

    n = (depth - 4) / 3 layers per stage, with bottlenecks half as many; k is the growth rate
    backbone              stem - n layers of k - transition - n of k - transition - n of k - head
    branch 1, after transition 1                     a layers of k - transition - b of k - head
    branch 2, after transition 2                                               c of 3k - head

A stage is a dense block with the transition that follows it, and its width is its growth rate. Published are
a, b and c of two networks: 12, 6 and 12 of DenseNet-40-12; 16, 16 and 32 of DenseNet-BC-100-12. Others have
those of the rules n, n / 2 rounded up and n, with bottlenecks n, n and 2n, which are ours.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from dks_jax.config import Field
from dks_jax.models.cifar_resnet import DHM_PREPROCESSING
from dks_jax.models.family import (
    Backbone,
    Family,
    Layers,
    Network,
    Part,
    Shape,
    TorchFormat,
    count_channels,
    count_classes,
)
from dks_jax.models.pooling import average_pool
from dks_jax.models.regularisation import ARGUMENTS, Regularisation
from dks_jax.models.wide_resnet import Head
from dks_jax.nn.fence import fence
from dks_jax.nn.initialisation import kaiming_normal_fan_out
from dks_jax.nn.layers import BatchNorm, Conv, Stage
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import BranchSpec

# Of the networks to recognise. The deepest published one has depth 250, and the time to build a network grows
# with the square of its depth.
DEEPEST = 300


def _append(x: jax.Array, new: jax.Array) -> jax.Array:
    return fence(jnp.concatenate([x, new], axis=-1))


class Layer(nnx.Module):
    """BN, ReLU and 3x3 convolution to new features, which are appended to those of the input."""

    def __init__(self, in_channels: int, growth_rate: int, layers: Layers):
        self.bn = layers.norm(in_channels)
        self.conv = layers.conv(in_channels, growth_rate, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        return _append(x, self.conv(nnx.relu(self.bn(x))))


class BottleneckLayer(nnx.Module):
    """BN, ReLU and 1x1 convolution to 4k features, then a 3x3 convolution with the same to k new features."""

    def __init__(self, in_channels: int, growth_rate: int, layers: Layers):
        self.bn1 = layers.norm(in_channels)
        self.conv1 = layers.conv(in_channels, 4 * growth_rate, 1)
        self.bn2 = layers.norm(4 * growth_rate)
        self.conv2 = layers.conv(4 * growth_rate, growth_rate, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        narrow = self.conv1(nnx.relu(self.bn1(x)))
        return _append(x, self.conv2(nnx.relu(self.bn2(narrow))))


class Transition(nnx.Module):
    """BN, ReLU, 1x1 convolution and the means of 2x2 pixels."""

    def __init__(self, in_channels: int, out_channels: int, layers: Layers):
        self.bn = layers.norm(in_channels)
        self.conv = layers.conv(in_channels, out_channels, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return average_pool(self.conv(nnx.relu(self.bn(x))), "densenet")


class DenseStage(Stage):
    """The layers of a dense block, and the transition after them; the last stage has none."""

    def __init__(self, blocks: Iterable[Callable[[jax.Array], jax.Array]], transition: Transition | None):
        super().__init__(blocks)
        self.transition = nnx.data(transition)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = super().__call__(x)
        return x if self.transition is None else self.transition(x)


def check(depth: int, bottleneck: bool, **_) -> None:
    """Raises InputError for a depth that no such network has."""
    step = 6 if bottleneck else 3
    if depth < 4 + step or (depth - 4) % step:
        raise InputError(
            f"`depth` of a densenet {'with' if bottleneck else 'without'} bottlenecks must be {step}n+4 with "
            f"n >= 1, e.g. 22, 40 or 100; got {depth}."
        )


def _count_layers(depth: int, bottleneck: bool) -> int:
    """The number of layers in each dense block."""
    return (depth - 4) // (6 if bottleneck else 3)


def backbone(
    *,
    depth: int,
    growth_rate: int,
    bottleneck: bool,
    compression: float,
    head_dropout: float,
    num_classes: int,
    channels: int,
    norm_groups: int,
    rngs: nnx.Rngs,
) -> Backbone:
    """The DenseNet of a depth, for images whose sides are multiples of 4; it was published for 32 x 32.

    Args:
      depth: number of layers, 3n + 4, with bottlenecks 6n + 4.
      growth_rate: number of features that a layer appends.
      bottleneck: whether a 1x1 convolution precedes that of each layer.
      compression: the share of the features that a transition keeps.
      head_dropout: see `models.regularisation`.
      num_classes, channels, norm_groups: see `models.build`.
      rngs: source of the initial values and of the dropouts.
    """
    layers = Layers(
        partial(Conv, initial=kaiming_normal_fan_out, rngs=rngs),
        partial(BatchNorm, norm_groups=norm_groups, unit_scale=True, rngs=rngs),
    )
    blocks = (_count_layers(depth, bottleneck),) * 3
    regularisation = Regularisation(0.0, head_dropout, blocks, rngs)
    kind = BottleneckLayer if bottleneck else Layer
    stem_channels = 2 * growth_rate if bottleneck else 16

    def stage(index: int, in_channels: int, num_blocks: int, width: int) -> Part:
        made = [kind(in_channels + i * width, width, layers) for i in range(num_blocks)]
        out_channels = in_channels + num_blocks * width
        if index > 1:
            return DenseStage(made, None), out_channels
        kept = math.floor(compression * out_channels)
        if not kept:
            raise InputError(
                f"`model.compression` must leave at least one of the {out_channels} features before a "
                f"transition; got {compression}."
            )
        return DenseStage(made, Transition(out_channels, kept, layers)), kept

    return Backbone(
        blocks=blocks,
        widths=(growth_rate,) * 3,
        stem=lambda: (layers.conv(channels, stem_channels, 3), stem_channels),
        stage=stage,
        head=lambda in_channels: Head(
            in_channels, num_classes, layers, rngs, regularisation.before_fc(), uniform=True
        ),
    )


def branches(*, depth: int, growth_rate: int, bottleneck: bool, **_) -> tuple[BranchSpec, ...]:
    """The branches of the code released with DHM, and for other networks those of the rules above."""
    count = _count_layers(depth, bottleneck)
    early, late = ((count, count), 2 * count) if bottleneck else ((count, (count + 1) // 2), count)
    return BranchSpec(0, early, (growth_rate,) * 2), BranchSpec(1, (late,), (3 * growth_rate,))


def recognise(shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint by names and shapes; see `TorchFormat`."""
    compression = _compression([shapes[f"transition{i}.conv.weight"] for i in (1, 2)])
    bottleneck = "layer1.0.conv2.weight" in shapes
    count = len({match[1] for name in shapes if (match := re.match(r"layer1\.(\d+)\.", name))})
    depth = 4 + (6 if bottleneck else 3) * count
    if depth > DEEPEST or compression is None:
        return None
    growth_rate = shapes[f"layer1.0.{'conv2' if bottleneck else 'conv'}.weight"][0]
    own = {"depth": depth, "growth_rate": growth_rate, "bottleneck": bottleneck, "compression": compression}
    published = branches(**own) if any("_head" in name for name in shapes) else ()
    model = {"name": "densenet", **own}
    return Network(model, published, count_classes(shapes), count_channels(shapes, "conv1"))


def _compression(transitions: Iterable[Shape]) -> float | None:
    """The share that transitions keep, by the shapes of their kernels: the shortest one of two decimals."""
    fitting = [
        percent / 100
        for percent in range(1, 101)
        if all(math.floor(percent / 100 * shape[1]) == shape[0] for shape in transitions)
    ]
    return min(fitting, key=lambda share: len(str(share)), default=None)


# Names as in the code released with DHM, where `*_head2` is the early branch.
TORCH = TorchFormat(
    "DHM",
    recognise,
    rules=(
        (r"branches\.0\.stages\.0\.blocks", "layer2_head2"),
        (r"branches\.0\.stages\.0\.transition", "transition2_head2"),
        (r"branches\.0\.stages\.1\.blocks", "layer3_head2"),
        (r"branches\.0\.head\.(bn|fc)", r"\1_head2"),
        (r"branches\.1\.stages\.0\.blocks", "layer3_head1"),
        (r"branches\.1\.head\.(bn|fc)", r"\1_head1"),
        (r"stages\.0\.blocks", "layer1"),
        (r"stages\.0\.transition", "transition1"),
        (r"stages\.1\.blocks", "layer2"),
        (r"stages\.1\.transition", "transition2"),
        (r"stages\.2\.blocks", "layer3"),
        (r"stem", "conv1"),
        (r"head\.", ""),
    ),
    replacements=(),
    order=(
        *("bn1", "conv1", "bn2", "conv2", "layer1", "transition1", "layer2", "transition2", "layer3"),
        *("bn", "conv", "fc", "layer2_head2", "transition2_head2", "layer3_head2", "bn_head2", "fc_head2"),
        *("layer3_head1", "bn_head1", "fc_head1"),
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    ),
    preprocessing=DHM_PREPROCESSING,
)

NETWORKS = {
    "densenet": Family(
        backbone,
        branches,
        arguments={
            "depth": Field(int, 40, "depth, 3n + 4, with bottlenecks 6n + 4, with n >= 1"),
            "growth_rate": Field(int, 12, "growth rate, the number of features that a layer appends", 1),
            "bottleneck": Field(bool, False, "whether a 1x1 convolution precedes that of each layer"),
            "compression": Field(
                float, 1.0, "share of the features that a transition keeps", maximum=1, above=0
            ),
            "head_dropout": ARGUMENTS["head_dropout"],
        },
        check=check,
        torch=(TORCH,),
    )
}
