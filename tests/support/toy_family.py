"""A family of networks as a user would add it, with depthwise convolutions and layer normalisation."""

from functools import partial

import jax
from flax import nnx

from dks_jax.config import Field
from dks_jax.models import Backbone, Family
from dks_jax.nn import Conv, Linear, Stage
from dks_jax.supervision import BranchSpec


class Block(nnx.Module):
    """Depthwise convolution, layer norm and 1x1 convolution, added to an input of the same shape."""

    def __init__(self, in_channels: int, width: int, stride: int, *, rngs: nnx.Rngs):
        self.depthwise = Conv(in_channels, in_channels, 3, stride, groups=in_channels, rngs=rngs)
        self.norm = nnx.LayerNorm(in_channels, rngs=rngs)
        self.pointwise = Conv(in_channels, width, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.pointwise(nnx.gelu(self.norm(self.depthwise(x))))
        return x + y if x.shape == y.shape else y


class Head(nnx.Module):
    """Global average pool, linear."""

    def __init__(self, num_channels: int, num_classes: int, *, rngs: nnx.Rngs):
        self.fc = Linear(num_channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(x.mean(axis=(1, 2)))


def backbone(*, width: int, num_classes: int, channels: int, rngs: nnx.Rngs, **_) -> Backbone:
    block = partial(Block, rngs=rngs)

    def stage(index: int, in_channels: int, num_blocks: int, width: int) -> tuple[Stage, int]:
        first = block(in_channels, width, 2 if index else 1)
        return Stage([first, *(block(width, width, 1) for _ in range(num_blocks - 1))]), width

    return Backbone(
        blocks=(1, 2),
        widths=(width, 2 * width),
        stem=lambda: (Conv(channels, width, 3, rngs=rngs), width),
        stage=stage,
        head=lambda in_channels: Head(in_channels, num_classes, rngs=rngs),
    )


NETWORKS = {
    "toy": Family(
        backbone,
        branches=lambda width: (BranchSpec(0, (1,), (2 * width,)),),
        arguments={"width": Field(int, 8, "channels of the first stage", 1)},
    )
}
