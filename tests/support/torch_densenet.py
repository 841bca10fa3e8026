"""The DenseNets of DHM for CIFAR with both branches, in plain PyTorch, written from their description.

The other side of the parity tests; parameters carry the names of DHM's checkpoints. `torch_reference.train`
trains it.
"""

from collections.abc import Sequence
from math import floor

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicLayer(nn.Module):
    """The input, followed by the new features of a 3x3 convolution."""

    def __init__(self, in_channels: int, growth: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], dim=1)


class BottleneckLayer(nn.Module):
    """The same with a 1x1 convolution to four times as many features before the 3x3 one."""

    def __init__(self, in_channels: int, growth: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(y)))], dim=1)


class Transition(nn.Module):
    """BN, ReLU, 1x1 convolution and 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """Images [batch, 3, height, width] to the logits (branch 1, branch 2, main); DHM returns them reversed.

    Args:
      num_layers: number of layers of every stage of the backbone.
      early: number of layers of the two stages of the early branch.
      late: number of layers of the stage of the late branch.
      growth: growth rate of the backbone and the early branch.
      bottleneck: whether it has bottlenecks.
      compression: the share of the features that a transition keeps.
      num_classes: number of classes.
    """

    def __init__(
        self,
        num_layers: int,
        early: Sequence[int],
        late: int,
        *,
        growth: int,
        bottleneck: bool,
        compression: float,
        num_classes: int,
    ):
        super().__init__()
        kind = BottleneckLayer if bottleneck else BasicLayer

        def block(channels: int, count: int, growth: int = growth) -> tuple[nn.Sequential, int]:
            layers = [kind(channels + i * growth, growth) for i in range(count)]
            return nn.Sequential(*layers), channels + count * growth

        def transition(channels: int) -> tuple[Transition, int]:
            return Transition(channels, floor(channels * compression)), floor(channels * compression)

        stem = 2 * growth if bottleneck else 16
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.layer1, channels = block(stem, num_layers)
        self.transition1, after1 = transition(channels)
        self.layer2, channels = block(after1, num_layers)
        self.transition2, after2 = transition(channels)
        self.layer3, channels = block(after2, num_layers)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.layer2_head2, channels = block(after1, early[0])
        self.transition2_head2, channels = transition(channels)
        self.layer3_head2, channels = block(channels, early[1])
        self.bn_head2 = nn.BatchNorm2d(channels)
        self.fc_head2 = nn.Linear(channels, num_classes)
        self.layer3_head1, channels = block(after2, late, 3 * growth)
        self.bn_head1 = nn.BatchNorm2d(channels)
        self.fc_head1 = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x1 = self.transition1(self.layer1(self.conv1(images)))
        x2 = self.transition2(self.layer2(x1))
        early = self.layer3_head2(self.transition2_head2(self.layer2_head2(x1)))
        return (
            classify(early, self.bn_head2, self.fc_head2),
            classify(self.layer3_head1(x2), self.bn_head1, self.fc_head1),
            classify(self.layer3(x2), self.bn, self.fc),
        )


def classify(features: Tensor, bn: nn.BatchNorm2d, fc: nn.Linear) -> Tensor:
    """Logits of the features; the published 8x8 pool covers the whole map of a 32x32 image."""
    return fc(F.relu(bn(features)).mean(dim=(2, 3)))
