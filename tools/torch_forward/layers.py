"""Layers by the names of their tensors, and the types that all families share."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

Tensors: TypeAlias = Mapping[str, Tensor]
# From features, the tensors and the name of a layer to its output.
Norm: TypeAlias = Callable[[Tensor, Tensors, str], Tensor]


def batch_norm(x: Tensor, tensors: Tensors, name: str, *, training: bool) -> Tensor:
    """Batch normalisation, by the statistics of the batch in training, which updates the running ones."""
    mean, var = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, tensors[f"{name}.weight"], tensors[f"{name}.bias"], training)


def linear(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    """Global average pool and linear layer, from features [batch, channel, height, width] to logits."""
    return F.linear(x.mean(dim=(2, 3)), tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def blocks(tensors: Tensors, prefix: str) -> list[str]:
    """The names of the blocks that start with a prefix and go on with their number."""
    count = len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})
    return [f"{prefix}{i}" for i in range(count)]
