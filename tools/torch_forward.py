"""The forward pass of checkpoints in plain PyTorch, by the names of their tensors.

convert_pytorch.py and benchmark.py compare this library with it, so it does not use dks_jax.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = Mapping[str, Tensor]
Norm = Callable[[Tensor, Tensors, str], Tensor]


def logits(tensors: Tensors, images: Tensor) -> Tensor:
    """The logits [classifier, batch, class] in depth order, in evaluation mode.

    Args:
      tensors: state dict of a torchvision ResNet, with or without the branches of DHM, or of a wide ResNet as
        released with DKS.
      images: normalised images, [batch, channel, height, width].
    """
    with torch.no_grad():
        return torch.stack(outputs(tensors, images))


def outputs(tensors: Tensors, images: Tensor, *, training: bool = False) -> list[Tensor]:
    """The logits [batch, class] of each classifier in depth order; for the arguments see `logits`.

    Args:
      training: whether to normalise by the statistics of the batch and update the running ones in place.
    """
    network = _wide_resnet if "conv0" in tensors else _resnet
    return network(tensors, images, partial(_norm, training=training))


def _norm(x: Tensor, tensors: Tensors, name: str, *, training: bool) -> Tensor:
    mean, var = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, tensors[f"{name}.weight"], tensors[f"{name}.bias"], training)


def _linear(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    return F.linear(x.mean(dim=(2, 3)), tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _blocks(tensors: Tensors, prefix: str) -> list[str]:
    count = len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})
    return [f"{prefix}{i}" for i in range(count)]


def _resnet(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
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
        for i, block_name in enumerate(_blocks(tensors, f"{name}.")):
            x = block(x, block_name, stride if i == 0 else 1)
        return x

    x = F.conv2d(images, tensors["conv1.weight"], stride=2, padding=3)
    x = layer(F.max_pool2d(F.relu_(norm(x, tensors, "bn1")), 3, 2, 1), "layer1", stride=1)
    x2 = layer(x, "layer2")
    x3 = layer(x2, "layer3")
    main = _linear(layer(x3, "layer4"), tensors, "fc")
    if "fc_head1.weight" not in tensors:
        return [main]
    early = _linear(layer(layer(x2, "layer3_head2"), "layer4_head2"), tensors, "fc_head2")
    late = _linear(layer(x3, "layer4_head1"), tensors, "fc_head1")
    return [early, late, main]


def _wide_resnet(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    def block(x: Tensor, name: str, stride: int) -> Tensor:
        o1 = F.relu_(norm(x, tensors, f"{name}.bn0"))
        o2 = F.conv2d(o1, tensors[f"{name}.conv0"], stride=stride, padding=1)
        o2 = F.conv2d(F.relu_(norm(o2, tensors, f"{name}.bn1")), tensors[f"{name}.conv1"], padding=1)
        shortcut = tensors.get(f"{name}.convdim")
        return o2 + (x if shortcut is None else F.conv2d(o1, shortcut, stride=stride))

    def group(x: Tensor, name: str, stride: int = 2) -> Tensor:
        for i, block_name in enumerate(_blocks(tensors, f"{name}.block")):
            x = block(x, block_name, stride if i == 0 else 1)
        return x

    def classify(x: Tensor, branch: str = "") -> Tensor:
        return _linear(F.relu_(norm(x, tensors, f"{branch}bn")), tensors, f"{branch}fc")

    g0 = group(F.conv2d(images, tensors["conv0"], padding=1), "group0", stride=1)
    g1 = group(g0, "group1")
    main = classify(group(g1, "group2"))
    if "ep1_fc.weight" not in tensors:
        return [main]
    early = classify(group(group(g0, "ep1_group1"), "ep1_group2"), "ep1_")
    late = classify(group(g1, "ep2_group2"), "ep2_")
    return [early, late, main]
