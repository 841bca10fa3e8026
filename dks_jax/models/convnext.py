"""ConvNeXt for ImageNet, with branches of our own.

Backbone: Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545, as torchvision and timm compute
it, with the initial values of both. From the second stage on, a stage begins by halving the resolution.

    backbone                       stem - stage 1 - stage 2 - stage 3 - stage 4 - head
    branch 1, after stage 2                                   3 blocks - 1 block - head
    branch 2, after stage 3                                              2 blocks - head

No publication has these branches: they are our choice, of the backbone's own widths. With 1,000 classes of
224 x 224 pixels, training computes 1.35, 1.18 and 1.18 times what the tiny, the small and the base backbone
alone would, with 1.77, 1.44 and 1.43 times its parameters.
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
    Network,
    Part,
    Preprocessing,
    Shape,
    TorchFormat,
    count_channels,
)
from dks_jax.models.regularisation import ARGUMENTS, Regularisation, Transform, identity
from dks_jax.nn.fence import fence
from dks_jax.nn.initialisation import truncated_normal
from dks_jax.nn.layers import Conv, Dense, LayerNorm, LayerScale, Linear, Patches, Stage
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import BranchSpec


class Recipe(NamedTuple):
    """The sizes of a network, and the side to which torchvision resizes its images.

    Attributes:
      blocks, widths: number of blocks and channels of each of the four stages.
      resized: before the central crop of 224 pixels.
    """

    blocks: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    resized: int


RECIPES = {
    "convnext_tiny": Recipe((3, 3, 9, 3), (96, 192, 384, 768), 236),
    "convnext_small": Recipe((3, 3, 27, 3), (96, 192, 384, 768), 230),
    "convnext_base": Recipe((3, 3, 27, 3), (128, 256, 512, 1024), 232),
}
# Of LayerScale.
SMALLEST = 1e-6
initial = truncated_normal(0.02)


class Stem(nnx.Module):
    """Patches of 4x4 pixels, normalised; quarters the resolution."""

    def __init__(self, channels: int, width: int, *, rngs: nnx.Rngs):
        self.patches = Patches(channels, width, 4, rngs=rngs)
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        _require_patch(x, 4)
        return self.norm(self.patches(x))


class Downsample(nnx.Module):
    """Normalisation, then patches of 2x2 pixels; halves the resolution."""

    def __init__(self, in_channels: int, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(in_channels, rngs=rngs)
        self.patches = Patches(in_channels, width, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        _require_patch(x, 2)
        return self.patches(self.norm(x))


def _require_patch(x: jax.Array, size: int) -> None:
    """Raises InputError for features that are smaller than a patch."""
    if min(x.shape[1:3]) < size:
        raise InputError(
            "`data.image_size` of a convnext must be at least 32, and 64 for a branch that goes on after the "
            f"last stage, since its stem and stages take patches; got features of {x.shape[1]}x{x.shape[2]} "
            f"pixels for patches of {size}x{size}."
        )


class Block(nnx.Module):
    """Depthwise 7x7 convolution, normalisation and an MLP with exact GELU, scaled and added to the input."""

    def __init__(self, width: int, drop_path: Transform = identity, *, rngs: nnx.Rngs):
        self.depthwise = Conv(width, width, 7, groups=width, bias=True, initial=initial, rngs=rngs)
        self.norm = LayerNorm(width, rngs=rngs)
        self.fc1 = Dense(width, 4 * width, initial=initial, rngs=rngs)
        self.fc2 = Dense(4 * width, width, initial=initial, rngs=rngs)
        self.scale = LayerScale(width, SMALLEST)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array) -> jax.Array:
        x = fence(x)
        hidden = nnx.gelu(self.fc1(self.norm(self.depthwise(x))), approximate=False)
        return x + self.drop_path(self.scale(self.fc2(hidden)))


class Halved(Stage):
    """A stage of blocks after a `Downsample`."""

    def __init__(self, downsample: Downsample, blocks: list[Block]):
        super().__init__(blocks)
        self.downsample = downsample

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(self.downsample(x))


class Head(nnx.Module):
    """Global average pool, normalisation and linear layer, from [batch, height, width, channel] to logits."""

    def __init__(self, width: int, num_classes: int, *, dropout: Transform = identity, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, rngs=rngs)
        self.dropout = dropout
        self.fc = Linear(width, num_classes, initial=initial, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.dropout(self.norm(x.mean(axis=(1, 2)))))


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
      recipe: its sizes.
      drop_path, head_dropout: see `models.regularisation`; published were a rate of 0.1, 0.4 and 0.5 of the
        former for the tiny, the small and the base network.
      num_classes, channels: see `models.build`.
      norm_groups: not used, since nothing is normalised over a batch.
      rngs: source of the initial values and of the dropouts.
    """
    del norm_groups
    regularisation = Regularisation(drop_path, head_dropout, recipe.blocks, rngs, from_zero=True)

    def stage(index: int, in_channels: int, num_blocks: int, width: int) -> Part:
        downsample = Downsample(in_channels, width, rngs=rngs) if index else None
        blocks = [Block(width, drop, rngs=rngs) for drop in regularisation.drop_paths(index, num_blocks)]
        return Halved(downsample, blocks) if downsample else Stage(blocks), width

    return Backbone(
        blocks=recipe.blocks,
        widths=recipe.widths,
        stem=lambda: (Stem(channels, recipe.widths[0], rngs=rngs), recipe.widths[0]),
        stage=stage,
        head=lambda in_channels: Head(
            in_channels, num_classes, dropout=regularisation.before_fc(), rngs=rngs
        ),
    )


