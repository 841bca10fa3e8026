"""A deeply-supervised network with convolution, norm, dropouts and branches that is quick to compile."""

from functools import partial
from pathlib import Path

import jax
from flax import nnx

from dks_jax import Branch, BranchSpec, DeeplySupervised
from dks_jax.models import Backbone, Layers, Preprocessing, wide_resnet
from dks_jax.models.regularisation import Regularisation, Transform
from dks_jax.nn import BatchNorm, Conv, get_arrays
from dks_jax.supervision import backbone_only
from dks_jax.weights import Metadata, Weights, save_weights

BRANCHES = (BranchSpec(0, (1,), (8,)), BranchSpec(1, (), ()))


class Stage(nnx.Module):
    """Convolution with stride 2, BN, ReLU, dropout of values and of examples."""

    def __init__(self, in_channels: int, width: int, layers: Layers, dropout: partial, drop_path: Transform):
        self.conv = layers.conv(in_channels, width, 3, 2)
        self.bn = layers.norm(width)
        self.dropout = dropout()
        self.drop_path = drop_path

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.drop_path(self.dropout(nnx.relu(self.bn(self.conv(x)))))


def backbone(
    *,
    num_classes: int,
    channels: int,
    norm_groups: int,
    rngs: nnx.Rngs,
    drop_path: float = 0.0,
    head_dropout: float = 0.0,
    **_,
) -> Backbone:
    """Two stages of 8 channels, the second with dropout."""
    regularisation = Regularisation(drop_path, head_dropout, (1, 1), rngs)
    layers = Layers(partial(Conv, rngs=rngs), partial(BatchNorm, norm_groups=norm_groups, rngs=rngs))

    # Only the second stage has dropout, because XLA takes a second to compile the random bits of each.
    rates = iter([0.0, 0.3])

    def stage(index: int, in_channels: int, num_blocks: int, width: int):
        (drop,) = regularisation.drop_paths(index, num_blocks)
        dropout = partial(nnx.Dropout, next(rates, 0.0), rngs=rngs)
        return Stage(in_channels, width, layers, dropout, drop), width

    return Backbone(
        blocks=(1, 1),
        widths=(8, 8),
        stem=lambda: (layers.conv(channels, 8, 3), 8),
        stage=stage,
        head=lambda in_channels: wide_resnet.Head(
            in_channels, num_classes, layers, rngs, regularisation.before_fc()
        ),
    )


FAMILY = wide_resnet.NETWORKS["wide_resnet"]._replace(backbone=backbone, branches=lambda **_: BRANCHES)


def tiny_network(
    num_classes: int, norm_groups: int = 1, seed: int = 0, *, channels: int = 3, **regularisation: float
) -> DeeplySupervised:
    """The backbone with two branches."""
    rngs = nnx.Rngs(seed)
    parts = backbone(
        num_classes=num_classes, channels=channels, norm_groups=norm_groups, rngs=rngs, **regularisation
    )
    stages = [parts.stage(index, 8, 1, 8)[0] for index in (0, 1)]
    branches = [Branch(0, [parts.stage(1, 8, 1, 8)[0]], parts.head(8)), Branch(1, [], parts.head(8))]
    return DeeplySupervised(parts.stem()[0], stages, parts.head(8), branches)


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
    metadata = Metadata(
        model={"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0},
        branches=BRANCHES if branches else (),
        class_names=tuple(class_names or map(str, range(num_classes))),
        preprocessing=Preprocessing("squash", size, size, channels, (mean,) * channels, (std,) * channels),
    )
    save_weights(folder, Weights(arrays if branches else backbone_only(arrays), {}, metadata))
    return network
