"""MobileNet for CIFAR by the names of DCM, with its branches or without."""

import torch.nn.functional as F
from torch import Tensor

from torch_forward.layers import Norm, Tensors, blocks, linear


def matches(tensors: Tensors) -> bool:
    """Whether a state dict is of this family."""
    return "layer1.0.conv1.weight" in tensors and tensors["layer1.0.conv1.weight"].shape[1] == 1


def outputs(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    """The logits of each classifier in depth order; see `torch_forward.outputs`."""

    def layer(x: Tensor, name: str, stride: int = 2) -> Tensor:
        for i, own in enumerate(blocks(tensors, f"{name}.")):
            kernel = tensors[f"{own}.conv1.weight"]
            x = F.conv2d(x, kernel, stride=stride if i == 0 else 1, padding=1, groups=len(kernel))
            x = F.conv2d(F.relu_(norm(x, tensors, f"{own}.bn1")), tensors[f"{own}.conv2.weight"])
            x = F.relu_(norm(x, tensors, f"{own}.bn2"))
        return x

    x = F.relu_(norm(F.conv2d(images, tensors["conv1.weight"], padding=1), tensors, "bn1"))
    x1 = layer(x, "layer1", stride=1)
    x2 = layer(x1, "layer2")
    main = linear(layer(x2, "layer3"), tensors, "linear")
    if "ep1_linear.weight" not in tensors:
        return [main]
    early = linear(layer(layer(x1, "ep1_layer2"), "ep1_layer3"), tensors, "ep1_linear")
    return [early, linear(layer(x2, "ep2_layer3"), tensors, "ep2_linear"), main]
