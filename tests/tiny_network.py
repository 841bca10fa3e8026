"""A deeply-supervised network with convolution, norm, dropout and branches that is quick to compile."""

import jax
from flax import nnx

from dks_jax import Branch, DeeplySupervised
from dks_jax.layers import BatchNorm, Conv
from dks_jax.models.wide_resnet import Head


class Stage(nnx.Module):
    """Convolution with stride 2, BN, ReLU, dropout; 8 channels."""

    def __init__(self, dropout: float, norm_groups: int, rngs: nnx.Rngs):
        self.conv = Conv(8, 8, 3, 2, rngs=rngs)
        self.bn = BatchNorm(8, norm_groups=norm_groups, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(nnx.relu(self.bn(self.conv(x))))


def tiny_network(
    num_classes: int, norm_groups: int = 1, seed: int = 0, *, channels: int = 3
) -> DeeplySupervised:
    """Two stages, the second with dropout, and two branches."""
    rngs = nnx.Rngs(seed)

    def head() -> Head:
        return Head(8, num_classes, norm_groups=norm_groups, rngs=rngs)

    # Dropout in one place only: XLA takes a second to compile the random bits of each.
    stages = [Stage(0.0, norm_groups, rngs), Stage(0.3, norm_groups, rngs)]
    branches = [Branch(0, [Stage(0.0, norm_groups, rngs)], head()), Branch(1, [], head())]
    return DeeplySupervised(Conv(channels, 8, 3, rngs=rngs), stages, head(), branches)
