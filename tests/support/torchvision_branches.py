"""torchvision's residual networks with branches, each built by torchvision's own code."""

import torch
from torch import Tensor, nn

from support.real_torchvision import torchvision


def with_dhm_branches(network: nn.Module, early: tuple[int, int], late: int) -> nn.Module:
    """Gives a network of bottlenecks two branches of the form and names of DHM, and all logits as output.

    Args:
      network: a ResNet, ResNeXt or wide ResNet of torchvision; it is changed.
      early: number of blocks in the two stages of the branch after layer2.
      late: number of blocks of the branch after layer3, of twice the width of layer4.
    """
    block, num_classes = torchvision.models.resnet.Bottleneck, network.fc.out_features
    network.inplanes = 512
    network.layer3_head2 = network._make_layer(block, 256, early[0], stride=2)
    network.layer4_head2 = network._make_layer(block, 512, early[1], stride=2)
    network.fc_head2 = nn.Linear(2048, num_classes)
    network.inplanes = 1024
    network.layer4_head1 = network._make_layer(block, 1024, late, stride=2)
    network.fc_head1 = nn.Linear(4096, num_classes)
    network.forward = lambda images: _forward(network, images)
    return network


def _forward(network: nn.Module, images: Tensor) -> Tensor:
    """The logits [classifier, batch, class] in depth order."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    x2 = network.layer2(network.layer1(x))
    x3 = network.layer3(x2)
    early = network.fc_head2(network.layer4_head2(network.layer3_head2(x2)).mean((2, 3)))
    late = network.fc_head1(network.layer4_head1(x3).mean((2, 3)))
    main = network.fc(network.layer4(x3).mean((2, 3)))
    return torch.stack([early, late, main])
