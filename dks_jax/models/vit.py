"""Vision transformers, ViT and DeiT without its distillation token, with branches of our own.

Backbone: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929, table 1 and
section 3.1, as torchvision and timm compute it; the small one, and the same networks as DeiT: Touvron et al.,
"Training data-efficient image transformers", ICML 2021, arXiv:2012.12877, whose initial values all have. The
stages are groups of three blocks, all of one width. Features are [batch, token, channel], the class token
first.

    backbone                            stem - 3 blocks - 3 blocks - 3 blocks - 3 blocks - head
    branch 1, after 6 blocks                                       2 blocks - head
    branch 2, after 9 blocks                                                  2 blocks - head

No publication has these branches: they are our choice. Training computes 1.32 to 1.33 times what the backbone
alone would, with 1.34 to 1.36 times its parameters. Joint heads cost a ViT accuracy where all are trained
from the start: a ViT-T on ImageNet has 71.61 % alone, 68.39 with joint heads from scratch, and 71.20 where
the backbone was trained first and then all of them (Kubaty et al., ICML 2025). So start from the weights of a
backbone, where `synergy.branch_warmup` has fresh branches teach later, or set `synergy.detach`, with which
branches leave the backbone as it is.
"""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dks_jax.config import Field
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
from dks_jax.nn.layers import Dense, LayerNorm, Linear, Patches, Stage
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import BranchSpec


class Recipe(NamedTuple):
    """The sizes of a network.

    Attributes:
      width: number of channels of every token.
      heads: number of heads of every attention.
      patch: side of a patch in pixels.
      blocks: number of blocks in each stage.
    """

    width: int
    heads: int
    patch: int
    blocks: tuple[int, ...] = (3, 3, 3, 3)


RECIPES = {
    "vit_s_16": Recipe(384, 6, 16),
    "vit_s_32": Recipe(384, 6, 32),
    "vit_b_16": Recipe(768, 12, 16),
    "vit_b_32": Recipe(768, 12, 32),
}
LARGEST = 10**5
initial = truncated_normal(0.02)


class Stem(nnx.Module):
    """Patches as tokens after a class token, plus a learnt position for each.

    Called on images [batch, size, size, channel], it returns [batch, 1 + (size / patch)^2, width].

    Args:
      channels: number of channels of the images.
      recipe: width and patches.
      size: side of the images in pixels.
      rngs: random streams of the initial values.

    Attributes:
      class_token: [1, 1, width].
      positions: [1, token, width].

    Raises:
      InputError: when called on images of another size.
    """

    def __init__(self, channels: int, recipe: Recipe, size: int, *, rngs: nnx.Rngs):
        tokens = 1 + (size // recipe.patch) ** 2
        self.patches = Patches(channels, recipe.width, recipe.patch, rngs=rngs)
        self.class_token = nnx.Param(initial(rngs, (1, 1, recipe.width)))
        self.positions = nnx.Param(initial(rngs, (1, tokens, recipe.width)))
        self.size = size

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, _ = x.shape
        if (height, width) != (self.size, self.size):
            raise InputError(
                "`data.image_size` and `data.train_size` must be `model.image_size`, since a vision "
                f"transformer has positions for one size, {self.size}; got images of {height}x{width} "
                "pixels: set all of them to the same."
            )
        patches = self.patches(x)
        tokens = patches.reshape(batch, -1, patches.shape[-1])
        first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (batch, 1, tokens.shape[-1]))
        return jnp.concatenate([first, tokens], axis=1) + self.positions[...].astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention: Vaswani et al., arXiv:1706.03762; [batch, token, channel] to the same.

    The softmax is in float32 or wider. (That of `jax.nn.dot_product_attention` is in float32 always.)

    Args:
      width: number of channels, a multiple of `heads`.
      heads: number of heads.
      rngs: random streams of the initial values.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.qkv = Dense(width, 3 * width, initial=initial, rngs=rngs)
        self.proj = Dense(width, width, initial=initial, rngs=rngs)
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        similarities = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=wide)
        attention = nnx.softmax(similarities / math.sqrt(q.shape[-1])).astype(x.dtype)
        return self.proj(jnp.einsum("bhqk,bkhc->bqhc", attention, v).reshape(x.shape))


