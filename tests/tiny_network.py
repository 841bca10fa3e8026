"""A deeply-supervised network with convolution, norm, dropout and branches that is quick to compile."""

from pathlib import Path

import jax
from flax import nnx

from dks_jax import Branch, DeeplySupervised
from dks_jax.functional import get_arrays
from dks_jax.layers import BatchNorm, Conv
from dks_jax.models.wide_resnet import Head
from dks_jax.supervision import backbone_only
from dks_jax.weights_folder import Weights, save_weights


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


def build_tiny(*, num_classes: int, channels: int, branches: bool, norm_groups: int, **_) -> DeeplySupervised:
    """In place of the function that builds a wide ResNet."""
    network = tiny_network(num_classes, norm_groups, channels=channels)
    return network if branches else network.drop_branches()


def save_tiny(
    folder: Path,
    num_classes: int = 10,
    *,
    channels: int = 1,
    size: int = 8,
    mean: float = 0.305,
    std: float = 0.376,
    class_names: list[str] | None = None,
    branches: bool = True,
    **changed: jax.Array,
) -> DeeplySupervised:
    """Writes the weights of a fresh network, some arrays of it changed; returns it, in evaluation mode."""
    network = tiny_network(num_classes, channels=channels)
    network.eval()
    arrays = get_arrays(network) | changed
    metadata = {
        "model": {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0},
        "class_names": class_names or [str(label) for label in range(num_classes)],
        "preprocessing": {
            "name": "squash",
            "height": size,
            "width": size,
            "channels": channels,
            "mean": [mean] * channels,
            "std": [std] * channels,
        },
    }
    save_weights(folder, Weights(arrays if branches else backbone_only(arrays), {}, metadata))
    return network
