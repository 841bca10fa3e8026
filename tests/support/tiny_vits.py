"""A vision transformer that is quick to compile, with the names of torchvision and of timm."""

import torch

from dks_jax import models
from dks_jax.models import vit
from support.real_torchvision import torchvision

# The plain PyTorch forward pass knows heads of 64 channels alone.
RECIPE = vit.Recipe(width=128, heads=2, patch=4, blocks=(1, 1, 1))
SIZE, NUM_CLASSES = 16, 7


def families():
    """The network, and the same with DeiT's preprocessing, by their names."""
    table = vit.torchvision_format("tiny_vit", RECIPE), vit.timm_format("tiny_vit", RECIPE, vit.HALF)
    sibling = (vit.timm_format("tiny_deit", RECIPE, vit.BICUBIC),)
    return {
        "tiny_vit": vit.family("tiny_vit", RECIPE, table),
        "tiny_deit": vit.family("tiny_deit", RECIPE, sibling),
    }


def tiny_vit(**options):
    """The network of a seed; keywords as of `models.build`, and the arguments of the network as `model`."""
    model = {"name": "tiny_vit", "image_size": SIZE} | options.pop("model", {})
    return models.build(model, **{"num_classes": NUM_CLASSES, "channels": 3, "seed": 0} | options)


def torchvision_vit():
    """The same network of torchvision's own class."""
    return torchvision.models.VisionTransformer(
        image_size=SIZE,
        patch_size=RECIPE.patch,
        num_layers=sum(RECIPE.blocks),
        num_heads=RECIPE.heads,
        hidden_dim=RECIPE.width,
        mlp_dim=4 * RECIPE.width,
        num_classes=NUM_CLASSES,
    )


def lively(network):
    """The network with no array at its initial value, of which some are 0 or 1, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            is_kernel = parameter.ndim in (2, 4) and "head" not in name
            # The head would otherwise be 0, and a wrong class token or position without effect.
            parameter.add_(drawn, alpha=0.01 if is_kernel else 0.3)
    return network.eval()