class MLP(nnx.Module):
    """Two linear layers with exact GELU and four times the channels between them."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.fc1 = Dense(width, 4 * width, initial=initial, rngs=rngs)
        self.fc2 = Dense(4 * width, width, initial=initial, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(nnx.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
    """Attention, then an MLP, each of the normalised tokens and added to them."""

    def __init__(self, recipe: Recipe, drop_path: Transform = identity, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(recipe.width, rngs=rngs)
        self.attention = Attention(recipe.width, recipe.heads, rngs=rngs)
        self.norm2 = LayerNorm(recipe.width, rngs=rngs)
        self.mlp = MLP(recipe.width, rngs=rngs)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array) -> jax.Array:
        x = fence(x)
        # Each call of drop_path draws anew.
        x = fence(x + self.drop_path(self.attention(self.norm1(x))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Head(nnx.Module):
    """Normalisation and linear layer of the class token, from [batch, token, channel] to logits."""

    def __init__(self, width: int, num_classes: int, *, dropout: Transform = identity, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, rngs=rngs)
        self.dropout = dropout
        self.fc = Linear(width, num_classes, initial=initial, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.dropout(self.norm(x[:, 0])))


def check(name: str, recipe: Recipe, *, image_size: int, **_) -> None:
    """Raises InputError for a size that the patches do not divide."""
    if image_size % recipe.patch:
        raise InputError(
            f"`model.image_size` of {name} must be a multiple of {recipe.patch}, the side of its patches; "
            f"got {image_size}."
        )


def backbone(
    recipe: Recipe,
    *,
    image_size: int,
    drop_path: float,
    head_dropout: float,
    num_classes: int,
    channels: int,
    norm_groups: int,
    rngs: nnx.Rngs,
) -> Backbone:
    """The network of a recipe; it was published for 224 x 224 pixels.

    Args:
      recipe: its sizes.
      image_size: side of the images in pixels, of which there is a position for each patch.
      drop_path, head_dropout: see `models.regularisation`.
      num_classes, channels: see `models.build`.
      norm_groups: not used, since nothing is normalised over a batch.
      rngs: source of the initial values and of the dropouts.
    """
    del norm_groups
    regularisation = Regularisation(drop_path, head_dropout, recipe.blocks, rngs, from_zero=True)

    def stage(index: int, in_channels: int, num_blocks: int, width: int) -> Part:
        if width != in_channels:
            raise InputError(
                f"`widths` of a branch of a vision transformer must be {in_channels}, the width of its "
                f"backbone; got {width}."
            )
        drops = regularisation.drop_paths(index, num_blocks)
        return Stage([Block(recipe, drop, rngs=rngs) for drop in drops]), width

    return Backbone(
        blocks=recipe.blocks,
        widths=(recipe.width,) * len(recipe.blocks),
        stem=lambda: (Stem(channels, recipe, image_size, rngs=rngs), recipe.width),
        stage=stage,
        head=lambda in_channels: Head(
            in_channels, num_classes, dropout=regularisation.before_fc(), rngs=rngs
        ),
    )


def branches(recipe: Recipe, **_) -> tuple[BranchSpec, ...]:
    """Two blocks and a head after the second stage and after the third; they are ours, see above."""
    return BranchSpec(1, (2,), (recipe.width,)), BranchSpec(2, (2,), (recipe.width,))


class Names(NamedTuple):
    """What a library calls the parts by which its checkpoints are recognised.

    Attributes:
      patches, positions, head: names of arrays.
      blocks: what the names of all blocks start with, before their number.
    """

    patches: str
    positions: str
    head: str
    blocks: str


def recognise(name: str, recipe: Recipe, names: Names, shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint by names and shapes; see `TorchFormat`."""
    kernel = shapes.get(names.patches, ())
    pattern = re.escape(names.blocks) + r"(\d+)\."
    blocks = {match[1] for other in shapes if (match := re.match(pattern, other))}
    if kernel[:1] + kernel[2:] != (recipe.width, recipe.patch, recipe.patch) or len(blocks) != sum(
        recipe.blocks
    ):
        return None
    # Siblings have another number of tokens before those of the patches, and are refused by their arrays.
    size = recipe.patch * round(math.sqrt(shapes.get(names.positions, (1, 197))[1] - 1))
    if not 0 < size <= LARGEST:
        return None
    num_classes = shapes.get(names.head, (0,))[0]
    return Network({"name": name, "image_size": size}, (), num_classes, count_channels(shapes, names.patches))


