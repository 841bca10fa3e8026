"""DenseNets for CIFAR by the names of DHM, with its branches or without."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_forward.layers import Norm, Tensors, blocks, linear


def matches(tensors: Tensors) -> bool:
    """Whether a state dict is of this family."""
    return "transition1.conv.weight" in tensors


def outputs(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    """The logits of each classifier in depth order; see `torch_forward.outputs`."""
    bottleneck = "layer1.0.conv2.weight" in tensors

    def convolve(x: Tensor, name: str, number: str = "") -> Tensor:
        kernel = tensors[f"{name}.conv{number}.weight"]
        x = F.relu_(norm(x, tensors, f"{name}.bn{number}"))
        return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)

    def layer(x: Tensor, name: str) -> Tensor:
        for own in blocks(tensors, f"{name}."):
            new = convolve(convolve(x, own, "1"), own, "2") if bottleneck else convolve(x, own)
            x = torch.cat([x, new], dim=1)
        return x

    def transition(x: Tensor, name: str) -> Tensor:
        return F.avg_pool2d(convolve(x, name), 2)

    def classify(x: Tensor, head: str = "") -> Tensor:
        return linear(F.relu_(norm(x, tensors, f"bn{head}")), tensors, f"fc{head}")

    x = F.conv2d(images, tensors["conv1.weight"], padding=1)
    x1 = transition(layer(x, "layer1"), "transition1")
    x2 = transition(layer(x1, "layer2"), "transition2")
    main = classify(layer(x2, "layer3"))
    if "fc_head1.weight" not in tensors:
        return [main]
    early = layer(transition(layer(x1, "layer2_head2"), "transition2_head2"), "layer3_head2")
    return [classify(early, "_head2"), classify(layer(x2, "layer3_head1"), "_head1"), main]
