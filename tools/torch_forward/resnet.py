"""ResNets by torchvision's names, with the branches of DHM or without."""

import torch.nn.functional as F
from torch import Tensor

from torch_forward.layers import Norm, Tensors, blocks, linear


def matches(tensors: Tensors) -> bool:
    """Whether a state dict is of this family."""
    return "layer4.0.conv1.weight" in tensors


def outputs(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    """The logits of each classifier in depth order; see `torch_forward.outputs`."""

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        # The stride is that of the 3x3 convolution in a bottleneck, and of the first one in a basic block.
        convolutions = (
            ("conv1", "conv2", "conv3") if f"{name}.conv3.weight" in tensors else ("conv1", "conv2")
        )
        strided = "conv2" if len(convolutions) == 3 else "conv1"
        out = x
        for convolution in convolutions:
            kernel = tensors[f"{name}.{convolution}.weight"]
            step = stride if convolution == strided else 1
            groups = out.shape[1] // kernel.shape[1]
            out = F.conv2d(out, kernel, stride=step, padding=kernel.shape[-1] // 2, groups=groups)
            out = norm(out, tensors, f"{name}.bn{convolution[-1]}")
            if convolution != convolutions[-1]:
                out = F.relu_(out)
        if f"{name}.downsample.0.weight" in tensors:
            x = norm(
                F.conv2d(x, tensors[f"{name}.downsample.0.weight"], stride=stride),
                tensors,
                f"{name}.downsample.1",
            )
        # As in torchvision this is done in place, which makes ResNet-50 a sixth faster on two cores.
        return F.relu_(out.add_(x))

    def layer(x: Tensor, name: str, stride: int = 2) -> Tensor:
        for i, block_name in enumerate(blocks(tensors, f"{name}.")):
            x = block(x, block_name, stride if i == 0 else 1)
        return x

    x = F.conv2d(images, tensors["conv1.weight"], stride=2, padding=3)
    x = layer(F.max_pool2d(F.relu_(norm(x, tensors, "bn1")), 3, 2, 1), "layer1", stride=1)
    x2 = layer(x, "layer2")
    x3 = layer(x2, "layer3")
    main = linear(layer(x3, "layer4"), tensors, "fc")
    if "fc_head1.weight" not in tensors:
        return [main]
    early = linear(layer(layer(x2, "layer3_head2"), "layer4_head2"), tensors, "fc_head2")
    late = linear(layer(x3, "layer4_head1"), tensors, "fc_head1")
    return [early, late, main]