TORCHVISION = Names(
    "conv_proj.weight", "encoder.pos_embedding", "heads.head.weight", "encoder.layers.encoder_layer_"
)
TIMM = Names("patch_embed.proj.weight", "pos_embed", "head.weight", "blocks.")
PREPROCESSING = Preprocessing(
    "standard", *(224, 224, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), assumed=True
)
# timm's crop ratio is 0.9, and it rounds 224 / 0.9 down.
BICUBIC = PREPROCESSING.replace(crop_ratio=224 / 248, interpolation="bicubic")
HALF = BICUBIC.replace(mean=(0.5,) * 3, std=(0.5,) * 3)


def _block_rules(recipe: Recipe, start: str) -> tuple[tuple[str, str], ...]:
    """Rules of a `TorchFormat` that number the blocks of all stages one after another, from 0."""
    places = [(stage, block) for stage, count in enumerate(recipe.blocks) for block in range(count)]
    return tuple(
        (rf"stages\.{stage}\.blocks\.{block}\b", f"{start}{number}")
        for number, (stage, block) in enumerate(places)
    )


def torchvision_format(name: str, recipe: Recipe) -> TorchFormat:
    """The names of torchvision."""
    return TorchFormat(
        "torchvision",
        partial(recognise, name, recipe, TORCHVISION),
        rules=(
            *_block_rules(recipe, TORCHVISION.blocks),
            (r"stem\.patches", "conv_proj"),
            (r"stem$", ""),
            (r"head\.norm", "encoder.ln"),
            (r"head\.fc", "heads.head"),
        ),
        replacements=(
            (r"attention\.qkv", "self_attention.in_proj"),
            (r"attention\.proj", "self_attention.out_proj"),
            (r"\.norm(\d)", r".ln_\1"),
            (r"mlp\.fc1", "mlp.0"),
            (r"mlp\.fc2", "mlp.3"),
        ),
        joined=((r"in_proj\.", "in_proj_"),),
        order=(
            *("class_token", "conv_proj", "encoder", "heads", "pos_embedding", "layers", "ln"),
            *(f"encoder_layer_{number}" for number in range(sum(recipe.blocks))),
            *("ln_1", "self_attention", "ln_2", "mlp"),
            *("in_proj_weight", "in_proj_bias", "out_proj", "head", "weight", "bias"),
        ),
        preprocessing=PREPROCESSING,
        imagenet=True,
        branches=False,
        kinds={"class_token": "class_token", "positions": TORCHVISION.positions},
    )


def timm_format(name: str, recipe: Recipe, preprocessing: Preprocessing) -> TorchFormat:
    """The names of timm, which are those of the code released with DeiT too."""
    return TorchFormat(
        "timm",
        partial(recognise, name, recipe, TIMM),
        rules=(
            *_block_rules(recipe, TIMM.blocks),
            (r"stem\.patches", "patch_embed.proj"),
            (r"stem$", ""),
            (r"head\.norm", "norm"),
            (r"head\.fc", "head"),
        ),
        replacements=((r"\.attention\.", ".attn."),),
        order=(
            *("cls_token", "pos_embed", "patch_embed", "blocks"),
            *("norm1", "attn", "qkv", "proj", "norm2", "mlp", "fc1", "fc2", "norm", "head", "weight", "bias"),
        ),
        preprocessing=preprocessing,
        imagenet=True,
        branches=False,
        kinds={"class_token": "cls_token", "positions": TIMM.positions},
    )


def family(name: str, recipe: Recipe, torch: tuple[TorchFormat, ...]) -> Family:
    """The family of a recipe."""
    size = Field(int, 224, "side of the images in pixels, of which each patch has a position", 1, LARGEST)
    return Family(
        partial(backbone, recipe),
        partial(branches, recipe),
        arguments={"image_size": size, **ARGUMENTS},
        check=partial(check, name, recipe),
        torch=torch,
    )


NETWORKS = {
    name: family(name, recipe, (torchvision_format(name, recipe), timm_format(name, recipe, HALF)))
    for name, recipe in RECIPES.items()
}
NETWORKS |= {
    name: family(name, recipe, (timm_format(name, recipe, BICUBIC),))
    for name, recipe in (("deit_s_16", RECIPES["vit_s_16"]), ("deit_b_16", RECIPES["vit_b_16"]))
}
