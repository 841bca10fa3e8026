"""A ConvNeXt that is quick to compile, with the names of torchvision and of timm."""

import torch

from dks_jax import models
from dks_jax.models import convnext
from support.real_torchvision import torchvision

RECIPE = convnext.Recipe((1, 1, 2, 1), (4, 6, 8, 10), 36)
SIZE, NUM_CLASSES = 32, 7
FAMILY = convnext.family("tiny_convnext", RECIPE)


def tiny_convnext(**options):
    """The network of a seed; keywords as of `models.build`, and the arguments of the network as `model`."""
    model = {"name": "tiny_convnext"} | options.pop("model", {})
    return models.build(model, **{"num_classes": NUM_CLASSES, "channels": 3, "seed": 0} | options)


def torchvision_convnext(**options):
    """The same network of torchvision's own class."""
    of_stage = torchvision.models.convnext.CNBlockConfig
    after = (*RECIPE.widths[1:], None)
    setting = [of_stage(*sizes) for sizes in zip(RECIPE.widths, after, RECIPE.blocks, strict=True)]
    return torchvision.models.ConvNeXt(setting, num_classes=NUM_CLASSES, **options)


def lively(network):
    """The network with no array at its initial value, of which some are 0 or 1, in evaluation mode.

    With its factors of 1e-6 a wrong block would pass.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            is_kernel = parameter.ndim in (2, 4) and not name.startswith(("head", "classifier"))
            parameter.add_(drawn, alpha=0.02 if is_kernel else 0.3)
    return network.eval()
