"""ResNets for CIFAR by the names of DHM, with its branches or without."""

import torch.nn.functional as F
from torch import Tensor

from torch_forward.layers import Norm, Tensors, blocks, linear


def matches(tensors: Tensors) -> bool:
    """Whether a state dict is of this family."""
    return "conv1.weight" in tensors and len(tensors["conv1.weight"]) == 16


def outputs(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    """The logits of each classifier in depth order; see `torch_forward.outputs`."""

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        out = F.conv2d(x, tensors[f"{name}.conv1.weight"], stride=stride, padding=1)
        out = F.relu_(norm(out, tensors, f"{name}.bn1"))
        out = norm(F.conv2d(out, tensors[f"{name}.conv2.weight"], padding=1), tensors, f"{name}.bn2")
        shortcut = F.avg_pool2d(x, 2) if stride == 2 else x
        added = out.shape[1] - shortcut.shape[1]
        return F.relu_(out + F.pad(shortcut, (0, 0, 0, 0, 0, added)))

    def layer(x: Tensor, name: str, stride: int = 2) -> Tensor:
        for i, block_name in enumerate(blocks(tensors, f"{name}.")):
            x = block(x, block_name, stride if i == 0 else 1)
        return x

    x = F.relu_(norm(F.conv2d(images, tensors["conv1.weight"], padding=1), tensors, "bn1"))
    x1 = layer(x, "layer1", stride=1)
    x2 = layer(x1, "layer2")
    main = linear(layer(x2, "layer3"), tensors, "fc")
    if "fc_head1.weight" not in tensors:
        return [main]
    early = linear(layer(layer(x1, "layer2_head2"), "layer3_head2"), tensors, "fc_head2")
    return [early, linear(layer(x2, "layer3_head1"), tensors, "fc_head1"), main]
