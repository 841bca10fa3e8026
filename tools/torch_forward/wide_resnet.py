"""Wide ResNets by the names of the code released with DKS."""

import torch.nn.functional as F
from torch import Tensor

from torch_forward.layers import Norm, Tensors, blocks, linear


def matches(tensors: Tensors) -> bool:
    """Whether a state dict is of this family."""
    return "conv0" in tensors


def outputs(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    """The logits of each classifier in depth order; see `torch_forward.outputs`."""

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        o1 = F.relu_(norm(x, tensors, f"{name}.bn0"))
        o2 = F.conv2d(o1, tensors[f"{name}.conv0"], stride=stride, padding=1)
        o2 = F.conv2d(F.relu_(norm(o2, tensors, f"{name}.bn1")), tensors[f"{name}.conv1"], padding=1)
        shortcut = tensors.get(f"{name}.convdim")
        return o2 + (x if shortcut is None else F.conv2d(o1, shortcut, stride=stride))

    def group(x: Tensor, name: str, stride: int = 2) -> Tensor:
        for i, block_name in enumerate(blocks(tensors, f"{name}.block")):
            x = block(x, block_name, stride if i == 0 else 1)
        return x

    def classify(x: Tensor, branch: str = "") -> Tensor:
        return linear(F.relu_(norm(x, tensors, f"{branch}bn")), tensors, f"{branch}fc")

    g0 = group(F.conv2d(images, tensors["conv0"], padding=1), "group0", stride=1)
    g1 = group(g0, "group1")
    main = classify(group(g1, "group2"))
    if "ep1_fc.weight" not in tensors:
        return [main]
    early = classify(group(group(g0, "ep1_group1"), "ep1_group2"), "ep1_")
    late = classify(group(g1, "ep2_group2"), "ep2_")
    return [early, late, main]
