"""The CIFAR ResNets of DHM with both branches, in plain PyTorch, written from their description.

The other side of the parity tests; parameters carry the names of DHM's checkpoints. `torch_reference.train`
trains it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with BN, and a shortcut of 2x2 averages with zero channels at the end."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.new_channels:
            x = F.avg_pool2d(x, 2, 2)
            x = torch.cat([x, x.new_zeros(x.shape[0], self.new_channels, *x.shape[2:])], dim=1)
        return F.relu(y + x)


def layer(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    rest = [Block(out_channels, out_channels, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(Block(in_channels, out_channels, stride), *rest)


class CifarResNet(nn.Module):
    """Images [batch, 3, height, width] to the logits (branch 1, branch 2, main); DHM returns them reversed.

    Args:
      num_blocks: number of blocks of every stage of the backbone.
      early: number of blocks of the two stages of the early branch.
      late: number of blocks of the stage of the late branch.
      num_classes: number of classes.
    """

    def __init__(self, num_blocks: int, early: Sequence[int], late: int, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = layer(16, 16, num_blocks, 1)
        self.layer2 = layer(16, 32, num_blocks, 2)
        self.layer3 = layer(32, 64, num_blocks, 2)
        self.fc = nn.Linear(64, num_classes)
        self.layer2_head2 = layer(16, 32, early[0], 2)
        self.layer3_head2 = layer(32, 64, early[1], 2)
        self.fc_head2 = nn.Linear(64, num_classes)
        self.layer3_head1 = layer(32, 128, late, 2)
        self.fc_head1 = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x1 = self.layer1(F.relu(self.bn1(self.conv1(images))))
        x2 = self.layer2(x1)
        early = self.layer3_head2(self.layer2_head2(x1))
        return (
            self.fc_head2(early.mean(dim=(2, 3))),
            self.fc_head1(self.layer3_head1(x2).mean(dim=(2, 3))),
            self.fc(self.layer3(x2).mean(dim=(2, 3))),
        )
