"""Wide ResNets with DKS branches and their published training recipe, in plain PyTorch.

The other side of the parity tests: written from the description of the method (arXiv:1906.00675) and of the
recipe released with it, not from dks_jax. Parameters carry the flat names of the released checkpoints.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSIFIERS = ("branch1", "branch2", "main")

# Ordered pairs (teacher, student) of indices into CLASSIFIERS.
DKS_PAIRS = ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
TOP_DOWN_PAIRS = ((1, 0), (2, 0), (2, 1))
DS_PAIRS = ()

# The last part of a name in dks_jax, and in a released checkpoint. A released convolution has no such part.
ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Block(nn.Module):
    """A pre-activation residual block; its convolutions are bare tensors, as in the released checkpoints."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float):
        super().__init__()
        self.stride = stride
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv0 = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Parameter(torch.empty(out_channels, out_channels, 3, 3))
        if in_channels != out_channels:
            self.convdim = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        o1 = F.relu(self.bn0(x))
        y = F.conv2d(o1, self.conv0, stride=self.stride, padding=1)
        o2 = self.dropout(F.relu(self.bn1(y)))
        z = F.conv2d(o2, self.conv1, padding=1)
        if hasattr(self, "convdim"):
            return z + F.conv2d(o1, self.convdim, stride=self.stride)
        return z + x


class Group(nn.Sequential):
    """Blocks named block0, block1, ...; the first one may change the width and the resolution."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, stride: int, dropout: float):
        super().__init__()
        for i in range(num_blocks):
            block = Block(in_channels, out_channels, stride, dropout)
            self.add_module(f"block{i}", block)
            in_channels, stride = out_channels, 1


class WideResNet(nn.Module):
    """WRN-depth-width with both branches: images to the logits (branch 1, branch 2, main).

    Images are [batch, 3, height, width]. Uninitialised: the tests carry the weights of dks_jax over.
    """

    def __init__(self, depth: int, width: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        n = (depth - 4) // 6
        w0, w1, w2, w3 = 16 * width, 32 * width, 64 * width, 128 * width
        self.conv0 = nn.Parameter(torch.empty(16, 3, 3, 3))
        self.group0 = Group(16, w0, n, 1, dropout)
        self.group1 = Group(w0, w1, n, 2, dropout)
        self.group2 = Group(w1, w2, n, 2, dropout)
        self.bn = nn.BatchNorm2d(w2)
        self.fc = nn.Linear(w2, num_classes)
        self.ep1_group1 = Group(w0, w1, n, 2, dropout)
        self.ep1_group2 = Group(w1, w2, n // 2, 2, dropout)
        self.ep1_bn = nn.BatchNorm2d(w2)
        self.ep1_fc = nn.Linear(w2, num_classes)
        self.ep2_group2 = Group(w1, w3, n, 2, dropout)
        self.ep2_bn = nn.BatchNorm2d(w3)
        self.ep2_fc = nn.Linear(w3, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g0 = self.group0(F.conv2d(images, self.conv0, padding=1))
        g1 = self.group1(g0)
        g2 = self.group2(g1)
        e1 = self.ep1_group2(self.ep1_group1(g0))
        e2 = self.ep2_group2(g1)
        return (
            classify(e1, self.ep1_bn, self.ep1_fc),
            classify(e2, self.ep2_bn, self.ep2_fc),
            classify(g2, self.bn, self.fc),
        )


def classify(features: Tensor, bn: nn.BatchNorm2d, fc: nn.Linear) -> Tensor:
    """Logits of the features; the published 8x8 pool covers the whole map of a 32x32 image."""
    return fc(F.relu(bn(features)).mean(dim=(2, 3)))


def arrays_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and running statistics by released name."""
    return {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}