def branches(recipe: Recipe, **_) -> tuple[BranchSpec, ...]:
    """Branches after the second stage and after the third, of the widths of the backbone; see above."""
    return BranchSpec(1, (3, 1), recipe.widths[2:]), BranchSpec(2, (2,), recipe.widths[3:])


class Names(NamedTuple):
    """What a library calls the parts by which its checkpoints are recognised.

    Attributes:
      stem, head: what the names of their first and last layer start with.
      depthwise: pattern of the kernels of all depthwise convolutions, with the stage as its group.
    """

    stem: str
    head: str
    depthwise: str


def recognise(name: str, recipe: Recipe, names: Names, shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint by names and shapes; see `TorchFormat`."""
    found = [(match[1], s[0]) for own, s in shapes.items() if (match := re.fullmatch(names.depthwise, own))]
    counts, widths = Counter(stage for stage, _ in found), dict(found)
    if tuple((counts[stage], widths[stage]) for stage in sorted(counts)) != tuple(
        zip(recipe.blocks, recipe.widths, strict=True)
    ):
        return None
    num_classes = shapes.get(f"{names.head}.weight", (0,))[0]
    return Network({"name": name}, (), num_classes, count_channels(shapes, names.stem))


TORCHVISION = Names("features.0.0", "classifier.2", r"features\.(\d)\.\d+\.block\.0\.weight")
TIMM = Names("stem.0", "head.fc", r"stages\.(\d)\.blocks\.\d+\.conv_dw\.weight")
PREPROCESSING = Preprocessing(
    "standard", *(224, 224, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), assumed=True
)
STAGES = range(4)


def torchvision_format(name: str, recipe: Recipe) -> TorchFormat:
    """The names of torchvision, which numbers stages and what halves the resolution before them alike."""
    return TorchFormat(
        "torchvision",
        partial(recognise, name, recipe, TORCHVISION),
        rules=(
            (r"stem\.patches", "features.0.0"),
            (r"stem\.norm", "features.0.1"),
            *((rf"stages\.{i}\.blocks", f"features.{2 * i + 1}") for i in STAGES),
            *((rf"stages\.{i}\.downsample", f"features.{2 * i}") for i in STAGES),
            (r"head\.norm", "classifier.0"),
            (r"head\.fc", "classifier.2"),
        ),
        replacements=(
            (r"(features\.[246])\.norm$", r"\1.0"),
            (r"(features\.[246])\.patches$", r"\1.1"),
            (r"\.depthwise$", ".block.0"),
            (r"\.norm$", ".block.2"),
            (r"\.fc1$", ".block.3"),
            (r"\.fc2$", ".block.5"),
            (r"\.scale$", ".layer_scale"),
        ),
        order=("features", "classifier", "layer_scale", "block", "weight", "bias"),
        preprocessing=PREPROCESSING.replace(crop_ratio=224 / recipe.resized),
        imagenet=True,
        branches=False,
        kinds={"gamma": ""},
        columns=("gamma",),
    )


def timm_format(name: str, recipe: Recipe) -> TorchFormat:
    """The names of timm."""
    return TorchFormat(
        "timm",
        partial(recognise, name, recipe, TIMM),
        rules=(
            (r"stem\.patches", "stem.0"),
            (r"stem\.norm", "stem.1"),
            (r"(stages\.\d)\.downsample\.norm", r"\1.downsample.0"),
            (r"(stages\.\d)\.downsample\.patches", r"\1.downsample.1"),
        ),
        replacements=(
            (r"\.depthwise$", ".conv_dw"),
            (r"\.(fc[12])$", r".mlp.\1"),
            (r"\.scale$", ".gamma"),
        ),
        order=(
            *("stem", "stages", "head", "downsample", "blocks", "gamma", "conv_dw", "norm", "mlp"),
            *("fc1", "fc2", "fc", "weight", "bias"),
        ),
        preprocessing=PREPROCESSING.replace(interpolation="bicubic"),
        imagenet=True,
        branches=False,
        kinds={"gamma": ""},
    )


def family(name: str, recipe: Recipe) -> Family:
    """The network of a recipe, with its checkpoints."""
    return Family(
        partial(backbone, recipe),
        partial(branches, recipe),
        arguments=ARGUMENTS,
        torch=(torchvision_format(name, recipe), timm_format(name, recipe)),
    )


NETWORKS = {name: family(name, recipe) for name, recipe in RECIPES.items()}
