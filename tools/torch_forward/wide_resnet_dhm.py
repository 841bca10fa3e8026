"""Wide ResNets by the names of DHM, with its branches or without."""

import torch.nn.functional as F
from torch import Tensor

from torch_forward.layers import Norm, Tensors, blocks, linear


def matches(tensors: Tensors) -> bool:
    """Whether a state dict is of this family with these names."""
    return "layer2.0.shortcut.weight" in tensors


def outputs(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    """The logits of each classifier in depth order; see `torch_forward.outputs`."""

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        o1 = F.relu_(norm(x, tensors, f"{name}.bn1"))
        o2 = F.conv2d(o1, tensors[f"{name}.conv1.weight"], stride=stride, padding=1)
        o2 = F.conv2d(F.relu_(norm(o2, tensors, f"{name}.bn2")), tensors[f"{name}.conv2.weight"], padding=1)
        shortcut = tensors.get(f"{name}.shortcut.weight")
        return o2 + (x if shortcut is None else F.conv2d(o1, shortcut, stride=stride))

    def layer(x: Tensor, name: str, stride: int = 2) -> Tensor:
        for i, block_name in enumerate(blocks(tensors, f"{name}.")):
            x = block(x, block_name, stride if i == 0 else 1)
        return x

    def classify(x: Tensor, head: str = "") -> Tensor:
        return linear(F.relu_(norm(x, tensors, f"bn{head}")), tensors, f"fc{head}")

    x1 = layer(F.conv2d(images, tensors["conv.weight"], padding=1), "layer1", stride=1)
    x2 = layer(x1, "layer2")
    main = classify(layer(x2, "layer3"))
    if "fc_head1.weight" not in tensors:
        return [main]
    early = classify(layer(layer(x1, "layer2_head2"), "layer3_head2"), "_head2")
    return [early, classify(layer(x2, "layer3_head1"), "_head1"), main]