def load_arrays(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Gives the network all its parameters and running statistics, by released name."""
    network.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()} | counters_of(network))


def fill(network: nn.Module) -> None:
    """Draws all arrays of a network, statistics and biases included, and sets its batch counters to 12."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            bounds = (0.5, 1.5) if name.endswith("running_var") else (-0.3, 0.3)
            tensor.uniform_(*bounds, generator=generator)
        else:
            tensor.fill_(12)


def released_order(names: Iterable[str]) -> list[str]:
    """Released names in the order in which the released code lists them, which its optimizer counts by."""
    groups = ["conv0", "group0", "group1", "group2", "bn", "fc"]
    groups += ["ep1_group1", "ep1_group2", "ep1_bn", "ep1_fc", "ep2_group2", "ep2_bn", "ep2_fc"]
    layers = ["conv0", "conv1", "bn0", "bn1", "convdim"]
    arrays = ["weight", "bias", "running_mean", "running_var"]

    def place(name: str) -> list[int]:
        top, *rest = name.split(".")
        block = [int(rest.pop(0).removeprefix("block")), layers.index(rest.pop(0))] if "group" in top else []
        return [groups.index(top), *block, *map(arrays.index, rest)]

    return sorted((name for name in names if not name.endswith("num_batches_tracked")), key=place)


def counters_of(network: nn.Module) -> dict[str, Tensor]:
    """The batch counters that PyTorch's batch norm keeps and nothing here uses."""
    return {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """uint8 [batch, height, width, channel] to (x / 255 - mean) / std, [batch, channel, height, width]."""
    x = torch.tensor(images).permute(0, 3, 1, 2).to(dtype) / 255
    mean_, std_ = (torch.tensor(v, dtype=dtype)[:, None, None] for v in (mean, std))
    return (x - mean_) / std_


def smoothed_softmax(logits: Tensor, epsilon: float) -> Tensor:
    """(p + epsilon) / (1 + num_classes epsilon)."""
    return (F.softmax(logits, dim=1) + epsilon) / (1 + logits.shape[1] * epsilon)


def loss_terms(logits: Sequence[Tensor], labels: Tensor, epsilon: float) -> dict[str, Tensor]:
    """The three cross-entropies and the six divergences KL(teacher || student), the teacher detached."""
    terms = {}
    for name, z in zip(CLASSIFIERS, logits, strict=True):
        terms[f"cross_entropy/{name}"] = F.cross_entropy(z, labels)
    for t, teacher in enumerate(CLASSIFIERS):
        for s, student in enumerate(CLASSIFIERS):
            if t != s:
                p = smoothed_softmax(logits[t], epsilon).detach()
                q = smoothed_softmax(logits[s], epsilon)
                terms[f"kl/{teacher}->{student}"] = (p * (p.log() - q.log())).sum(dim=1).mean()
    return terms


def total_loss(terms: Mapping[str, Tensor], pairs: Collection[tuple[int, int]]) -> Tensor:
    """Every cross-entropy, and the divergences of the (teacher, student) pairs, all of weight 1."""
    total = torch.zeros(())
    for name in CLASSIFIERS:
        total = total + terms[f"cross_entropy/{name}"]
    for t, s in pairs:
        total = total + terms[f"kl/{CLASSIFIERS[t]}->{CLASSIFIERS[s]}"]
    return total


def train(
    network: nn.Module,
    epochs: Iterable[Iterable[tuple[Tensor, Tensor]]],
    *,
    pairs: Collection[tuple[int, int]],
    epsilon: float = 1e-8,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    drop_epochs: Collection[int] = (60, 120, 160),
    drop_factor: float = 0.2,
    new_optimizer_at_drops: bool = True,
    decay_norm_and_bias: bool = True,
) -> Iterator[tuple[dict[str, float], torch.optim.SGD]]:
    """Trains the network in place; yields (loss and its terms, optimizer) after every step.

    The two flags are part of the recipe; turning one off shows what it does.
    """
    network.train()
    optimizer = new_sgd(network, learning_rate, weight_decay, decay_norm_and_bias)
    for epoch, batches in enumerate(epochs, start=1):
        if epoch in drop_epochs:
            learning_rate *= drop_factor
            if new_optimizer_at_drops:
                optimizer = new_sgd(network, learning_rate, weight_decay, decay_norm_and_bias)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
        for images, labels in batches:
            terms = loss_terms(network(images), labels, epsilon)
            loss = total_loss(terms, pairs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield {k: v.item() for k, v in ({"loss": loss} | terms).items()}, optimizer


def new_sgd(
    network: nn.Module, learning_rate: float, weight_decay: float, decay_norm_and_bias: bool
) -> torch.optim.SGD:
    """SGD with momentum 0.9 and coupled weight decay, of all parameters as released or the kernels alone."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": weight_decay if decay_norm_and_bias else 0.0},
    ]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)


def momentum_of(network: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """The momentum buffers by released name."""
    return {name: optimizer.state[p]["momentum_buffer"] for name, p in network.named_parameters()}


def released_name(name: str) -> str:
    """The released name of an array of dks_jax, e.g. ep1_bn.weight of branches.0.head.bn.scale."""
    branch = 0
    if match := re.fullmatch(r"branches\.(\d)\.(.*)", name):
        branch, name = int(match[1]) + 1, match[2]
    prefix = f"ep{branch}_" if branch else ""
    # The groups of a branch are numbered on from the backbone group after which it forks: i - 1 for branch i.
    name = re.sub(r"stages\.(\d)\.blocks\.(\d+)", lambda m: f"group{int(m[1]) + branch}.block{m[2]}", name)
    name = prefix + name.removeprefix("head.").replace("stem.", "conv0.")
    module, array = name.rsplit(".", 1)
    is_convolution = array == "kernel" and not module.endswith("fc")
    return module if is_convolution else f"{module}.{ARRAYS[array]}"


def dks_jax_name(name: str) -> str:
    """The inverse of `released_name`."""
    branch, name = re.fullmatch(r"(?:ep(\d)_)?(.*)", name).groups(default="0")
    module, array = name, "kernel"
    if name.endswith(tuple(ARRAYS.values())):
        module, array = name.rsplit(".", 1)
        of_norm = {theirs: ours for ours, theirs in ARRAYS.items() if ours != "kernel"}
        array = "kernel" if name == "fc.weight" else of_norm[array]
    module = re.sub(
        r"group(\d)\.block(\d+)", lambda m: f"stages.{int(m[1]) - int(branch)}.blocks.{m[2]}", module
    )
    if not module.startswith("stages"):
        module = "stem" if module == "conv0" else f"head.{module}"
    place = f"branches.{int(branch) - 1}." if int(branch) else ""
    return f"{place}{module}.{array}"


def to_released(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of dks_jax by released name and in PyTorch's layout."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    return {released_name(k): np.transpose(v, axes[v.ndim]) for k, v in arrays.items()}


def from_released(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `to_released`."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    return {dks_jax_name(k): np.transpose(v, axes[v.ndim]) for k, v in arrays.items()}
