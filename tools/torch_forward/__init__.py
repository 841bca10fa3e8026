"""The forward pass of checkpoints in plain PyTorch, by the names of their tensors; one file per family.

convert_pytorch.py and benchmark.py compare this library with it, so it does not use dks_jax.
"""

from functools import partial

import torch
from torch import Tensor

from torch_forward import (
    cifar_resnet,
    convnext,
    densenet,
    mobilenet,
    resnet,
    vit,
    wide_resnet,
    wide_resnet_dhm,
)
from torch_forward.layers import Tensors, batch_norm

FAMILIES = (wide_resnet, wide_resnet_dhm, densenet, mobilenet, cifar_resnet, convnext, vit, resnet)


def logits(tensors: Tensors, images: Tensor) -> Tensor:
    """The logits [classifier, batch, class] in depth order, in evaluation mode.

    Args:
      tensors: state dict of a network of one of the families, with or without its published branches.
      images: normalised images, [batch, channel, height, width].
    """
    with torch.no_grad():
        return torch.stack(outputs(tensors, images))


def outputs(tensors: Tensors, images: Tensor, *, training: bool = False) -> list[Tensor]:
    """The logits [batch, class] of each classifier in depth order; for the arguments see `logits`.

    Args:
      training: whether to normalise by the statistics of the batch and update the running ones in place.
    """
    family = next(family for family in FAMILIES if family.matches(tensors))
    return family.outputs(tensors, images, partial(batch_norm, training=training))
