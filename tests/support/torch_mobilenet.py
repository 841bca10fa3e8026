"""The MobileNet of DCM for CIFAR with both branches, in plain PyTorch, written from its description.

The other side of the parity tests; parameters carry the names of DCM's checkpoints. `torch_reference.train`
trains it.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A depthwise 3x3 convolution and a 1x1 convolution, each with BN and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


def layer(in_channels: int, widths: Sequence[int], stride: int) -> nn.Sequential:
    channels = [in_channels, *widths]
    strides = [stride] + [1] * (len(widths) - 1)
    return nn.Sequential(*(Block(*arguments) for arguments in zip(channels, widths, strides, strict=False)))


class MobileNet(nn.Module):
    """Images [batch, 3, height, width] to the logits (branch 1, branch 2, main)."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = layer(32, [64, 128, 128, 256, 256], 1)
        self.layer2 = layer(256, [512] * 6, 2)
        self.layer3 = layer(512, [1024] * 2, 2)
        self.linear = nn.Linear(1024, num_classes)
        self.ep1_layer2 = layer(256, [512] * 4, 2)
        self.ep1_layer3 = layer(512, [1024] * 2, 2)
        self.ep1_linear = nn.Linear(1024, num_classes)
        self.ep2_layer3 = layer(512, [2048] * 2, 2)
        self.ep2_linear = nn.Linear(2048, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x1 = self.layer1(F.relu(self.bn1(self.conv1(images))))
        x2 = self.layer2(x1)
        early = self.ep1_layer3(self.ep1_layer2(x1))
        return (
            self.ep1_linear(early.mean(dim=(2, 3))),
            self.ep2_linear(self.ep2_layer3(x2).mean(dim=(2, 3))),
            self.linear(self.layer3(x2).mean(dim=(2, 3))),
        )
