"""ConvNeXt by the names of torchvision or of timm, without branches."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from torch_forward.layers import Norm, Tensors, blocks


class Names(NamedTuple):
    """What a library calls its layers.

    Attributes:
      stem: of patches and norm.
      stages, halves: of each stage, before the number of a block, and of its patches and norm from the second
        on.
      layers: of a block: depthwise convolution, norm and two linear layers.
      scale: of the factors of a block.
      head: of norm and linear layer.
    """

    stem: str
    stages: tuple[str, ...]
    halves: tuple[str, ...]
    layers: tuple[str, ...]
    scale: str
    head: tuple[str, str]


TORCHVISION = Names(
    *(
        "features.0",
        tuple(f"features.{i}." for i in (1, 3, 5, 7)),
        ("", "features.2", "features.4", "features.6"),
    ),
    *(("block.0", "block.2", "block.3", "block.5"), "layer_scale", ("classifier.0", "classifier.2")),
)
TIMM = Names(
    *(
        "stem",
        tuple(f"stages.{i}.blocks." for i in range(4)),
        tuple(f"stages.{i}.downsample" for i in range(4)),
    ),
    *(("conv_dw", "norm", "mlp.fc1", "mlp.fc2"), "gamma", ("head.norm", "head.fc")),
)


def matches(tensors: Tensors) -> bool:
    """Whether a state dict is of this family."""
    return any(f"{names.stages[0]}0.{names.scale}" in tensors for names in (TORCHVISION, TIMM))


def outputs(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    """The logits of the one classifier; see `torch_forward.outputs`."""
    del norm
    names = TIMM if "stem.0.weight" in tensors else TORCHVISION

    def arrays(name: str) -> tuple[Tensor, Tensor]:
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def layer_norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *arrays(name), eps=1e-6)

    def normalise(x: Tensor, name: str) -> Tensor:
        return layer_norm(x.permute(0, 2, 3, 1), name).permute(0, 3, 1, 2)

    def patches(x: Tensor, name: str) -> Tensor:
        kernel, bias = arrays(name)
        return F.conv2d(x, kernel, bias, stride=kernel.shape[-1])

    def block(x: Tensor, name: str) -> Tensor:
        depthwise, own_norm, fc1, fc2 = (f"{name}.{layer}" for layer in names.layers)
        y = F.conv2d(x, *arrays(depthwise), padding=3, groups=x.shape[1])
        y = layer_norm(y.permute(0, 2, 3, 1), own_norm)
        y = F.linear(F.gelu(F.linear(y, *arrays(fc1))), *arrays(fc2)).permute(0, 3, 1, 2)
        return tensors[f"{name}.{names.scale}"].view(-1, 1, 1) * y + x

    x = normalise(patches(images, f"{names.stem}.0"), f"{names.stem}.1")
    for stage, halves in zip(names.stages, names.halves, strict=True):
        if f"{halves}.0.weight" in tensors:
            x = patches(normalise(x, f"{halves}.0"), f"{halves}.1")
        for name in blocks(tensors, stage):
            x = block(x, name)
    own_norm, fc = names.head
    return [F.linear(layer_norm(x.mean(dim=(2, 3)), own_norm), *arrays(fc))]
